"""`python -m bench.callbacks`: what the tasks of callbacks cost Redis, by the server's own measure.

    memory    used_memory of a waiting task: an 80-character URL, a 60-character auth, no payload
    scripts   processor time of adding, claiming and finishing one task, and the longest script;
              among as many tasks that wait for later

Each has a private server (the embedded Valkey, or --server) without persistence.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from redis import Redis

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import CallResult, Dispatch
from tests.server import Server, free_url

AIM_BYTES = 600
AT_ONCE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.callbacks", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[[], "memory", "scripts"], default=[])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--server", help="path of another redis-server or valkey-server")
    options = parser.parse_args()
    for name in options.what or ("memory", "scripts"):
        with _server(options.server) as (redis, callbacks):
            print(f"{_version(redis)}: ", end="")
            {"memory": memory, "scripts": scripts}[name](redis, callbacks, options.tasks)


@contextmanager
def _server(binary: str | None) -> Iterator[tuple[Any, Callbacks]]:
    path = Path(tempfile.mkdtemp())
    with Server(path, free_url(), binary=binary, appendonly="no") as server:
        env = {"REDIS_URL": server.url, "RQ_CLOCK_CALLBACKS_KEY": "k" * 64}
        env["RQ_CLOCK_WEBHOOK_ALLOW"] = "127.0.0.0/8"
        with Redis.from_url(server.url) as redis:
            yield redis, Callbacks(redis, settings=Settings.from_env(env))


def memory(redis: Any, callbacks: Callbacks, tasks: int) -> None:
    """Print the bytes of a waiting task, among many."""
    add(callbacks, 1, timedelta(days=1))  # the scripts are loaded
    before = redis.info("memory")["used_memory"]
    add(callbacks, tasks, timedelta(days=1))
    used = (redis.info("memory")["used_memory"] - before) / tasks
    met = "" if used <= AIM_BYTES else "  MISSED"
    print(f"{used:.0f} bytes a waiting task of {tasks:,} (aim {AIM_BYTES}){met}")


def scripts(redis: Any, callbacks: Callbacks, tasks: int) -> None:
    """Print the server's time for one task of each script."""
    add(callbacks, tasks, timedelta(days=1))
    callbacks.configure({"mode": "off"})
    dispatch = Dispatch(Store(redis, "default"), "bench")
    dispatch.enter()
    redis.config_set("slowlog-log-slower-than", 0)
    redis.slowlog_reset()
    count = 10_000
    took = {"add": _cpu(redis, lambda: add(callbacks, count, None))}
    results: list[CallResult] = []

    def claim() -> None:
        for _ in range(count // 100):
            claimed = dispatch.claim(100).tasks
            results.extend(
                CallResult(id=t.id, attempt=t.attempt, result="ok", seconds=0.1) for t in claimed
            )

    took["claim"] = _cpu(redis, claim)
    assert len(results) == count
    took["finish"] = _cpu(redis, lambda: dispatch.finish(results))
    each = ", ".join(f"{name} {us / count:.1f} µs" for name, us in took.items())
    scripts = [entry for entry in redis.slowlog_get(10_000) if entry["command"][:4] == b"EVAL"]
    longest = max(entry["duration"] for entry in scripts) / 1000
    print(f"a task of {count:,} among {tasks:,}: {each}; longest script {longest:.1f} ms")


def _cpu(redis: Any, act: Any) -> float:
    """Return the server's microseconds of processor time while something is done."""
    before = redis.info("cpu")
    act()
    after = redis.info("cpu")
    took = (after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return float(sum(took)) * 1e6


def add(callbacks: Callbacks, count: int, after: timedelta | None) -> None:
    """Add tasks with URLs of 80 characters and auths of 60, of ten hosts."""
    at = None if after is None else _now(callbacks) + after
    for start in range(0, count, AT_ONCE):
        batch = [
            NewTask(
                url=f"https://127.0.0.{n % 10 + 1}/jobs/{n:09d}/".ljust(80, "x"),
                auth="Bearer ".ljust(60, "s"),
                execute_at=at,
            )
            for n in range(start, min(start + AT_ONCE, count))
        ]
        callbacks.enqueue_many(batch)


def _version(redis: Any) -> str:
    found = redis.info("server")
    name = "Valkey" if "valkey_version" in found else "Redis"
    return f"{name} {found.get('valkey_version', found['redis_version'])}"


def _now(callbacks: Callbacks) -> Any:
    return callbacks.status().now


if __name__ == "__main__":
    main()
