"""A schedule: trigger, target and options.

A `Schedule` is a declaration: frozen, complete, valid. Once it exists nothing here raises. Pure.

Not here: what is due (decision.py), checks (validation.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.model import targets
from rq_clock.model.targets import Target
from rq_clock.model.validation import NAME, faults
from rq_clock.model.view import camel
from rq_clock.redaction import masked_repr, masked_text
from rq_clock.similar import similar
from rq_clock.timing.triggers import Trigger, from_spec

_MS = timedelta(milliseconds=1)
_FAULT_LIMIT = 100
"""Faults of one schedule that are reported: each of many thousand arguments may have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A named trigger and target, with options.

    Raises ScheduleError with every fault of the declaration. Durations are timedelta or seconds;
    `None` leaves a value to RQ's default.
    """

    name: str
    trigger: Trigger
    target: Target
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    timeout: int | None = None
    retries: int | tuple[int, ...] = 0
    result_ttl: int | None = None
    failure_ttl: int | None = None
    catch_up: str = "latest"
    catch_up_window: timedelta | None = None
    catch_up_limit: int | None = None
    overlap: str = ""
    group: str | None = None
    group_limit: int = 1
    jitter: timedelta | None = None
    tags: tuple[str, ...] = ()
    ping: str | None = None
    renamed_from: str | None = None
    allowed_targets: tuple[str, ...] | None = None
    """Functions that its runs may call, as patterns; None for any. Not an option: the web process
    sets it for a token without the scope `commands`."""

    def __post_init__(self) -> None:
        found = list(islice(faults(self), _FAULT_LIMIT))
        if found:
            raise ScheduleError(*(replace(fault, schedule=_text(self.name)) for fault in found))

    @property
    def offset(self) -> timedelta:
        """Return the shift by `jitter`: derived from the name, so every process agrees."""
        if not self.jitter:
            return timedelta(0)
        digest = blake2b(self.name.encode(), digest_size=8).digest()
        span = self.jitter // _MS
        return timedelta(milliseconds=int.from_bytes(digest) % span)

    def next_after(self, t: datetime) -> datetime | None:
        """Return the first fire time after `t`, jitter included; None when there is none."""
        offset = self.offset
        found = self.trigger.next_after(t - offset)
        return found and found + offset

    def definition(self) -> str:
        """Return the schedule as one line of JSON, to store in Redis and to compare in a deploy.

        Options at their default are left out, so a new option of a later release changes no
        stored definition; so is `renamed_from`, an instruction to one deploy.
        """
        document: dict[str, Any] = {**self.trigger.spec(), **targets.to_spec(self.target)}
        for key, option in STORED.items():
            value = getattr(self, option)
            if value != _DEFAULTS[option]:
                if isinstance(value, timedelta):
                    value = value / timedelta(seconds=1)
                document[key] = value
        if self.overlap == _usual_overlap(self.catch_up):
            del document["overlap"]
        return _encode(document)

    def fires_like(self, other: Schedule) -> bool:
        """Return whether both have the same fire times: trigger and offset."""
        return (self.trigger, self.offset) == (other.trigger, other.offset)

    def rule(self) -> str:
        """Return when it is due, as JSON: what a backfill keeps of the schedule."""
        jitter = {"jitter": self.jitter // _MS} if self.jitter else {}
        return json.dumps(self.trigger.spec() | jitter)

    def under(self, rule: str) -> Schedule:
        """Return the schedule as it would be with another `rule`."""
        spec = json.loads(rule)
        jitter = spec.pop("jitter", None)
        return replace(self, trigger=from_spec(spec), jitter=jitter and jitter * _MS)

    def parts(self) -> dict[str, Any]:
        """Return trigger, target and options by name, as `declare` and `Schedules` accept them."""
        unstored = ("name", "renamed_from")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unstored}

    def call(self) -> dict[str, Any]:
        """Return the arguments of RQ's `create_job`: function, args, kwargs, timeout, and for a
        command or webhook a description without secrets."""
        if not isinstance(self.target, str):
            return self.target.call(self.timeout)
        kwargs = dict(self.kwargs)
        return {"func": self.target, "args": self.args, "kwargs": kwargs, "timeout": self.timeout}


_SHORT, _ALIKE_LIMIT = 2000, 1000
"""Characters of a definition whose target and options are kept, and how many are."""
_PUT: dict[str, Callable[..., None]] = {
    f.name: getattr(Schedule, f.name).__set__ for f in fields(Schedule)
}
"""Field → what sets it in a new schedule, past the checks."""
_PUT_NAME, _PUT_TRIGGER = _PUT.pop("name"), _PUT.pop("trigger")
_alike: dict[str, list[tuple[Callable[..., None], Any]]] = {}
"""Target and options as read from a definition → the values of a schedule that has them: many
differ only in name and trigger, and checking takes most of the time of reading."""
_DEFAULTS = {
    f.name: {} if f.default is MISSING else f.default
    for f in fields(Schedule)
    if f.name not in {"name", "trigger", "target"}
}
STORED = {camel(name): name for name in _DEFAULTS if name != "renamed_from"}
"""Key of a stored definition, and of a manifest → the option."""
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_SPEC_KEYS = frozenset(
    {"cron", "every", "at", "on", "tz", "anchor", "start", "end", "maxRuns", "once"}
)
_TARGET_KEYS = frozenset({"func", "command", "dyno", "webhook"})


def declare(
    name: str, trigger: Trigger, target: Target | Callable[..., object], options: Mapping[str, Any]
) -> Schedule:
    """Return a schedule from the values that its author wrote: a callable becomes its dotted name,
    durations and lists their one form. An unknown option is a fault that names a similar one.

    Raises ScheduleError with every fault.
    """
    found = [_unknown_option(option) for option in options if option not in _DEFAULTS]
    known = {o: _normal(o, v) for o, v in options.items() if o in _DEFAULTS}
    if not known.get("overlap"):
        known["overlap"] = _usual_overlap(known.get("catch_up", "latest"))
    if callable(target) and hasattr(
        target, "__qualname__"
    ):  # an object that can be called has none
        target = f"{target.__module__}.{target.__qualname__}"
    try:
        schedule = Schedule(name=name, trigger=trigger, target=target, **known)  # type: ignore[arg-type]
    except ScheduleError as error:
        found += error.faults
    if found:
        raise ScheduleError(*(replace(fault, schedule=_text(name)) for fault in found))
    return schedule


def from_definition(name: str, text: str | bytes) -> Schedule:
    """Return the schedule that `Schedule.definition` wrote. Raises ScheduleError when it cannot be
    read, for example because a later release of rq-clock wrote it."""
    try:
        document = json.loads(text)
        trigger = from_spec({key: document.pop(key) for key in _SPEC_KEYS & document.keys()})
        rest = repr(document) if len(text) <= _SHORT else ""
        if (alike := _alike.get(rest)) is not None and NAME.match(name):
            return _unchecked(name, trigger, alike)
        [kind] = _TARGET_KEYS & document.keys()
        target = targets.from_spec(kind, document.pop(kind))
        options = {STORED.get(key, key): value for key, value in document.items()}
    except Exception as error:  # whatever others have written
        fault = f"cannot read the stored definition {_shown(text)}: {error}"
        raise ScheduleError(Fault("", fault, schedule=name)) from None
    schedule = declare(name, trigger, target, options)
    if rest:
        if len(_alike) >= _ALIKE_LIMIT:
            _alike.clear()
        _alike[rest] = [(put, getattr(schedule, option)) for option, put in _PUT.items()]
    return schedule


def _unchecked(
    name: str, trigger: Trigger, rest: list[tuple[Callable[..., None], Any]]
) -> Schedule:
    """Return a schedule of parts that have been checked."""
    schedule = object.__new__(Schedule)
    for put, value in rest:
        put(schedule, value)
    _PUT_NAME(schedule, name)
    _PUT_TRIGGER(schedule, trigger)
    return schedule


def _usual_overlap(catch_up: object) -> str:
    return "allow" if catch_up == "all" else "skip"


def _normal(option: str, value: Any) -> Any:
    """Return a value in the one form that `Schedule` keeps; the checks refuse any other value."""
    if option in ("catch_up_window", "jitter") and isinstance(value, int | float):
        with suppress(ValueError, OverflowError):  # of nan, and of more than timedelta holds
            return value if isinstance(value, bool) else timedelta(seconds=value)
    if option in ("timeout", "result_ttl", "failure_ttl") and isinstance(value, timedelta):
        return int(value.total_seconds())
    if option in ("args", "tags", "retries", "allowed_targets") and isinstance(value, list):
        return tuple(value)
    if option == "kwargs" and isinstance(value, Mapping):
        return dict(value)
    return value


def _shown(text: str | bytes) -> str:
    """Return a definition that cannot be read, unless it may hold secrets: none can be masked."""
    shown = repr(text)
    secretive = any(f'"{word}"' in shown for word in ("env", "headers", "ping", "shell", "url"))
    return "(not shown, it may hold secrets)" if secretive else masked_text(shown)


def _text(name: object) -> str:
    return name if isinstance(name, str) else ""


def _unknown_option(option: str) -> Fault:
    known = sorted(_DEFAULTS.keys() - {"allowed_targets"})
    near = similar(option, known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
    return Fault(option, f"unknown option {masked_repr(option)}; {hint}")
