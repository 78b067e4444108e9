"""Callbacks end to end: tasks in Redis, a clock, a worker, and a server that is called.

    steady         calls in a minute against 60,000 / base x size, 20,000 due at once
    after_answers  the gap between batches against base + the measured answer time of the batch
    off            calls a second of one worker, and how late the last percent is
    slow host      how late others are while one host takes 30 s a call, against without it
    idle           what the clock sends while nothing is due

The figures come from the receiver's own log, the answer times from the stored attempts. The
receiver takes 100 ms.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.lab import Lab, Row
from rq_clock.callbacks import NewTask
from tests.callbacks import lab as callbacks_lab
from tests.callbacks.receiver import Call

BASE_MS, SIZE = 1000, 100
TASKS = 20_000
COLUMN = "rq-clock"
WARM_UP = 3.0
"""Seconds of calls before those that are judged: a worker imports what calls tasks only once."""
GAP = 0.4
"""Seconds without a call that separate two batches."""


def callbacks(lab: Lab) -> list[Row]:
    """Return the figures of callbacks."""
    return [*_steady(lab), *_after_answers(lab), *_off(lab), *_slow_host(lab), *_idle(lab)]


MEASURES = {"callbacks": callbacks}


@contextmanager
def _lab(lab: Lab, workers: int = 1) -> Iterator[callbacks_lab.Lab]:
    path = Path(tempfile.mkdtemp(prefix="bench-callbacks-"))
    with callbacks_lab.Lab(path, workers=workers, binary=lab.binary, appendonly="no") as parts:
        yield parts


def _row(what: str, unit: str, value: float | None, **aims: float) -> Row:
    return Row(what=f"callbacks: {what}", unit=unit, figures={COLUMN: value}, **aims)  # type: ignore[arg-type]


def _due(parts: callbacks_lab.Lab, count: int, path: str = "/100", **options: object) -> None:
    """Add tasks that are due together soon, once all are there."""
    at = parts.callbacks.status().now + timedelta(seconds=3 + count / 2000)
    parts.add(count, path, execute_at=at, **options)


def _steady(lab: Lab) -> list[Row]:
    seconds = 20 if lab.quick else 60
    with _lab(lab) as parts:
        parts.callbacks.configure({"mode": "steady", "baseIntervalMs": BASE_MS, "selectSize": SIZE})
        _due(parts, TASKS)
        parts.receiver.wait_for(seconds * 110)
        calls = parts.receiver.calls()
    begin = calls[0].at + 1  # behind the first burst
    count = sum(begin <= call.at < begin + seconds for call in calls)
    expected = seconds * 1000 / BASE_MS * SIZE
    off = abs(count - expected) / expected * 100
    return [
        _row(f"steady, calls in {seconds} s of {expected:,.0f}", "", count),
        _row("steady, off the rate", "%", off, aim=2),
    ]


def _batches(calls: Sequence[Call]) -> list[list[Call]]:
    batches = [[calls[0]]]
    for before, call in pairwise(calls):
        if call.at - before.at > GAP:
            batches.append([])
        batches[-1].append(call)
    return batches


def _after_answers(lab: Lab) -> list[Row]:
    with _lab(lab) as parts:
        configuration = {"mode": "after_answers", "baseIntervalMs": BASE_MS, "selectSize": SIZE}
        parts.callbacks.configure({**configuration, "keepDone": TASKS})
        _due(parts, TASKS // 10 if lab.quick else TASKS // 4)
        parts.receiver.wait_for(10 * SIZE)
        time.sleep(0 if lab.quick else 30)
        batches = _batches(parts.receiver.calls())[1:-1]
        times = [_times(parts, batch) for batch in batches]
    gaps = [
        (following[0] - began) / (BASE_MS / 1000 + ended - began)
        for (began, ended), following in pairwise(times)
    ]
    off = median(abs(gap - 1) * 100 for gap in gaps)
    answer = median(ended - began for began, ended in times) * 1000
    return [
        _row("after_answers, calls of a batch", "", max(map(len, batches)), aim=SIZE),
        _row("after_answers, answer time of a batch", "ms", answer),
        _row(f"after_answers, gap off base + answers, median of {len(gaps)}", "%", off, aim=2),
    ]


def _times(parts: callbacks_lab.Lab, batch: Sequence[Call]) -> tuple[float, float]:
    """Return when the first call of a batch began and when the last answer was in, as stored."""
    attempts = [parts.callbacks.get(call.id).attempts[-1] for call in batch]
    ended = [attempt.ended.timestamp() for attempt in attempts]
    began = [end - (one.seconds or 0) for end, one in zip(ended, attempts, strict=True)]
    return min(began), max(ended)


def _off(lab: Lab) -> list[Row]:
    count = 4000 if lab.quick else TASKS
    with _lab(lab) as parts:
        parts.callbacks.configure({"mode": "off"})
        at = parts.callbacks.status().now + timedelta(seconds=3 + count / 2000)
        parts.add(count, "/100", execute_at=at)
        parts.receiver.wait_for(count)
        calls = parts.receiver.calls()
    late = sorted(call.at - at.timestamp() for call in calls)
    rate = count / (calls[-1].at - calls[0].at)
    return [
        _row(f"off, {count:,} due at once", "calls/s", rate, least=800, more=True),
        _row("off, first call late", "ms", late[0] * 1000),
        _row("off, p99 late", "s", late[int(len(late) * 0.99)]),
    ]


def _slow_host(lab: Lab) -> list[Row]:
    found = {slow: _lateness(lab, slow) for slow in (False, True)}
    ratio = found[True] / found[False]
    return [
        _row("p99 late without a slow host", "ms", found[False]),
        _row("p99 late beside a host of 30 s", "ms", found[True]),
        _row("of that without", "x", ratio, aim=1.1),
    ]


def _lateness(lab: Lab, slow: bool) -> float:
    """Return how late (ms) 99 % of calls begin that come at half of the rate for a minute, perhaps
    beside a host that is slower than it is called."""
    seconds, step = (20 if lab.quick else 60), 0.1
    with _lab(lab, workers=2) as parts:
        parts.callbacks.configure({
            "mode": "steady", "baseIntervalMs": BASE_MS, "selectSize": SIZE,
            "hostConcurrency": 20, "httpCallbackTimeoutMs": 40_000,
        })  # fmt: skip
        start = parts.callbacks.status().now + timedelta(seconds=5)
        if slow:
            other = NewTask(
                url=parts.receiver.url.replace("127.0.0.1", "127.0.0.2") + "/30000", auth="s3cret",
                execute_at=start,
            )  # fmt: skip
            parts.callbacks.enqueue_many([other] * 1000)
        dues = {}
        for number in range(int((WARM_UP + seconds) / step)):
            at = start + timedelta(seconds=number * step)
            ids = parts.add(5, "/100", execute_at=at)
            if number * step >= WARM_UP:
                dues.update(dict.fromkeys(ids, at.timestamp()))
        while dues.keys() - {call.id for call in parts.receiver.calls()}:
            time.sleep(1)
        calls = [call for call in parts.receiver.calls() if call.id in dues]
    late = sorted(call.at - dues[call.id] for call in calls)
    return late[int(len(late) * 0.99)] * 1000


def _idle(lab: Lab) -> list[Row]:
    with _lab(lab) as parts:
        tomorrow = parts.callbacks.status().now + timedelta(days=1)
        parts.add(1000, "/100", execute_at=tomorrow)
        time.sleep(5)
        sent: list[str] = []
        with parts.redis.monitor() as monitor:
            until = time.monotonic() + (10 if lab.quick else 30)
            while time.monotonic() < until:
                sent.append(monitor.next_command()["command"])
        jobs = parts.redis.llen("rq:queue:callbacks") + parts.redis.keys("rq:job:*").__len__()
    about = sum("task" in command for command in sent)
    return [
        _row("nothing due: commands about tasks", "", about, aim=0),
        _row("nothing due: jobs", "", jobs, aim=0),
    ]
