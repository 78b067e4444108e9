"""Whether the hosts of new tasks may be called: checked when a task is added, and again by each
call (outbound/), since a name server may change its answer.

A name that cannot be looked up within LOOKUP_SECONDS is accepted here; the call checks it.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from rq_clock.errors import Fault
from rq_clock.outbound.addresses import Allowed, refusal

LOOKUP_SECONDS = 2.0
LOOKUPS = 32
"""Names that are looked up at a time."""
Host = tuple[str, int]


def host_of(url: str) -> Host | None:
    """Return host and port of a URL; None where there is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def host_faults(urls: Sequence[str], allowed: tuple[Allowed, ...]) -> Iterator[tuple[int, Fault]]:
    """Yield a fault, with its place, for each URL whose host must not be called."""
    hosts = [host_of(url) for url in urls]
    refused = _refusals({host for host in hosts if host}, allowed)
    for place, host in enumerate(hosts):
        if host and refused.get(host):
            yield place, Fault("webhookUrl", f"expected a public address: {refused[host]}")


def _refusals(hosts: set[Host], allowed: tuple[Allowed, ...]) -> Mapping[Host, str]:
    """Return why hosts must not be called, for those found in time."""
    waiting: queue.SimpleQueue[Host] = queue.SimpleQueue()
    found: queue.SimpleQueue[tuple[Host, str]] = queue.SimpleQueue()
    deadline = time.monotonic() + LOOKUP_SECONDS
    for host in sorted(hosts):
        waiting.put(host)

    def look_up() -> None:
        while time.monotonic() < deadline:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            found.put((host, _refusal(host, allowed)))

    for _ in range(min(len(hosts), LOOKUPS)):  # daemons: a lookup cannot be stopped
        threading.Thread(target=look_up, name="rq-clock-lookup", daemon=True).start()
    refused = {}
    for _ in hosts:
        try:
            host, reason = found.get(timeout=max(deadline - time.monotonic(), 0.001))
        except queue.Empty:
            break
        refused[host] = reason
    return refused


def _refusal(host: Host, allowed: tuple[Allowed, ...]) -> str:
    name, port = host
    try:
        answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        reasons = (refusal(name, port, str(address[0]), allowed) for *_, address in answers)
        return next(filter(None, reasons), "")
    except (OSError, ValueError):  # no such name, or none that can be encoded: the call says so
        return ""
