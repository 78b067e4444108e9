"""What tests of importers share.

Fire times are compared with cronsim, another implementation of Debian's rule, over a year or the
first LIMIT fire times.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cronsim import CronSim

from rq_clock.manifest.importers.result import Imported
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import Command
from rq_clock.timing.triggers import Cron
from rq_clock.timing.zones import zone

LIMIT, YEAR = 2_500, timedelta(days=365)
STARTS = datetime(2026, 3, 7, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)
"""Eight days from here, LIMIT fire times of a `*/5`, contain a change of clocks in New York."""
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Europe/London", "Africa/Casablanca"]
SHORTHANDS = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


def fire_times(schedule: Schedule, start: datetime) -> list[datetime]:
    """Return the schedule's fire times of a year from `start`, at most LIMIT."""
    found, t = list[datetime](), start
    while len(found) < LIMIT and (fire := schedule.next_after(t)) and fire <= start + YEAR:
        found.append(fire)
        t = fire
    return found


def cronsim_fire_times(trigger: Cron, start: datetime) -> list[datetime]:
    """Return the same by cronsim, each instant once.

    It loses times of wildcard rules where clocks jump by half an hour or at midnight: the tests use
    no such rule in those zones.
    """
    expression = SHORTHANDS.get(trigger.expression, trigger.expression)
    found = set[datetime]()
    for fire in CronSim(expression, start.astimezone(zone(trigger.tz).info)):
        if fire.astimezone(UTC) > start + YEAR or len(found) == LIMIT:
            break
        found.add(fire.astimezone(UTC))
    return sorted(found)


def assert_fires_as_cron(schedule: Schedule) -> int:
    """Return the number of fire times that were compared."""
    assert isinstance(schedule.trigger, Cron)
    compared = 0
    for start in STARTS if len(fire_times(schedule, STARTS[0])) == LIMIT else STARTS[:1]:
        expected = cronsim_fire_times(schedule.trigger, start)
        assert fire_times(schedule, start) == expected
        compared += len(expected)
    return compared


def names(imported: Imported) -> list[str]:
    return [schedule.name for schedule in imported.schedules]


def target_of(imported: Imported) -> Command:
    [schedule] = imported.schedules
    assert isinstance(schedule.target, Command)
    return schedule.target


def job(**fields: Any) -> dict[str, Any]:
    return {"nickname": "x", "schedule": "0 0 * * *", "command": "bin/x", **fields}
