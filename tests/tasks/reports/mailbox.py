"""A mail server of the tests' own: aiosmtpd in a thread, which can misbehave."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from typing import Any

from aiosmtpd.smtp import SMTP


class Mailbox:
    """The mails that came (`kept`, and read by `mails`), and what the server does with the next.

    `mood` is "well", "refuse" (after the whole mail), "silent" (takes the mail, and hangs up
    without an answer), or "closed" (refuses at once). `refused` are recipients that it does not
    know.
    """

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.mood = "well"
        self.refused: set[str] = set()
        self.together: list[str] = []
        """Shops that had two mails handed over at the same time."""
        self.during: Callable[[], object] = str
        """Called while a mail is taken."""
        self.url = ""
        self._open: dict[str, int] = {}

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.mood == "closed":
            return "451 come back later"
        envelope.mail_from = address
        return "250 fine"

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        shop = header(envelope.content, "Subject").rpartition(" of ")[2]
        self._open[shop] = self._open.get(shop, 0) + 1
        if self._open[shop] > 1:
            self.together.append(shop)
        await asyncio.to_thread(self.during)  # another session has its turn meanwhile
        self._open[shop] -= 1
        if self.mood == "refuse":
            return "554 it looks like spam"
        self.kept.append(envelope.content)
        if self.mood == "silent":
            server.transport.close()
        return "250 kept"

    def mails(self) -> list[EmailMessage]:
        """The mails, in the order of their coming."""
        return [message_from_bytes(kept, policy=policy.default) for kept in self.kept]

    # Methods: aiosmtpd looks at every attribute of its handler for each connection.
    def ids(self) -> list[str]:
        """Their Message-IDs, in the order of their coming."""
        return [header(kept, "Message-ID") for kept in self.kept]


def header(mail: bytes, name: str) -> str:
    """Return a short header of a mail."""
    found = re.search(rf"^{name}: (.*)\r?$".encode(), mail, re.MULTILINE)
    assert found, mail[:500]
    return found[1].decode().strip()


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """Serve a mailbox on a free port, in a thread."""
    box, loop = Mailbox(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> asyncio.Server:
        server = partial(SMTP, box, hostname="localhost", loop=loop)
        return await loop.create_server(server, "127.0.0.1", 0)

    async def end(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    box.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield box
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
