"""A report that watches whether it is alone in its shop. Workers load it by RQ_CLOCK_SETUP."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

from redis import Redis
from sqlalchemy.orm import Session

from tasks.reports import preload
from tasks.reports.rendering import KINDS, Period, Rows


def install() -> None:
    """Import what the jobs need, and add the type "probe"."""
    preload()
    KINDS["probe"] = alone


def alone(db: Session, shop: str, period: Period) -> Rows:
    """Note that this process builds a report of the shop, and complain if another one does."""
    me = os.getpid()
    with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        here: Any = redis.set(f"running:{shop}", me, nx=True)
        other: Any = redis.get(f"running:{shop}")
        if not here and other and lives(int(other)):  # a killed one has left its note
            redis.rpush("violations", f"{shop}: {me} beside {int(other)}")
        redis.set(f"running:{shop}", me)
        threading.Event().wait(0.005)
        redis.delete(f"running:{shop}")
    return ("Process",), [(str(me),)], []


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
