"""Changes of a namespace while the clock runs: edits of schedules and runs by hand.

Nothing here talks to the clock, and all of it works while no clock runs. Each change is one script
that names the state it is based on. The revision that it raises voids what the clock has prepared,
so a change and a fire time at the same instant happen one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.model.entry import Entry, Lease, Pause, SkipRequest, to_json
from rq_clock.store.audit import AUDIT, Actor, Audit, audit_words
from rq_clock.store.backfills import Backfills
from rq_clock.store.commit import Batch, CommitChannel, CommitRefusal
from rq_clock.store.counters import Counters
from rq_clock.store.job_commands import JobBuilder, command_words
from rq_clock.store.scripts import load_script, pairs, text
from rq_clock.store.store import KEEP_REMOVED_MS, Store
from rq_clock.timing.instants import iso, to_ms

BATCH_LIMIT = 5000
"""Schedules in one edit that is whole or nothing: about 50 ms of Redis's time."""


class Operations:
    """The changes of one namespace. Methods raise redis-py's RedisError when the server cannot be
    used; nothing is half-written then."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.redis = store.redis
        self.backfills = Backfills(store)
        self.audit = Audit(store)
        self._scripts = {name: load_script(store.redis, name) for name in ("edit", "trigger")}

    # ---- schedules ----------------------------------------------------------------------------

    def edit(
        self, edits: Sequence[Edit], now: datetime, verb: str = "", actor: Actor | None = None,
        **detail: Any,
    ) -> list[str]:  # fmt: skip
        """Apply all of these edits or none. Return the new revisions. With `actor` the audit gets
        an entry.

        Raises Conflict with every edit whose schedule is not as expected.
        """
        audited = audit_words(verb, [e.name for e in edits], actor, detail) if actor else []
        keys = self.store.keys("definitions")
        args = [to_ms(now), KEEP_REMOVED_MS, AUDIT, len(audited)]
        words = [word for edit in edits for word in edit.words()]
        actor = actor or Actor(by="")
        kind, *rest = actor.call(self._scripts["edit"], keys, [*args, *audited, *words])
        if kind == b"refused":
            conflicts = []
            for number, why in pairs(rest).items():
                reason, _, revision = text(why).partition(" ")  # a revision only of a stale one
                name = edits[int(number) - 1].name
                conflicts.append(Conflict(ConflictKind(reason), name, revision))
            raise Conflict.join(conflicts)
        return [text(revision) for revision in rest]

    def settle(self, name: str, now: datetime) -> Entry | None:
        """Decide what is due of a schedule until `now`, as the clock would, before a change that
        would lose it. Return the entry then; None when there is no such schedule."""
        channel, builder = CommitChannel(self.store), JobBuilder(self.store)
        while True:
            entries, everything = self.store.load([name])
            entry = entries.get(name)
            if entry is None or entry.schedule is None:
                return entry
            decision = entry.decide(now)
            if not decision.fire_times and not decision.skips:
                return entry
            batch = Batch(now, everything)
            batch.add(entry, decision, builder)
            batch.pack(self.store, Lease(""), channel)
            [result] = channel.commit([batch])
            if isinstance(result, CommitRefusal) and result.changed:
                continue
            if isinstance(result, CommitRefusal) or result[0].kind == "error":
                reason = result if isinstance(result, CommitRefusal) else result[0].detail
                raise ScheduleError(f"{name}: its due fire times cannot be decided: {reason}")
            if result[0].kind in ("ok", "overlap"):
                counters, overlap = Counters(), result[0].kind == "overlap"
                at = None if overlap else result[0].at
                counters.decided(name, decision, now, at, overlap=overlap)
                self.store.count(Lease(""), "", counters.portion())

    # ---- runs by hand -------------------------------------------------------------------------

    def trigger(
        self, entry: Entry, now: datetime, number: str, actor: Actor, *, force: bool,
        fire_time: datetime | None = None,
    ) -> tuple[str, list[str]]:  # fmt: skip
        """Enqueue a run now, of this instant or again of a fire time of the past. Return its job's
        id and the jobs that block it: then nothing was enqueued. The caller chooses `number`; the
        same number is the same run. An unfinished run of the same past fire time blocks it even
        with `force`."""
        assert entry.schedule is not None
        fire, builder = fire_time or now, JobBuilder(self.store)
        job = builder.build(entry.schedule, fire, now, kind="m", number=number)
        job_id, queue = job.id, builder.queue(entry.schedule.queue).key
        verb, detail = "trigger", {"job": job_id, "force": force}
        if fire_time:
            verb, detail = "again", detail | {"fireTime": iso(fire_time)}
        audited = audit_words(verb, [entry.name], actor, detail)
        overlap = "allow" if force else entry.schedule.overlap
        answer = actor.call(
            self._scripts["trigger"],
            [self.store.key("definitions"), queue],
            [entry.name, job_id, to_ms(now), overlap, self.store.history, AUDIT, to_ms(fire),
             len(audited), *audited, *command_words(job.commands(queue))],
            job_id,
        )  # fmt: skip
        kind, *rest = (text(word) for word in answer)
        if kind == "missing":
            raise Conflict(ConflictKind.MISSING, entry.name)
        if kind == "error":
            raise ScheduleError(f"{entry.name}: it cannot be enqueued: {rest[0]}")
        return job_id, rest


_KEEP = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of one schedule; a field that is None stays as it is.

    `expected` is the state that the schedule must have: "new", "there", "either", or a revision.
    A definition of "" removes it. `since` is the instant from which its fire times count again.
    """

    name: str
    expected: str = "there"
    definition: str | None = None
    since: datetime | None = None
    next_fire: datetime | None = None
    pause: Pause | None = None
    skipping: SkipRequest | None = None
    unskip: bool = False

    def words(self) -> list[Any]:
        """Return the edit as lua/edit.lua takes it. The end of a pause is a duty of the clock only
        if fire times have to be caught up."""
        pause: Any = _KEEP
        ends: Any = _KEEP
        if self.pause is not None:
            pause = to_json(self.pause)
            ends = "" if self.pause.missed == "skip" else _ms(self.pause.until)
        skip = to_json(self.skipping) if self.skipping else "" if self.unskip else _KEEP
        fire = _ms(self.next_fire) if self.since or self.next_fire else _KEEP
        definition = _KEEP if self.definition is None else self.definition
        since = to_ms(self.since) if self.since else _KEEP
        return [self.name, self.expected, definition, since, fire, pause, skip, ends]


def _ms(t: datetime | None) -> int | str:
    return "" if t is None else to_ms(t)
