"""Test an app's schedules without waiting: a fake clock that runs due schedules.

    from rq_clock.testing import FakeClock

    def test_the_report_survives_the_spring_change():
        fake = FakeClock(clock, "2026-03-28T12:00Z")
        runs = fake.advance("2026-03-30T00:00Z")
        assert [r.fire_time.isoformat() for r in runs if r.schedule == "nightly-report"] == [...]

Tasks run in this process, in order of their fire times, with `current_run()` set; their errors
propagate. There is no Redis, worker or queue, so overlap and retries have no effect. `catch_up`
works: see `advance(..., outage=True)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import datetime, timedelta

from rq_clock.clock.clock import Clock
from rq_clock.model.decision import due, is_on_time
from rq_clock.model.schedule import Schedule
from rq_clock.run import Run, running
from rq_clock.timing.instants import read_instant


class FakeClock:
    """Runs the schedules of `clock` in a time that starts at `start`; `advance` moves it.

    `start` is an aware datetime or ISO 8601 text with an offset.
    """

    def __init__(self, clock: Clock, start: datetime | str, *, run_tasks: bool = True) -> None:
        self.now = read_instant(start)
        self._run_tasks = run_tasks
        self._schedules = list(clock.declared.values())
        self._markers = {s.name: self.now for s in self._schedules}

    def advance(self, until: datetime | str | timedelta, *, outage: bool = False) -> list[Run]:
        """Move to an instant, or by a timedelta, and run due schedules. Return the runs, in order.

        With `outage` no schedule runs before `until`; then each one catches up. A fire time never
        runs twice, even if `until` lies in the past.
        """
        end = self.now + until if isinstance(until, timedelta) else read_instant(until)
        runs: list[tuple[Run, Schedule]] = []
        for schedule in self._schedules:
            runs += self._pass(schedule, end, outage=outage)
        runs.sort(key=lambda pair: pair[0].fire_time)
        for run, schedule in runs:
            self.now = max(self.now, run.fire_time)
            if self._run_tasks:
                call = schedule.call()
                with running(run):
                    _resolve(call["func"])(*call.get("args", ()), **call["kwargs"])
        self.now = end
        return [run for run, _ in runs]

    def _pass(
        self, schedule: Schedule, end: datetime, *, outage: bool
    ) -> list[tuple[Run, Schedule]]:
        runs = []
        following = schedule.next_after(self._markers[schedule.name])
        while following is not None and following <= end:
            now = end if outage else following
            decision = due(schedule, self._markers[schedule.name], now)
            self._markers[schedule.name], following = decision.marker, decision.next
            for fire_time in decision.fire_times:
                reason = "schedule" if is_on_time(fire_time, now) else "catch_up"
                runs.append((Run(schedule.name, fire_time, reason), schedule))
        return runs


def _resolve(target: str) -> Callable[..., object]:
    module, _, function = target.rpartition(".")
    found: Callable[..., object] = getattr(importlib.import_module(module), function)
    return found
