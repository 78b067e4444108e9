"""A receiver that is called at an interval: at the end of its work it enqueues itself again.

    PORT=9002 RQ_CLOCK_URL=http://127.0.0.1:8000 RQ_CLOCK_TOKEN=… python every_interval.py

The work must end within the timeout of the call (http_callback_timeout_ms). The next task is made
only when the work is done, so two of them never overlap. If the work fails, the answer is 500, and
rq-clock calls the same task again: the chain breaks only when the task gets stale.

A schedule does the same without a chain: `rq-clock add feeds --every 1m --url URL`.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

INTERVAL = timedelta(seconds=float(os.environ.get("INTERVAL", "60")))


def work(task: dict[str, Any]) -> None:
    print(f"refreshed the feeds for {task['executeAt']}", flush=True)


def enqueue_next(task: dict[str, Any], url: str) -> None:
    """Enqueue the next call. The key is made of this task's id: however often this task is called,
    it has one successor. So the request has to be the same each time: the instant is counted from
    this task's, not from now."""
    at = datetime.fromisoformat(task["executeAt"]) + INTERVAL
    body = {
        "webhookUrl": url,
        "webhookAuth": os.environ.get("AUTH", ""),
        "executeAt": at.isoformat(),
    }
    request = Request(
        f"{os.environ['RQ_CLOCK_URL']}/api/v1/tasks",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {os.environ['RQ_CLOCK_TOKEN']}",
            "Content-Type": "application/json",
            "Idempotency-Key": f"after-{task['id']}",
        },
    )
    urlopen(request, timeout=10).close()


class Jobs(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            work(task)
            enqueue_next(task, f"http://{self.headers['Host']}{self.path}")
            status = 200
        except Exception as error:  # an answer, and so a retry, rather than a broken connection
            print(f"failed: {error}", flush=True)
            status = 500
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Jobs).serve_forever()
