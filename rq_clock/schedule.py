"""What a schedule is, and what is due.

A `Schedule` is a declaration: frozen, complete, valid. `due` decides, from a schedule, the
instant up to which everything is decided already, and the present instant, which fire times
are to be enqueued and which are skipped, and why. Both are pure: no I/O, no clock is read,
and once a `Schedule` exists nothing here raises.

Invariants
- A fire time is decided once: `due` looks only at the span (marker, now].
- Every fire time of that span is either in `fire_times` or counted in `skips`.
- The marker moves forward or not at all, whatever the wall clock does.

Not here: whether the previous job still runs (`overlap`). Only Redis knows that, so the
answer is given inside the commit, see store.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

from rq_clock.errors import ScheduleError
from rq_clock.triggers import MANY, Cron, Every, Once, Trigger, from_spec

ON_TIME = timedelta(seconds=10)
"""How late a fire time may be decided and still be on time rather than caught up. Long enough
for a restart; short enough that nobody calls a run of that age stale."""

MOST = 100
"""Fire times in one decision. More stay due and follow at once: a commit stays near a
millisecond of Redis's time, whatever a schedule has to catch up."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+\Z")
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A named entry: when (trigger), what (target), and how (options).

    Raises ScheduleError with every fault of the declaration, one a line. Durations are given
    as timedelta or as seconds; `None` leaves a value to RQ's default.
    """

    name: str
    trigger: Trigger
    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    timeout: int | None = None
    retries: int = 0
    result_ttl: int | None = None
    failure_ttl: int | None = None
    catch_up: str = "latest"
    catch_up_window: timedelta | None = None
    catch_up_limit: int | None = None
    overlap: str = ""
    group: str | None = None
    jitter: timedelta | None = None
    tags: tuple[str, ...] = ()
    renamed_from: str | None = None

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise ScheduleError("\n".join(f"{self.name}: {fault}" for fault in faults))

    @property
    def offset(self) -> timedelta:
        """How far `jitter` moves this schedule: fixed by its name, so every process agrees."""
        if not self.jitter:
            return timedelta(0)
        digest = blake2b(self.name.encode(), digest_size=8).digest()
        span = self.jitter // _MS
        return timedelta(milliseconds=int.from_bytes(digest) % span)

    def next_after(self, t: datetime) -> datetime | None:
        """The first fire time after `t`, jitter included; None when there is none."""
        offset = self.offset
        found = self.trigger.next_after(t - offset)
        return found and found + offset

    def definition(self) -> str:
        """The schedule as one line of JSON: what Redis stores and what a deploy compares.

        Options at their default are left out, so a new option of a later release changes no
        stored definition; so is `renamed_from`, an instruction to one deploy.
        """
        document: dict[str, Any] = {**self.trigger.spec(), "func": self.target}
        for option in _STORED:
            value = getattr(self, option.name)
            default = option.default if option.default is not MISSING else {}
            if value != default:
                if isinstance(value, timedelta):
                    value = value / timedelta(seconds=1)
                document[_camel(option.name)] = value
        if self.overlap == _usual_overlap(self.catch_up):
            del document["overlap"]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


_OPTIONS = [f for f in fields(Schedule) if f.name not in {"name", "trigger", "target"}]
_OPTION_NAMES = frozenset(f.name for f in _OPTIONS)
_STORED = [f for f in _OPTIONS if f.name != "renamed_from"]
_SPEC_KEYS = frozenset({"cron", "tz", "every", "anchor", "once"})


def declare(
    name: str, trigger: Trigger, target: str | Callable[..., object], options: Mapping[str, Any]
) -> Schedule:
    """A schedule as its author writes it: a callable is taken for its dotted name, durations
    and lists for what they mean, and an unknown option is named together with its neighbour.

    Raises ScheduleError with every fault.
    """
    unknown = [_unknown_option(option) for option in options if option not in _OPTION_NAMES]
    known = {o: _normal(o, v) for o, v in options.items() if o in _OPTION_NAMES}
    if not known.get("overlap"):
        known["overlap"] = _usual_overlap(known.get("catch_up", "latest"))
    if callable(target):
        target = f"{target.__module__}.{target.__qualname__}"
    try:
        schedule = Schedule(name=name, trigger=trigger, target=target, **known)
    except ScheduleError as error:
        faults = [*(f"{name}: {fault}" for fault in unknown), str(error)]
        raise ScheduleError("\n".join(faults)) from None
    if unknown:
        raise ScheduleError("\n".join(f"{name}: {fault}" for fault in unknown))
    return schedule


def from_definition(name: str, text: str | bytes) -> Schedule:
    """The schedule that `Schedule.definition` wrote. Raises ScheduleError when it cannot be
    read, for example because a later release of rq-clock wrote it."""
    try:
        document = json.loads(text)
        trigger = from_spec({key: document.pop(key) for key in _SPEC_KEYS & document.keys()})
        target = document.pop("func")
        options = {_snake(key): value for key, value in document.items()}
    except (ScheduleError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"{name}: cannot read the stored definition {text!r}: {error}"
        raise ScheduleError(fault) from None
    return declare(name, trigger, target, options)


@dataclass(frozen=True, slots=True)
class Skip:
    """Neighbouring fire times that were not enqueued, for one reason.

    `count` is exact below triggers.MANY; from there on it means "at least".
    """

    reason: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What `due` found. `marker` is the newest fire time decided, or the one that came in when
    nothing was due; `next` is the first fire time after it."""

    fire_times: tuple[datetime, ...]
    skips: tuple[Skip, ...]
    marker: datetime
    next: datetime | None


def due(schedule: Schedule, marker: datetime, now: datetime, *, paused: bool = False) -> Decision:
    """Decide the fire times in (marker, now].

    `marker` is the instant up to which all is decided: the newest decided fire time, or known
    since for a schedule that never fired. At most MOST fire times come back, oldest first;
    what is left then is due at once (`next` <= now). A `now` before the marker (the wall clock
    went back) finds nothing due.
    """
    first = schedule.next_after(marker)
    if first is None or first > now:
        return Decision((), (), marker, first)
    upcoming = schedule.next_after(first)
    if upcoming is not None and upcoming <= now:
        return _after_outage(schedule, marker, now, paused=paused)
    if paused:
        return Decision((), (Skip("paused", first, first, 1),), first, upcoming)
    cutoff = _cutoff(schedule, now)
    if cutoff is not None and first < cutoff:
        return Decision((), (Skip("window", first, first, 1),), first, upcoming)
    return Decision((first,), (), first, upcoming)


def is_on_time(fire_time: datetime, now: datetime) -> bool:
    """Whether a fire time decided now runs as scheduled, rather than being caught up."""
    return now - fire_time <= ON_TIME


def _after_outage(schedule: Schedule, marker: datetime, now: datetime, *, paused: bool) -> Decision:
    """Several fire times have passed. Costs follow the limit and the days passed, never the
    number of fire times: the newest are found by looking back, the rest only counted."""
    span = _Span(schedule)
    if paused:
        skip = span.skip("paused", marker, now)
        assert skip is not None, "the caller found a fire time in this span"
        return Decision((), (skip,), skip.last, schedule.next_after(now))
    cutoff = _cutoff(schedule, now)
    start = marker if cutoff is None else max(marker, cutoff - _MS)
    kept = span.newest(start, now, _limit(schedule))
    floor = (kept[0] if kept else now + _MS) - _MS
    skips = [span.skip("window", marker, min(start, floor)), span.skip("limit", start, floor)]
    chosen = tuple(kept[:MOST])
    last = chosen[-1] if chosen else floor
    decided = chosen[-1] if chosen else max(s.last for s in skips if s)
    return Decision(chosen, tuple(s for s in skips if s), decided, schedule.next_after(last))


class _Span:
    """A schedule's fire times looked at from behind, jitter included."""

    def __init__(self, schedule: Schedule) -> None:
        self._trigger = schedule.trigger
        self._offset = schedule.offset

    def latest_at(self, t: datetime) -> datetime | None:
        found = self._trigger.latest_at(t - self._offset)
        return found and found + self._offset

    def newest(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The newest `limit` fire times in (after, until], oldest first."""
        found: list[datetime] = []
        t = self.latest_at(until)
        while t is not None and t > after and len(found) < limit:
            found.append(t)
            t = self.latest_at(t - _MS)
        return found[::-1]

    def skip(self, reason: str, after: datetime, until: datetime) -> Skip | None:
        """The fire times in (after, until] as one entry, or None when there are none."""
        if until <= after:
            return None
        first = self._trigger.next_after(after - self._offset)
        last = self._trigger.latest_at(until - self._offset)
        if first is None or last is None or last < first:
            return None
        count = self._trigger.count(after - self._offset, until - self._offset)
        return Skip(reason, first + self._offset, last + self._offset, min(count, MANY))


def _cutoff(schedule: Schedule, now: datetime) -> datetime | None:
    """The oldest instant that is still caught up; None when no age is too great."""
    if schedule.catch_up == "none":
        return now - ON_TIME
    return None if schedule.catch_up_window is None else now - schedule.catch_up_window


def _limit(schedule: Schedule) -> int:
    return (schedule.catch_up_limit or 100) if schedule.catch_up == "all" else 1


# ---- validation: each check yields "expectation, what came, remedy" ---------------------------
# What comes in is whatever a user wrote, so nothing is taken for its annotated type here.


def _faults(s: Any) -> Iterator[str]:
    if not isinstance(s.name, str) or not NAME.match(s.name):
        yield f"expected a name of 1-100 letters, digits, '_' or '-', got {s.name!r}"
    if isinstance(s.trigger, Cron | Every | Once):
        yield from s.trigger.faults()
    else:
        yield f"expected a trigger, cron(…), every(…) or once(…), got {s.trigger!r}"
    yield from _target_faults(s.target)
    yield from _argument_faults(s)
    yield from _number_faults(s)
    yield from _policy_faults(s)
    if s.group is not None:
        yield "group needs a worker that keeps groups in order; this release has none yet"
    if s.renamed_from is not None and not NAME.match(str(s.renamed_from)):
        yield f"expected renamed_from to be the schedule's old name, got {s.renamed_from!r}"
    if s.renamed_from == s.name:
        yield "expected renamed_from to differ from the name; leave it out when nothing is renamed"


def _target_faults(target: object) -> Iterator[str]:
    if not isinstance(target, str):
        yield f"expected a function or its dotted name, as 'tasks.feeds.refresh', got {target!r}"
    elif "<" in target:
        yield (
            f"expected a function that a worker can import by name, got {target!r}; define it at "
            "the top of a module"
        )
    elif target.startswith("__main__."):
        yield (
            f"{target!r} lives in the script that is run, which workers cannot import; move it to "
            "a module, such as tasks/"
        )
    elif not _DOTTED.match(target):
        yield f"expected a dotted name, such as 'tasks.feeds.refresh', got {target!r}"


def _argument_faults(s: Any) -> Iterator[str]:
    if not isinstance(s.args, tuple):
        yield f"expected args to be a list of JSON values, got {s.args!r}"
    else:
        yield from _json_faults(list(s.args), "args")
    if not isinstance(s.kwargs, dict):
        yield f"expected kwargs to be a dict with text keys, got {s.kwargs!r}"
    else:
        yield from _json_faults(s.kwargs, "kwargs")
    if not isinstance(s.queue, str) or not s.queue:
        yield f"expected queue to be the name of a queue, got {s.queue!r}"
    if not isinstance(s.tags, tuple) or not all(isinstance(t, str) and t for t in s.tags):
        yield f"expected tags to be a list of words, got {s.tags!r}"


def _json_faults(value: object, path: str) -> Iterator[str]:
    """Arguments are stored as JSON, so that they survive every deploy and can be shown."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _json_faults(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"expected text as a key in {path}, got {key!r}"
            yield from _json_faults(item, f"{path}[{key!r}]")
    elif isinstance(value, float) and not -1e308 <= value <= 1e308:
        yield f"expected a JSON number in {path}, got {value!r}"
    elif value is not None and not isinstance(value, str | int | float | bool):
        yield (
            f"expected a JSON value in {path}, got {value!r} ({type(value).__name__}); pass text "
            "or a number and convert it in the task"
        )


def _number_faults(s: Any) -> Iterator[str]:
    for option in ("timeout", "result_ttl", "failure_ttl"):
        value = getattr(s, option)
        least = 1 if option == "timeout" else 0
        if value is None or value == -1:  # RQ's word for "without end"
            continue
        if not _is_whole(value) or value < least:
            yield (
                f"expected {option} in whole seconds, at least {least}, or -1 for no end, "
                f"got {value!r}"
            )
    if isinstance(s.retries, list | tuple):
        yield (
            f"expected retries to be a count, got {s.retries!r}; delays need a worker that "
            "promotes what waits, which this release has not yet"
        )
    elif not _is_whole(s.retries) or s.retries < 0:
        yield f"expected retries to be a count, 0 or more, got {s.retries!r}"
    for option in ("catch_up_window", "jitter"):
        value = getattr(s, option)
        if value is not None and (not isinstance(value, timedelta) or value < _MS):
            yield f"expected {option} as timedelta or seconds, at least 0.001 s, got {value!r}"
    if s.catch_up_limit is not None and (not _is_whole(s.catch_up_limit) or s.catch_up_limit < 1):
        yield f"expected catch_up_limit to be a count, at least 1, got {s.catch_up_limit!r}"


def _policy_faults(s: Any) -> Iterator[str]:
    if s.catch_up not in ("latest", "all", "none"):
        yield f"expected catch_up 'latest', 'all' or 'none', got {s.catch_up!r}"
    if s.overlap not in ("skip", "allow"):
        yield f"expected overlap 'skip' or 'allow', got {s.overlap!r}"
    if s.catch_up == "all" and s.overlap == "skip":
        yield (
            "catch_up='all' says that every fire time matters, overlap='skip' drops those that "
            "come while a job still runs; use overlap='allow' or catch_up='latest'"
        )
    if s.catch_up != "all" and s.catch_up_limit is not None:
        yield f"catch_up_limit goes with catch_up='all', got it beside catch_up={s.catch_up!r}"
    if s.catch_up == "none" and s.catch_up_window is not None:
        yield "catch_up_window has nothing to bound beside catch_up='none'; leave one of them out"


def _usual_overlap(catch_up: object) -> str:
    return "allow" if catch_up == "all" else "skip"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _normal(option: str, value: Any) -> Any:
    """A value in the one form that `Schedule` keeps; what has none is left to the checks."""
    if option in ("catch_up_window", "jitter") and isinstance(value, int | float):
        return value if isinstance(value, bool) else timedelta(seconds=value)
    if option in ("timeout", "result_ttl", "failure_ttl") and isinstance(value, timedelta):
        return int(value.total_seconds())
    if option in ("args", "tags") and isinstance(value, list):
        return tuple(value)
    if option == "kwargs" and isinstance(value, Mapping):
        return dict(value)
    return value


def _unknown_option(option: str) -> str:
    near = get_close_matches(option, _OPTION_NAMES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_OPTION_NAMES))}"
    return f"unknown option {option!r}; {hint}"


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", name)
