"""What people and apps change while the clock runs, as Redis does it: edits of schedules, runs by
hand, backfills, and the audit of all this.

Nothing here talks to the clock, and all of it works while no clock runs. Each change is one script
that says what it is based on; the revision that it raises makes void whatever the clock has
prepared, so a change and a fire time at the same instant happen one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq_clock.errors import Conflict, ConflictKind, LeaseLost, ScheduleError
from rq_clock.log import log_warning
from rq_clock.model.entry import Entry, Lease, Pause, SkipRequest, to_json
from rq_clock.store.audit import AUDIT, Actor, AuditEntry, _parse_entry, audit_entry
from rq_clock.store.backfills import Backfill, Step, _backfill, backfills_of
from rq_clock.store.commit import Batch, CommitChannel, CommitRefusal
from rq_clock.store.counters import Counters
from rq_clock.store.job_commands import JobBuilder
from rq_clock.store.scripts import load_script, text, texts
from rq_clock.store.store import KEEP_REMOVED_MS, Store
from rq_clock.timing.instants import from_ms, iso, score_ms, to_ms

BATCH_LIMIT = 5000
"""Schedules in one edit that is whole or nothing: about 50 ms of Redis's time."""


class Operations:
    """One namespace's changes. Methods raise redis-py's RedisError when the server cannot be
    used; nothing is half-written then."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.redis = store.redis
        names = ("edit", "trigger", "backfill_edit", "backfill_step")
        self._scripts = {name: load_script(store.redis, name) for name in names}

    def now(self) -> datetime:
        """The server's time: a laptop that is a minute ahead must not decide what is not due."""
        seconds, micros = self.redis.time()
        return from_ms(int(seconds) * 1000 + int(micros) // 1000)

    # ---- schedules ----------------------------------------------------------------------------

    def edit(
        self, edits: Sequence[Edit], now: datetime, verb: str = "", who: Actor | None = None,
        **detail: Any,
    ) -> list[str]:  # fmt: skip
        """Apply all of these or none; the new revisions. With `who` it is entered in the audit.

        Raises Conflict with every one that did not fit.
        """
        audited = _flat(_parse_entry(verb, [e.name for e in edits], who, detail)) if who else []
        keys = self.store.keys("definitions")
        args = [to_ms(now), KEEP_REMOVED_MS, AUDIT, len(audited)]
        words = [word for edit in edits for word in edit.words()]
        kind, *rest = self._scripts["edit"](keys, [*args, *audited, *words])
        if kind == b"refused":
            pairs = zip(rest[::2], rest[1::2], strict=True)
            raise Conflict.join([_conflict(edits[int(n) - 1].name, text(why)) for n, why in pairs])
        return [text(revision) for revision in rest]

    def settle(self, name: str, now: datetime) -> Entry | None:
        """Decide, as the clock would, what is due of a schedule until `now`: before a change that
        would take it away. The entry then, None when there is no such schedule."""
        wire, builder = CommitChannel(self.store), JobBuilder(self.store)
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
            batch.pack(self.store, Lease(""), wire)
            [result] = wire.commit([batch])
            if isinstance(result, CommitRefusal):
                if result.changed:
                    continue
                raise ScheduleError(f"{name}: its due fire times cannot be decided: {result}")
            if result[0].kind == "error":
                raise ScheduleError(
                    f"{name}: its due fire times cannot be decided: {result[0].detail}"
                )
            if result[0].kind in ("ok", "overlap"):
                tally = Counters()
                overlap, at = result[0].kind == "overlap", result[0].at
                tally.decided(name, decision, now, None if overlap else at, overlap=overlap)
                self.store.count(Lease(""), "", tally.portion())

    # ---- runs by hand -------------------------------------------------------------------------

    def trigger(
        self, entry: Entry, now: datetime, number: str, who: Actor, *, force: bool,
        fire_time: datetime | None = None,
    ) -> tuple[str, list[str]]:  # fmt: skip
        """Enqueue a run now, of this instant or again of a fire time of the past. Its job's id, and
        the jobs that stand in the way: then nothing was enqueued. `number` is the caller's own:
        with the same one it is the same run. A run of the same past fire time that is not over
        stands in the way even with `force`."""
        assert entry.schedule is not None
        fire, builder = fire_time or now, JobBuilder(self.store)
        job_id, _, commands = builder.build(entry.schedule, fire, now, kind="m", number=number)
        queue = builder.queue(entry.schedule.queue).key
        verb, detail = "trigger", {"job": job_id, "force": force}
        if fire_time:
            verb, detail = "again", detail | {"fireTime": iso(fire_time)}
        audited = _flat(_parse_entry(verb, [entry.name], who, detail))
        overlap = "allow" if force else entry.schedule.overlap
        answer = self._scripts["trigger"](
            [self.store.key("definitions"), queue],
            [entry.name, job_id, to_ms(now), overlap, self.store.history, AUDIT, to_ms(fire),
             len(audited), *audited, *_commands(commands)],
        )  # fmt: skip
        kind, *rest = (text(word) for word in answer)
        if kind == "missing":
            raise Conflict(ConflictKind.MISSING, entry.name)
        if kind == "error":
            raise ScheduleError(f"{entry.name}: it cannot be enqueued: {rest[0]}")
        return job_id, rest

    # ---- backfills ----------------------------------------------------------------------------

    def asked(self) -> int:
        """How many backfills there are."""
        return int(self.redis.zcard(self.store.key("backfills")))

    def create_backfill(self, backfill: Backfill, who: Actor, asked: int | None = None) -> bool:
        """Leave a backfill for the leader; False when there is one with this id already. Raises
        Conflict unless there are as many as when it was thought out (`asked`)."""
        detail = {"id": backfill.id, "fireTimes": backfill.total, "atOnce": backfill.at_once}
        audited = _flat(_parse_entry("backfill", [backfill.schedule], who, detail))
        fields = {
            "schedule": backfill.schedule,
            "start": to_ms(backfill.start),
            "end": to_ms(backfill.end),
            "at_once": backfill.at_once,
            "total": backfill.total,
            "by": backfill.by,
            "reason": backfill.reason,
            "since": to_ms(backfill.since),
            "rule": backfill.rule,
            "left_out": " ".join(map(str, sorted(backfill.left_out))),
            "state": "running",
        }
        keys = self.store.keys("backfills")
        before = "" if asked is None else asked
        head = ["create", backfill.id, to_ms(backfill.since), AUDIT, before, len(audited)]
        answer = self._scripts["backfill_edit"](keys, [*head, *audited, *_flat(fields)])
        if answer < 0:
            raise Conflict(ConflictKind.STALE, backfill.schedule)
        return bool(answer)

    def cancel_backfill(self, id: str, now: datetime, who: Actor) -> bool:
        """Let a backfill enqueue no more; what it has enqueued runs. False when it has ended."""
        audited = _flat(_parse_entry("cancel-backfill", [id.rpartition("-")[0]], who, {"id": id}))
        keys = self.store.keys("backfills")
        args = ["cancel", id, to_ms(now), AUDIT, "", len(audited), *audited]
        return bool(self._scripts["backfill_edit"](keys, args))

    def backfill(self, id: str) -> Backfill | None:
        """One backfill; None when there is none, or none any more."""
        raw: Any = self.redis.hgetall(self.store.key(f"backfill:{id}"))
        return _backfill(id, texts(raw)) if raw else None

    def backfills(self, most: int = 100) -> list[Backfill]:
        """The newest ones, newest first."""
        ids: Any = self.redis.zrevrange(self.store.key("backfills"), 0, most - 1)
        return backfills_of(self.store, list(map(text, ids)))

    def step_backfill(self, lease: Lease, backfill: Backfill, step: Step, now: datetime) -> bool:
        """Go on with a backfill. False when it was canceled meanwhile, or has gone on already.

        Raises LeaseLost, and ScheduleError when its jobs cannot be enqueued.
        """
        schedule = step.schedule
        builder = JobBuilder(self.store)
        queue = builder.queue(schedule.queue).key
        keys = [*self.store.keys("lease", f"backfill:{backfill.id}"), queue]
        words: list[Any] = [lease.token, backfill.id, _ms(backfill.cursor), _ms(step.cursor)]
        words += [step.skipped, "done" if step.over else "running", to_ms(step.look)]
        words += [self.store.history, to_ms(now), " ".join(step.living), KEEP_REMOVED_MS]
        words.append(len(step.fire_times))
        for fire_time in step.fire_times:
            job_id, _, commands = builder.build(
                schedule, fire_time, now, kind="b", number=backfill.number
            )
            words += [job_id, to_ms(fire_time), *_commands(commands)]
        answer = self._scripts["backfill_step"](keys, words)
        if answer == b"lost":
            raise LeaseLost("another clock leads, or the lease ran out")
        if answer not in (b"ok", b"stale"):
            raise ScheduleError(f"{backfill.id}: it cannot go on: {text(answer)}")
        return bool(answer == b"ok")

    def chores(self, now: datetime, most: int = 100) -> tuple[dict[str, int], datetime | None]:
        """What the leader has to do by now, with the instant (ms) from which on, and when the next
        comes."""
        key = self.store.key("duties")
        found: Any = self.redis.zrange(key, 0, most, withscores=True)
        strange = [chore for chore, _ in found if not chore.isascii()]
        if strange:  # none of ours, and none that could be done
            self.redis.zrem(key, *strange)
            log_warning("chore.removed", chores=len(strange), reason="not the name of a chore")
        ready = {
            text(chore): score_ms(score)
            for chore, score in found
            if score <= to_ms(now) and chore not in strange
        }
        later = [score for _, score in found if score > to_ms(now)]
        return ready, from_ms(score_ms(later[0])) if later else None

    def later(self, chore: str, when: datetime) -> None:
        """Look at this one then."""
        self.redis.zadd(self.store.key("duties"), {chore: to_ms(when)}, xx=True)

    def living(self, jobs: Sequence[str]) -> list[str]:
        """Those of these jobs that are queued, running or waiting."""
        pipe = self.redis.pipeline(transaction=False)
        for job_id in jobs:
            pipe.hget(f"rq:job:{job_id}", "status")
        alive = (b"queued", b"started", b"scheduled", b"deferred")
        return [id for id, status in zip(jobs, pipe.execute(), strict=True) if status in alive]

    def done(self, chore: str, when: int) -> None:
        """This one needs nothing any more, unless it was asked for anew: it is to be looked at
        at another instant (ms) then."""
        self._scripts["backfill_edit"](self.store.keys("backfills"), ["finish", chore, when])

    def unfinished(self, names: Sequence[str], now: datetime) -> list[str]:
        """Those of these schedules that have a pause behind them which the leader has not made up
        for yet."""
        scores = self.redis.zmscore(self.store.key("duties"), [f"pause:{name}" for name in names])
        ended = zip(names, scores, strict=True)
        return [name for name, score in ended if score is not None and score <= to_ms(now)]

    def running(self, name: str) -> list[Backfill]:
        """The backfills of a schedule that go on."""
        chores: Any = self.redis.zrange(self.store.key("duties"), 0, -1)
        head = f"backfill:{name}-"
        ids = [
            chore.removeprefix("backfill:") for chore in map(text, chores) if chore.startswith(head)
        ]
        found = [self.backfill(id) for id in ids]
        return [b for b in found if b and b.schedule == name and b.state == "running"]

    # ---- the audit ----------------------------------------------------------------------------

    def note(self, verb: str, names: Sequence[str], count: int, who: Actor) -> None:
        """Enter what took many steps."""
        words = _parse_entry(verb, names, who, {}) | {"count": str(count)}
        self.redis.xadd(self.store.key("audit"), words, maxlen=AUDIT)  # type: ignore[arg-type]

    def audit(self, most: int, before: str = "+") -> list[AuditEntry]:
        """The newest entries, newest first; `before` is the id of one that was told."""
        last = before if before == "+" else f"({before}"
        found: Any = self.redis.xrevrange(self.store.key("audit"), last, "-", count=most)
        return [audit_entry(text(id), texts(fields)) for id, fields in found]


def _flat(said: Mapping[str, Any]) -> list[Any]:
    return [word for pair in said.items() for word in pair]


def _commands(commands: Iterable[Sequence[Any]]) -> list[Any]:
    """RQ's commands as a script takes them: how many, then each with the number of its words."""
    listed = list(commands)
    return [len(listed), *(word for command in listed for word in (len(command), *command))]


_KEEP = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of one schedule; what is None stays as it is.

    `expected` is what the schedule has to be for it: "new", "there", "either", or a revision.
    A definition of "" removes it. `since` starts its fire times anew from there.
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
        """As lua/edit.lua takes it; a pause's end needs the clock only if it has to make up for
        what it skipped."""
        pause: Any = _KEEP
        ends: Any = _KEEP
        if self.pause is not None:
            pause = to_json(self.pause)
            ends = "" if self.pause.missed == "skip" else _ms(self.pause.until)
        skip = to_json(self.skipping) if self.skipping else "" if self.unskip else _KEEP
        starts_anew = self.since is not None
        fire = _ms(self.next_fire) if starts_anew or self.next_fire else _KEEP
        return [
            self.name,
            self.expected,
            _KEEP if self.definition is None else self.definition,
            to_ms(self.since) if self.since else _KEEP,
            fire,
            pause,
            skip,
            ends,
        ]


def _ms(t: datetime | None) -> int | str:
    return "" if t is None else to_ms(t)


def _conflict(name: str, reason: str) -> Conflict:
    """Return the conflict that edit.lua reports: its kind and, of a stale one, the revision."""
    kind, _, detail = reason.partition(" ")
    return Conflict(ConflictKind(kind), name, detail)
