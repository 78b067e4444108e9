"""Changes of a namespace while the clock runs: edits of schedules and runs by hand.

Nothing here talks to the clock, and all of it works while no clock runs. Each change is one script
that names the state it is based on. The revision that it raises voids what the clock has prepared,
so a change and a fire time at the same instant happen one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.errors import Conflict, ConflictKind, ScheduleError
from rq_clock.model.decision import Decision, Skip
from rq_clock.model.entry import Entry, Lease, Pause, SkipRequest, to_json
from rq_clock.store.audit import AUDIT, Actor, Audit, audit_words
from rq_clock.store.backfills import Backfills
from rq_clock.store.client import is_outage
from rq_clock.store.commit import Batch, CommitChannel, CommitRefusal, CommitResult, Planned
from rq_clock.store.counters import Counters
from rq_clock.store.job_commands import JobBuilder, command_words
from rq_clock.store.scripts import load_script, pairs, text
from rq_clock.store.store import KEEP_REMOVED_MS, Store, portions, skip_line
from rq_clock.timing.instants import iso, to_ms

NOBODY = Lease("")
"""In place of the clock's lease, for decisions before a change that would lose them."""
BATCH_LIMIT = 5000
"""Schedules in one edit that is whole or nothing. It is one script: for 25 to 50 ms Redis serves
nobody else."""


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

    def settle(self, name: str, now: datetime, *, closing: bool = False) -> Entry | None:
        """Decide what is due of a schedule until `now`, before a change that would lose it; with
        `closing` also what a pause holds. Return the entry then; None when there is none."""
        counters = Counters()
        for result in settle(self.store, [name], now, self.store.load, closing=closing):
            if result.kind == "error":
                why = f"its due fire times cannot be decided: {result.detail}"
                raise ScheduleError(f"{name}: {why}")
            overlap = result.kind == "overlap"
            at = None if overlap else result.at
            counters.decided(name, result.planned.decision, now, at, overlap=overlap)
        if portion := counters.portion():
            self.store.count(NOBODY, "", portion)
        return self.store.load([name])[0].get(name)

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


def settle(
    store: Store,
    names: Sequence[str],
    now: datetime,
    read: Callable[[Sequence[str]], tuple[dict[str, Entry], str]],
    lease: Lease = NOBODY,
    *,
    closing: bool,
) -> Iterator[CommitResult]:
    """Decide what is due of schedules until `now`; with `closing` also what a pause holds. Yield
    what was committed, and for a schedule that cannot be decided an error. `read` returns their
    state as Store.load does, perhaps with other definitions.

    Raises ScheduleError when the server takes no writes, LeaseLost, and redis-py's errors.
    """
    channel, builder = CommitChannel(store), JobBuilder(store)
    waiting = deque(portions(names))
    while waiting:
        entries, everything = read(waiting.popleft())
        batches = [Batch(now, everything)]
        for entry in entries.values():
            try:
                decision = entry.decide(now, closing=closing)
                if decision.decides:
                    batches[-1].add(entry, decision, builder)
            except Exception as error:  # this schedule's; the others go on
                if is_outage(error):
                    raise
                nothing = Planned(entry, Decision(marker=now, next=None), now, ())
                yield CommitResult(nothing, "error", str(error), now)
            if batches[-1].full:
                batches.append(Batch(now, everything))
        again: list[str] = []
        for batch, results in _sent(batches, store, lease, channel):
            if isinstance(results, CommitRefusal):
                again += [planned.entry.name for planned in batch.planned]
            else:
                again += [r.planned.entry.name for r in results if r.kind != "error"]
                yield from (result for result in results if result.kind != "stale")
        if again:
            waiting.append(again)


def _sent(
    batches: Sequence[Batch], store: Store, lease: Lease, channel: CommitChannel
) -> Iterator[tuple[Batch, list[CommitResult] | CommitRefusal]]:
    """Commit batches; yield each with its answers, or why it has to be decided again."""
    full = [batch for batch in batches if batch.planned]
    for batch in full:
        batch.pack(store, lease, channel)
    for batch, results in zip(full, channel.commit(full), strict=True):
        if isinstance(results, CommitRefusal) and not results.changed:
            raise ScheduleError(f"due fire times cannot be decided: {results}")
        yield batch, results


_KEEP = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of one schedule; a field that is None stays as it is.

    `expected` is the state that the schedule must have: "new", "there", "either", or a revision.
    A definition of "" removes it, with what it leaves `undecided`. `since` is the instant from
    which its fire times count again; with `anew` its marker is forgotten. `next_fire` may be left
    None with a `since`: then it is never due.
    """

    name: str
    expected: str = "there"
    definition: str | None = None
    since: datetime | None = None
    anew: bool = False
    next_fire: datetime | None = None
    pause: Pause | None = None
    skipping: SkipRequest | None = None
    unskip: bool = False
    undecided: Skip | None = None

    def words(self) -> list[Any]:
        """Return the edit as lua/edit.lua takes it."""
        pause = _KEEP if self.pause is None else to_json(self.pause)
        skip = to_json(self.skipping) if self.skipping else "" if self.unskip else _KEEP
        fire = _ms(self.next_fire) if self.since or self.next_fire else _KEEP
        definition = _KEEP if self.definition is None else self.definition
        since = ("- " if self.anew else "") + str(to_ms(self.since)) if self.since else _KEEP
        undecided = skip_line(self.undecided)
        return [self.name, self.expected, definition, since, fire, pause, skip, undecided]


def _ms(t: datetime | None) -> int | str:
    return "" if t is None else to_ms(t)
