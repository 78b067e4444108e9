"""Views of schedules: their state, their fire times, and differences between them. Pure.

Secrets in arguments, environment, headers and addresses are masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from rq_clock.errors import Fault
from rq_clock.manifest.definition import document
from rq_clock.manifest.diff import FieldChange
from rq_clock.model.decision import Skip, Span
from rq_clock.model.entry import Entry, Pause
from rq_clock.model.schedule import Schedule
from rq_clock.model.targets import shown_target
from rq_clock.model.verdict import State
from rq_clock.model.view import View, doc
from rq_clock.redaction import masked_json, masked_url
from rq_clock.serializers.runs import RunView, run_view
from rq_clock.timing.describe import Fire, dst_remarks, words
from rq_clock.timing.triggers import Trigger
from rq_clock.timing.zones import zone

if TYPE_CHECKING:
    from rq_clock.manifest.diff import Plan
    from rq_clock.schedules.listing import Listing, Row

_MS, _SECOND = timedelta(milliseconds=1), timedelta(seconds=1)
_SECONDS = "In seconds."
_SAME = ("queue", "timeout", "result_ttl", "failure_ttl", "catch_up", "catch_up_limit", "overlap",
         "group", "group_limit", "retries", "tags")  # fmt: skip
"""Options that a view shows as they are."""


# ---- schedules --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView(View):
    """A schedule and its state. All of its definition is null when that cannot be read."""

    name: str
    state: State = field(metadata=doc("The worst of its states."))
    states: Sequence[State] = field(metadata=doc("All of its states, worst first."))
    origin: Literal["declared", "run-time"]
    revision: str
    words: str | None = field(metadata=doc("The trigger in words."))
    trigger: dict[str, Any] | None = field(metadata=doc("cron and tz; every (ms); or once (ms)."))
    zone: str | None
    func: str | None
    command: dict[str, Any] | None
    dyno: dict[str, Any] | None
    webhook: dict[str, Any] | None
    runs: str | None = field(metadata=doc("The target in one line."))
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    queue: str | None
    timeout: int | None = field(metadata=doc(_SECONDS))
    retries: int | Sequence[int] | None = field(metadata=doc("A number, or delays in seconds."))
    result_ttl: int | None = field(metadata=doc(_SECONDS))
    failure_ttl: int | None = field(metadata=doc(_SECONDS))
    catch_up: Literal["latest", "all", "none"] | None
    catch_up_window: float | None = field(metadata=doc(_SECONDS))
    catch_up_limit: int | None
    overlap: Literal["skip", "allow"] | None
    group: str | None
    group_limit: int | None
    jitter: float | None = field(metadata=doc(_SECONDS))
    jitter_offset_ms: int | None = field(metadata=doc("The part of `jitter` that it uses."))
    tags: Sequence[str] | None
    ping: str | None
    next_fire_time: datetime | None
    next_local: datetime | None = field(metadata=doc("The same in `zone`."))
    marker: datetime | None = field(metadata=doc("The newest fire time that is decided."))
    known_since: datetime
    pause: Pause | None
    held: Span | None = field(metadata=doc("Fire times that wait for the end of the pause."))
    skipping: SkippingView | None
    fault: str | None = field(metadata=doc("Why it cannot run, when it is invalid."))
    last: RunView | None = field(metadata=doc("The newest run."))
    failing_since: datetime | None = field(metadata=doc("The newest failure, until a success."))
    running: str | None = field(metadata=doc("The id of the job that runs now."))


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippingView(View):
    """A request to skip the next `count` fire times, the last of them at `until`."""

    count: int
    until: datetime
    reason: str
    by: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDetailView(ScheduleView):
    """A schedule with its definition."""

    definition: dict[str, Any] | None = field(
        metadata=doc("As PUT takes it. A masked value stands for the stored one.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePageView(View):
    """A page of schedules."""

    data: list[ScheduleView]
    next_cursor: str | None
    total: int | None = field(metadata=doc("All matches; null when they are not counted."))
    order: str = field(
        metadata=doc("The order of this list.", enum=("trouble", "next", "last", "name", "index"))
    )
    searched: int | None = field(metadata=doc("Schedules examined, when not all were."))


def skipping_view(entry: Entry) -> SkippingView | None:
    skip, last = entry.skipping, entry.last_skipped()
    if skip is None or last is None:
        return None
    return SkippingView(
        count=skip.count, until=last, reason=skip.reason, by=skip.by, since=skip.since
    )


def schedule_view(row: Row, now: datetime, namespace: str) -> ScheduleView:
    return ScheduleView(**_state(row, now, namespace))


def schedule_detail_view(row: Row, now: datetime, namespace: str) -> ScheduleDetailView:
    schedule = row.entry.schedule
    definition = document(schedule, secrets=False) if schedule else None
    return ScheduleDetailView(**_state(row, now, namespace), definition=definition)


def schedule_page_view(listing: Listing, namespace: str) -> SchedulePageView:
    return SchedulePageView(
        data=[schedule_view(row, listing.status.now, namespace) for row in listing.rows],
        next_cursor=listing.cursor or None,
        total=listing.total,
        order=listing.order,
        searched=listing.searched,
    )


def _state(row: Row, now: datetime, namespace: str) -> dict[str, Any]:
    entry, fire = row.entry, row.entry.next_fire
    ran = next((e for e in reversed(row.tail) if not isinstance(e, Skip)), None)
    return _definition(entry.schedule) | {
        "name": entry.name,
        "state": row.state,
        "states": row.states,
        "origin": "declared" if entry.declared else "run-time",
        "revision": entry.revision,
        "next_fire_time": fire,
        "next_local": fire.astimezone(zone(entry.tz).info) if fire and entry.schedule else None,
        "marker": entry.marker,
        "known_since": entry.known_since,
        "pause": entry.pause(now),
        "held": entry.held(now),
        "skipping": skipping_view(entry),
        "fault": entry.fault or None,
        "last": run_view(entry.name, ran, namespace) if ran else None,
        "failing_since": row.failing,
        "running": row.running or None,
    }


def _definition(schedule: Schedule | None) -> dict[str, Any]:
    if schedule is None:
        return dict.fromkeys(_DEFINITION)
    view = dict.fromkeys(_DEFINITION) | {name: getattr(schedule, name) for name in _SAME}
    return view | shown_target(schedule.target) | {
        "words": words(schedule.trigger),
        "trigger": schedule.trigger.spec(),
        "zone": schedule.trigger.tz,
        "args": masked_json(list(schedule.args)),
        "kwargs": masked_json(dict(schedule.kwargs)),
        "catch_up_window": _seconds(schedule.catch_up_window),
        "jitter": _seconds(schedule.jitter),
        "jitter_offset_ms": schedule.offset // _MS if schedule.jitter else None,
        "ping": masked_url(schedule.ping) if schedule.ping else None,
    }  # fmt: skip


_DEFINITION = (*_SAME, "words", "trigger", "zone", "func", "command", "dyno", "webhook", "runs",
               "args", "kwargs", "catch_up_window", "jitter", "jitter_offset_ms", "ping"
               )  # fmt: skip


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span / _SECOND


# ---- fire times -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FireTimeView(View):
    """An upcoming fire time."""

    fire_time: datetime
    local: datetime = field(metadata=doc("The same in `zone`."))
    zone: str
    notes: Sequence[str] = field(metadata=doc("The effects of clock changes."))
    skipped: Literal["paused", "requested"] | None = field(metadata=doc("Why it will be skipped."))
    jitter_offset_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFireTimeView(FireTimeView):
    """An upcoming fire time of one of many schedules."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationView(View):
    """A trigger in words, and its next fire times."""

    words: str
    warnings: list[str]
    next: list[FireTimeView]
    clock_changes: list[str] = field(metadata=doc("The effects of those within a year."))


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedView(View):
    """The fire times that will be skipped."""

    skipping: list[datetime] = field(metadata=doc("The first hundred."))
    count: int
    until: datetime | None = field(metadata=doc("The last one."))


def fire_time_view(fire: Fire) -> FireTimeView:
    return FireTimeView(**_fire(fire))


def named_fire_time_view(name: str, fire: Fire) -> NamedFireTimeView:
    return NamedFireTimeView(name=name, **_fire(fire))


def _fire(fire: Fire) -> dict[str, Any]:
    return {
        "fire_time": fire.fire_time,
        "local": fire.local,
        "zone": getattr(fire.local.tzinfo, "key", None) or "UTC",
        "notes": fire.notes,
        "skipped": fire.blocked_by or None,
        "jitter_offset_ms": fire.offset // _MS if fire.offset else None,
    }


def explanation_view(trigger: Trigger, after: datetime, fires: Iterable[Fire]) -> ExplanationView:
    """Return a trigger in words, with its fire times after an instant."""
    return ExplanationView(
        words=words(trigger),
        warnings=trigger.warnings(),
        next=[fire_time_view(fire) for fire in fires],
        clock_changes=dst_remarks(trigger, after),
    )


# ---- differences ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeView(View):
    """A schedule that is added, changed, renamed or removed."""

    name: str
    was: str | None = None
    words: str | None = None
    runs: str | None = None
    queue: str | None = None
    paused: bool = False
    fields: Sequence[FieldChange] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipCountView(View):
    """Fire times that are skipped for one reason."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUpView(View):
    """An overdue schedule, and its late fire times."""

    name: str
    enqueued: int
    first: datetime | None
    last: datetime | None
    more: bool = field(metadata=doc("Whether more fire times follow at once."))
    skipped: list[SkipCountView]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesView(View):
    """The changes that a manifest or a deploy makes."""

    namespace: str
    equal: bool = field(metadata=doc("Whether nothing changes."))
    added: Sequence[ChangeView] = ()
    changed: Sequence[ChangeView] = ()
    removed: Sequence[ChangeView] = ()
    renamed: Sequence[ChangeView] = ()
    past: Sequence[str] = field(default=(), metadata=doc("Left out: their instant has passed."))
    caught_up: Sequence[CaughtUpView] = ()
    notes: Sequence[str] = ()
    unchanged: int
    dry_run: bool = True


def plan_view(plan: Plan, namespace: str, *, dry_run: bool = True) -> ChangesView:
    """Return the changes of a manifest."""
    added = [
        change_view(step.name, step.item.schedule, paused=step.item.paused is not None)
        for step in plan.added
        if step.item
    ]
    return ChangesView(
        namespace=namespace,
        equal=not plan.steps,
        added=added,
        changed=[ChangeView(name=s.name, fields=s.differences()) for s in plan.changed],
        removed=[change_view(s.name, s.was.schedule if s.was else None) for s in plan.removed],
        past=[item.schedule.name for item in plan.past],
        unchanged=plan.unchanged,
        dry_run=dry_run,
    )


def change_view(name: str, schedule: Schedule | None, *, paused: bool = False) -> ChangeView:
    """Return an added or removed schedule in short; only its name if it cannot be read."""
    if schedule is None:
        return ChangeView(name=name)
    return ChangeView(
        name=name,
        words=words(schedule.trigger),
        runs=shown_target(schedule.target)["runs"],
        queue=schedule.queue,
        paused=paused,
    )


# ---- check ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultView(View):
    """A fault or a warning of a declaration."""

    schedule: str | None = field(metadata=doc("Null when it is not about one."))
    option: str | None = field(metadata=doc("Its path in a manifest."))
    text: str
    file: str | None = field(metadata=doc("The file of the declaration, or of the app's error."))
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView(View):
    """The result of `check`."""

    app: str
    ok: bool = field(metadata=doc("There is no fault."))
    schedules: int
    faults: Sequence[FaultView]
    warnings: Sequence[FaultView]
    changes: ChangesView | None = field(
        metadata=doc("The changes of a deploy; null with a fault, or when they are unknown.")
    )


def fault_view(fault: Fault) -> FaultView:
    return FaultView(
        schedule=fault.schedule or None,
        option=fault.field or None,
        text=fault.text,
        file=fault.file or None,
        line=fault.line,
    )
