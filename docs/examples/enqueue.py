"""Have a URL called, as soon as possible or at an instant.

    export RQ_CLOCK_URL=http://127.0.0.1:8000 RQ_CLOCK_TOKEN=…
    python enqueue.py https://example.com/jobs/42 2026-03-01T09:00:00Z

It prints the id of the task.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.request import Request, urlopen


def enqueue(url: str, execute_at: str | None = None, **more: Any) -> str:
    """Return the id of the task; `more` are its other fields, such as payload or dedupKey."""
    request = Request(
        f"{os.environ['RQ_CLOCK_URL']}/api/v1/tasks",
        json.dumps({"webhookUrl": url, "executeAt": execute_at, **more}).encode(),
        {
            "Authorization": f"Bearer {os.environ['RQ_CLOCK_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["id"])


if __name__ == "__main__":
    print(enqueue(*sys.argv[1:3]))
