"""A receiver that takes tasks over: it answers at once and works afterwards.

    PORT=9001 python take_over.py

The answer 202 ends the task: rq-clock never calls it again. If this process dies while it works,
the work is lost, unless it keeps its own record of what is under way.
"""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

received: set[str] = set()
"""Ids of tasks. A service keeps them in its database, with the id as a unique key."""
guard = threading.Lock()


def something_lengthy(order: str) -> None:
    print(f"worked on {order}", flush=True)


class Jobs(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with guard:  # a task may be called twice: its id stays the same
            first = task["id"] not in received
            received.add(task["id"])
        if first:
            order = self.path.rpartition("/")[2]
            threading.Thread(target=something_lengthy, args=(order,)).start()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Jobs).serve_forever()
