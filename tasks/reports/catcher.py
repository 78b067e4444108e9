"""A mail server for development: `python -m tasks.reports.catcher`.

It takes every mail, prints one line for it, and keeps it in .data/mail. Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from contextlib import suppress
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiosmtpd.smtp import SMTP

from tasks.reports.settings import DATA, DEVELOPMENT_SMTP


class Keeper:
    """Keeps each mail as a file that mail programs open."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(0o700, parents=True, exist_ok=True)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail under its Message-ID: the same mail again replaces it."""
        content: bytes = envelope.content
        mail = message_from_bytes(content, policy=policy.default)
        name = re.sub(r"[^A-Za-z0-9.-]", "_", str(mail["Message-ID"] or "mail").strip("<>"))[:100]
        path = self._directory / f"{name}.eml"
        path.write_bytes(content)
        to = ",".join(envelope.rcpt_tos)
        print(f"mail to {to}: {str(mail['Subject'])!r}, kept in {path}", flush=True)
        return "250 kept"


async def serve(host: str, port: int, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    keeper = Keeper(directory)
    try:
        server = await loop.create_server(
            lambda: SMTP(keeper, hostname="localhost", enable_SMTPUTF8=True, loop=loop), host, port
        )
    except OSError as error:
        # The other processes of a laptop go on; honcho would end them all with this one.
        print(f"mail: cannot listen on {host}:{port} ({error.strerror}); waiting", flush=True)
        await stopped.wait()
        return
    print(f"mail: listening on smtp://{host}:{port}, keeping in {directory}", flush=True)
    async with server:
        await stopped.wait()


def main() -> None:
    """Serve at the address given, or at the one that the reports use by default."""
    url = urlsplit(sys.argv[1] if len(sys.argv) > 1 else DEVELOPMENT_SMTP)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(url.hostname or "127.0.0.1", url.port or 1025, DATA / "mail"))


if __name__ == "__main__":
    main()
