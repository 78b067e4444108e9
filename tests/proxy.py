"""A bad network: a TCP proxy that cuts, swallows and delays, by a seeded chance."""

from __future__ import annotations

import math
import random
import select
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

KINDS = ("request", "late", "reply", "deaf")
"""What befalls a connection when its grace of bytes is used up:

request  the rest of a request is not passed on, and the connection is cut
late     the connection is cut, and the request reaches the server only some time later
reply    the rest of a reply is not passed on, and the connection is cut
deaf     the reply is swallowed, for a while nothing comes back, then the connection is cut
"""


class Proxy:
    """Listens on a port of its own and passes bytes on to the server at `url`, more or less.

    Without a `chance` it is calm. Each part of a reply comes `delay` seconds late, more or less by
    up to `jitter`.
    """

    def __init__(
        self, url: str, chance: random.Random | None = None, *, delay: float = 0, jitter: float = 0
    ) -> None:
        self.lead_to(url)
        self.chance = chance or random.Random(0)
        self.delay, self.jitter = delay, jitter
        self.faults: Counter[str] = Counter()
        self.calm = chance is None
        """Whether new connections are spared. Those that exist meet their fate."""
        self._links: list[_Link] = []
        self.done = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self._threads:  # the first one ends before it could add another
            thread.join()
        self._listener.close()

    def lead_to(self, url: str) -> None:
        """Pass new connections on to another server."""
        parts = urlsplit(url)
        self.target = (parts.hostname or "", parts.port or 0)

    def strike(self, within: int = 3000) -> None:
        """Let every connection that exists meet its fate within so many bytes, rather sooner."""
        for link in self._links:
            link.doom(within ** self.chance.random())

    def reply_delay(self) -> float:
        """Return how late the next part of a reply is."""
        return self.delay + self.chance.uniform(-self.jitter, self.jitter)

    def forget(self) -> None:
        """Pass nothing on any more of every connection that exists, and tell nobody."""
        for link in self._links:
            link.forgotten = True

    def _accept(self) -> None:
        while not self.done.is_set():
            if select.select([self._listener], [], [], 0.1)[0]:
                link = _Link(self, self._listener.accept()[0])
                self._links.append(link)
                self._threads.append(threading.Thread(target=link.carry))
                self._threads[-1].start()


class _Link:
    """One connection and its fate."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        chance = proxy.chance
        self._proxy = proxy
        self._client = client
        self._kind = chance.choice(KINDS)
        self._grace = math.inf
        self.forgotten = False
        if not proxy.calm and chance.random() < 0.4:
            self.doom(10 ** chance.uniform(1.5, 4.5))
        self._delay = 0 if proxy.calm else chance.choice([0, 0, chance.uniform(0.001, 0.1)])
        self._deaf_for = chance.uniform(0.01, 0.5)
        self._late_by = chance.uniform(0.01, 2)

    def doom(self, grace: float) -> None:
        """From now on it has so many bytes to live."""
        self._grace = min(self._grace, grace)

    def carry(self) -> None:
        with self._client, suppress(OSError), socket.create_connection(self._proxy.target) as end:
            for each in (self._client, end):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pass_on(self._client, end)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while not self._proxy.done.is_set():
            if self.forgotten:
                self._proxy.done.wait()
            for source in select.select([client, server], [], [], 0.1)[0]:
                data = source.recv(65536)
                if self.forgotten:
                    break
                if delay := self._delay or (source is server and self._proxy.reply_delay()):
                    self._proxy.done.wait(delay)
                if not data or not self._spared(data, from_client=source is client):
                    self._end(data, client, server)
                    return
                (client if source is server else server).sendall(data)

    def _spared(self, data: bytes, *, from_client: bool) -> bool:
        if from_client == (self._kind in ("request", "late")):
            self._grace -= len(data)
        return self._grace >= 0

    def _end(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        """Cut it, in the middle of `data` that would have been passed on."""
        if not data:
            return
        self._proxy.faults[self._kind] += 1
        part = data[: int(len(data) + self._grace)]
        if self._kind == "request":
            server.sendall(part)
        elif self._kind == "late":
            while select.select([client], [], [], 0.02)[0] and (more := client.recv(65536)):
                data += more
            client.close()
            self._proxy.done.wait(self._late_by)
            server.sendall(data)
            self._proxy.done.wait(0.02)
        elif self._kind == "reply":
            client.sendall(part)
        else:
            self._proxy.done.wait(self._deaf_for)
            if select.select([client], [], [], 0)[0]:
                server.sendall(client.recv(65536))  # is carried out, and nobody hears of it
                self._proxy.done.wait(0.02)
