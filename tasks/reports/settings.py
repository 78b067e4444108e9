"""The settings of the reports, from the environment. They are read when they are used, so that a
worker's jobs see the ones of their process; no secret is kept or logged."""

from __future__ import annotations

import os
import threading
from pathlib import Path

DATA = Path(".data")
"""Where a laptop keeps its database, its key and its mails."""
DEVELOPMENT_SMTP = "smtp://127.0.0.1:1025"
"""Where catcher.py listens."""


class SettingError(Exception):
    """A setting is missing or wrong."""


def database_url() -> str:
    """Return the URL of the database for SQLAlchemy."""
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        DATA.mkdir(0o700, parents=True, exist_ok=True)
        return f"sqlite:///{DATA / 'reports.db'}"
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        return f"postgresql+psycopg{separator}{rest}"
    return url


def secrets() -> list[str]:
    """Return the secrets that access tokens are encrypted with, the newest first.

    Without REPORTS_SECRET a laptop makes one and keeps it in a private file beside its SQLite
    database. Raises SettingError where DATABASE_URL is set: the processes of a deployment share no
    file, so each would make another secret.
    """
    found = [part.strip() for part in os.environ.get("REPORTS_SECRET", "").split(",")]
    if found := [part for part in found if part]:
        if short := [part for part in found if len(part) < 16]:
            raise SettingError(
                f"REPORTS_SECRET: expected secrets of at least 16 characters, got one of "
                f"{len(short[0])}; `openssl rand -hex 32` makes a good one"
            )
        return found
    if os.environ.get("DATABASE_URL"):
        raise SettingError(
            "expected REPORTS_SECRET to hold a secret, got nothing; set it to the output of "
            "`openssl rand -hex 32`, the same for all processes"
        )
    return [_development_secret(DATA / "reports-secret")]


def _development_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
    # Written whole before it has its name: two processes or threads may both begin with it.
    own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(os.urandom(32).hex())
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    finally:
        own.unlink()
    return path.read_text().strip()


def smtp_url() -> str:
    """Return the URL of the mail server. Raises SettingError on a platform that has none set."""
    url = os.environ.get("SMTP_URL", "")
    if not url and "DYNO" in os.environ:
        raise SettingError(
            "expected SMTP_URL to name a mail server, got nothing; set it to "
            "smtp://USER:PASSWORD@HOST:587"
        )
    return url or DEVELOPMENT_SMTP


def sender() -> str:
    """Return the address that mails come from."""
    return os.environ.get("MAIL_FROM") or "Reports <reports@localhost>"


def on_demand() -> bool:
    """Return whether the next check is arranged for when a report is due, rather than made every
    few minutes."""
    return os.environ.get("REPORTS_ON_DEMAND") == "1"
