"""The configuration of callbacks, and how they are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from rq_clock.errors import Fault, ScheduleError
from rq_clock.model.view import camel
from rq_clock.redaction import masked_repr

MODES = ("after_answers", "steady", "off")
NONE = "-"
"""No value, as the scripts read it."""
_RETRY_DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
_DELAY_LIMIT, _LONGEST_DELAY = 100, 7 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How tasks are called. All of it can be changed while it runs, and counts from the next
    interval on.

    At most `select_size` calls begin in `base_interval_ms`. In the mode `after_answers` the next
    interval begins when the last answers are in, in `steady` calls begin at an even rate, and `off`
    limits nothing. `host_concurrency` and `host_rate` (per second) limit the calls of one host.

    A call has `http_callback_timeout_ms`. One that failed is made again after the next of
    `retry_delays` (seconds; the last one counts on), up to `max_retries` times. `dispatchers` is
    the number of jobs that may call at a time. Done and canceled tasks are kept, `keep_done` of
    each at most, for `keep_done_hours`; stale ones for `keep_stale_days`.
    """

    base_interval_ms: int = 1000
    http_callback_timeout_ms: int = 5000
    select_size: int = 100
    max_retries: int = 7
    mode: str = "after_answers"
    host_concurrency: int | None = None
    host_rate: float | None = None
    dispatchers: int = 1
    retry_delays: tuple[float, ...] = _RETRY_DELAYS
    keep_done: int = 1000
    keep_done_hours: int = 24
    keep_stale_days: int = 30

    def changed(self, changes: Mapping[str, Any]) -> Configuration:
        """Return the configuration with changes: names in either spelling, baseIntervalMs or
        base_interval_ms. Raises ScheduleError with every fault."""
        names = {f.name: f.name for f in fields(self)}
        names |= {camel(name): name for name in names}
        values: dict[str, Any] = {}
        faults = []
        for key, value in changes.items():
            name = names.get(key, "")
            if not name:
                expected = ", ".join(camel(f.name) for f in fields(self))
                got = masked_repr(key)
                faults.append(Fault(key[:100], f"expected one of {expected}, got {got}"))
            elif name in values:
                faults.append(Fault(key, f"expected {camel(name)} once, got two spellings"))
            else:
                values[name] = tuple(value) if isinstance(value, list) else value
                faults += _faults(name, values[name])
        if faults:
            raise ScheduleError(*faults)
        return replace(self, **values)

    def stored(self) -> dict[str, str]:
        """Return the fields as Redis and the scripts have them."""
        return {f.name: _stored(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_stored(cls, values: Mapping[str, str]) -> Configuration:
        """Return the configuration that `stored` wrote; a field that others have made unreadable
        has its default."""
        found: dict[str, Any] = {}
        for f in fields(cls):
            value = from_text(f.name, values[f.name]) if f.name in values else None
            if f.name in values and not list(_faults(f.name, value)):
                found[f.name] = value
        return cls(**found)


_LIMITS: dict[str, tuple[float, float]] = {
    "base_interval_ms": (1, 3_600_000),
    "http_callback_timeout_ms": (10, 300_000),
    "select_size": (1, 10_000),
    "max_retries": (0, 100),
    "host_concurrency": (1, 10_000),
    "host_rate": (0.001, 10_000),
    "dispatchers": (1, 100),
    "keep_done": (0, 1_000_000),
    "keep_done_hours": (1, 8760),
    "keep_stale_days": (1, 3650),
}
_OPTIONAL = ("host_concurrency", "host_rate")


def from_text(name: str, text: str) -> Any:
    """Return the value of a field that a text means, as on the command line and in Redis: a number,
    a mode, delays separated by commas; "-", "none" or "" for none. `changed` checks it."""
    text = text.strip()
    if name == "mode":
        return text
    if name == "retry_delays":
        return tuple(_number(part) for part in text.split(",") if part.strip())
    return None if text.lower() in ("", NONE, "none") else _number(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _stored(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_stored, value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return NONE if value is None else str(value)


def _faults(name: str, value: Any) -> Iterator[Fault]:
    shown = camel(name)
    got = masked_repr(list(value) if isinstance(value, tuple) else value)
    if name == "mode":
        if value not in MODES:
            yield Fault(shown, f"expected {shown} {', '.join(MODES)}, got {got}")
        return
    if name == "retry_delays":
        counted = isinstance(value, tuple) and 0 < len(value) <= _DELAY_LIMIT
        if not counted or not all(_is_number(n) and 0 <= n <= _LONGEST_DELAY for n in value):
            text = f"expected {shown} to be a list of 1-{_DELAY_LIMIT} delays in seconds, each 0 to"
            yield Fault(shown, f"{text} {_LONGEST_DELAY:,}, got {got}")
        return
    if value is None and name in _OPTIONAL:
        return
    low, high = _LIMITS[name]
    whole = name != "host_rate"
    right = _is_number(value) and (not whole or isinstance(value, int))
    if not right or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        none = ", or null for no limit" if name in _OPTIONAL else ""
        yield Fault(shown, f"expected {shown} as {kind}, {low:,} to {high:,}{none}, got {got}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingHost:
    """A host of which every call fails since an instant."""

    host: str
    failures: int
    since: datetime
    last: datetime
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbacksStatus:
    """How callbacks are. `calls` are the results of the last full minute, `minutes` those of the
    last hour, by the minute's begin; `counters` grow for ever (see store/tasks.py)."""

    now: datetime
    waiting: int
    calling: int
    retrying: int
    done: int
    stale: int
    canceled: int
    due: int
    oldest_due: datetime | None
    dispatchers: int
    failing_hosts: tuple[FailingHost, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    minutes: Mapping[datetime, Mapping[str, int]] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def oldest_due_seconds(self) -> float:
        """How long the task has been due that has waited longest; 0 when none is due."""
        return (self.now - self.oldest_due).total_seconds() if self.oldest_due else 0.0
