"""Python imports this when it starts, in each process of RQ's tests.

RQ's tests connect to port 6379 and empty databases there. So that they never reach a server that
happens to run on this machine, every connection to that port goes to the suite's own server.
"""

from __future__ import annotations

import os
import socket
from typing import Any

_connect = socket.socket.connect
_port = int(os.environ["RQ_SUITE_PORT"])


def _redirected(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address[1] == 6379:
        address = ("127.0.0.1", _port)
    _connect(self, address)


socket.socket.connect = _redirected  # type: ignore[method-assign, assignment]
