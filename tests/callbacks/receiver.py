"""A receiver of thousands of calls, in a process of its own: `python -m tests.callbacks.receiver`.

It prints its port, then a line for each call that it has answered, or would have:

    <seconds since the epoch at which the call was there> <status> <path> <body>

The path says how it answers: /<milliseconds>/<percent of tasks whose first attempt fails>/…, or
/never/… for a call that hangs, /drop/… for one that is cut off, /big/… for 50 MB, /bomb/… for the
same as gzip. As little as possible between a call and its line: it shares a machine with what it
judges.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.helpers import wait_until
from tests.process import LEASHED, ROOT

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id": "task_([0-9A-Z]+)", "attempt": (\d+)')
BIG = 50_000_000
_BOMB = gzip.compress(bytes(BIG // 50)) * 50
_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_FAILED = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Exchange(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self.data = b""
        kind, *words = head.split(b" ", 2)[1].decode().strip("/").split("/")
        status, delay, answer = 200, 0.0, _PLAIN
        if kind.isdecimal():
            delay = int(kind) / 1000
            match = _ID.search(body)
            first = match is not None and match[2] == b"1"
            if match and first and zlib.crc32(match[1]) % 100 < int(words[0] if words else 0):
                status, answer = 500, _FAILED
        elif kind == "never":
            status, delay = 0, 3600.0
        elif kind == "drop":
            status, answer = 0, b""
        elif kind == "big":
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG + bytes(1_000_000)
        elif kind == "bomb":
            answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + _BOMB
        line = f"{time.time():.6f} {status} /{kind}/{'/'.join(words)} ".encode()
        os.write(1, line + body.replace(b"\n", b" ") + b"\n")
        asyncio.get_running_loop().call_later(delay, self.respond, answer)

    def respond(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


@dataclass(frozen=True, slots=True)
class Call:
    """One call that has come: `at` in seconds since the epoch, `attempt` as its body says."""

    at: float
    status: int
    path: str
    id: str
    attempt: int


class ReceiverProcess:
    """The process, and its log; a context manager."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*LEASHED, sys.executable, "-m", "tests.callbacks.receiver"], stdout=log, cwd=ROOT
            )
        wait_until(lambda: b"\n" in self._log.read_bytes(), "the receiver's port")
        self.url = f"http://127.0.0.1:{int(self._log.read_text())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_for(self, calls: int, *, timeout: float = 600) -> None:
        """Wait until so many calls have come; look now and then, to leave the machine to them."""

        def there() -> bool:
            pause.wait(0.3)
            return self._log.read_bytes().count(b"\n") > calls

        pause = threading.Event()
        wait_until(there, f"{calls} calls", timeout=timeout)

    def calls(self) -> list[Call]:
        """Return all calls, in the order in which they came."""
        found = []
        for line in self._log.read_text().splitlines()[1:]:
            at, status, path, body = line.split(" ", 3)
            if body.endswith("}"):  # a last line may be half written
                call = json.loads(body)
                found.append(Call(float(at), int(status), path, call["id"], call["attempt"]))
        return found


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Exchange, "0.0.0.0", 0, backlog=4096)
    os.write(1, b"%d\n" % server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
