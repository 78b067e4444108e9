"""Repairs of what Redis has lost or holds wrong: the due index, markers, markers of another time.

The due index is derived: by definition and marker it is corrected anywhere, any time. A schedule
without a marker is restored, from the newest fire time in its ledger or else from now on. A
marker more than WAIT ahead of the time was written when that was wrong: it is set to now, and an
entry `time` of the ledger names the fire times that will be decided once more.

lua/repair.lua compares each schedule with the state that the repair is based on, so repairs may run
beside the clock, twice, or by halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rq_clock.errors import LeaseLost, ScheduleError
from rq_clock.model.decision import skip_between
from rq_clock.model.entry import Entry
from rq_clock.model.ledger import decided_until, ledger_entry
from rq_clock.model.schedule import from_definition
from rq_clock.store.scripts import load_script, text
from rq_clock.store.store import Store, skip_line
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import Once

WAIT = timedelta(hours=3)
"""How far a marker may lie ahead of the time and simply wait: Debian cron's limit for a clock that
was set back."""
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Repair:
    """What was wrong about a schedule: index, marker or time; stray for an entry of the index
    without a schedule. `was` and `next` are fire times, before and after."""

    name: str
    kind: str
    was: datetime | None
    next: datetime | None


class Repairs:
    """The repairs of one namespace. Methods raise redis-py's RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._script = load_script(store.redis, "repair")

    def page(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Return the names of about `count` schedules, and the cursor to go on from; 0 at the
        end."""
        found: Any = self._store.redis.hscan(self._store.key("definitions"), cursor, count=count)
        return int(found[0]), [text(name) for name in found[1]]

    def repair(self, names: Sequence[str], now: datetime, token: str = "") -> list[Repair]:
        """Repair these schedules. Return what was wrong. Raises LeaseLost when the lease with the
        fencing token is gone; without a token it is an operator's order."""
        entries, _ = self._store.load(names)
        lost = [name for name in names if name in entries and entries[name].lost]
        entries |= self._restored(lost, entries, now)
        repairs, words = [], []
        for name in names:
            for repair, own in self._look_at(name, entries.get(name), now):
                repairs.append(repair)
                words += own
        done = self._run(token, "", words) if words else []
        return [repair for repair in repairs if repair.name in done]

    def note_zone_data(self, version: str, token: str) -> None:
        """Record that all schedules have been repaired by this zone data. Raises LeaseLost."""
        self._run(token, version, [])

    def zone_data(self) -> str:
        """Return the version of the zone data that was noted last; empty if none was."""
        return text(self._store.redis.hget(self._store.key("meta"), "tzdata") or "")

    def _run(self, token: str, zone_data: str, words: list[Any]) -> list[str]:
        head = [token, self._store.history, zone_data]
        done = [text(n) for n in self._script(self._store.keys("due", "lease"), [*head, *words])]
        if done == ["lost lease"]:
            raise LeaseLost
        return done

    def _look_at(
        self, name: str, entry: Entry | None, now: datetime
    ) -> list[tuple[Repair, list[Any]]]:
        """Return what is wrong about a schedule, if anything, and its words for the script."""
        if entry is None:
            return [(Repair(name, "stray", None, None), [name, "", "", "", "", ""])]
        if entry.schedule is None:
            return []
        kind, right, line = "index", entry, ""
        if entry.lost:
            kind = "marker"
        elif entry.decided > now + WAIT:
            kind, right, line = "time", *_set_back(entry, now)
        elif entry.expected_fire() == entry.next_fire or entry.held(now):
            return []
        fire = right.expected_fire()
        base = "lost" if entry.lost else entry.base
        words = [name, base, entry.revision, to_ms(fire) if fire else ""]
        words += ["" if kind == "index" else right.base, line]
        return [(Repair(name, kind, entry.next_fire, fire), words)]

    def _restored(
        self, names: Sequence[str], entries: dict[str, Entry], now: datetime
    ) -> dict[str, Entry]:
        """Return the entries that schedules without a marker are to have."""
        if not names:
            return {}
        pipe = self._store.redis.pipeline(transaction=False)
        for name in names:
            pipe.lindex(self._store.key(f"ledger:{name}"), -1)
        lines: list[Any] = pipe.execute(raise_on_error=False)
        found: dict[str, Entry] = {}
        definitions = self._store.definitions(names)
        for name, definition, line in zip(names, definitions, lines, strict=True):
            try:
                schedule = from_definition(name, definition or "")
            except ScheduleError:
                continue  # it stays invalid, for that
            marker, since = _recorded(line), now
            if marker and marker > now + WAIT:
                marker = None
            elif isinstance(schedule.trigger, Once) and not entries[name].declared:
                since = min(now, schedule.trigger.at - _MS)  # else it would have been removed
            found[name] = replace(
                entries[name], schedule=schedule, marker=marker, known_since=marker or since
            )
        return found


def _recorded(line: Any) -> datetime | None:
    """Return the fire time up to which all is decided by the last line of a ledger; None where it
    says nothing, or cannot be read."""
    try:
        return decided_until(ledger_entry(text(line))) if isinstance(line, bytes) else None
    except (ValueError, KeyError, IndexError):
        return None


def _set_back(entry: Entry, now: datetime) -> tuple[Entry, str]:
    """Return the entry as decided until now, and a line for its ledger."""
    assert entry.schedule
    marker = min(entry.marker, now) if entry.marker else None
    right = replace(entry, marker=marker, known_since=min(entry.known_since, now))
    skip = skip_between(entry.schedule, "time", now, entry.decided)
    return right, skip_line(skip and replace(skip, last=entry.decided))
