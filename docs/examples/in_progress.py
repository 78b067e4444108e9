"""A receiver that answers 500 while its work is in progress, and so is called again until the work
is done.

    PORT=9003 python in_progress.py

Each 500 is a retry, so the retries of the task and the delays between them (retry_delays) have to
last. A task whose work takes longer gets stale; a retry by hand calls it again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

states: dict[str, str] = {}
"""Id of a task → "in progress" or "done". A service keeps them in its database."""
guard = threading.Lock()


def something_lengthy(id: str) -> None:
    time.sleep(float(os.environ.get("WORK_SECONDS", "30")))
    states[id] = "done"


class Jobs(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with guard:  # a task may be called twice at the same time
            first = task["id"] not in states
            states.setdefault(task["id"], "in progress")
        if first:
            threading.Thread(target=something_lengthy, args=(task["id"],)).start()
        state = states[task["id"]]
        print(f"attempt {task['attempt']}: {state}", flush=True)
        self.send_response(200 if state == "done" else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Jobs).serve_forever()
