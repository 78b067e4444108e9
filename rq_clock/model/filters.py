"""Filters of schedules. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rq_clock.model.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a schedule has to meet; None or empty is no condition. `states` matches a
    schedule that is in any of them (see model/verdict.py). `text` is part of its name or target, in
    any case."""

    states: tuple[str, ...] = ()
    queue: str | None = None
    tag: str | None = None
    text: str | None = None
    origin: str | None = None

    @property
    def needs_definitions(self) -> bool:
        """Return whether the definitions are needed to match."""
        return bool(self.queue or self.tag or self.text)

    def may_match(self, name: str, definition: str) -> bool:
        """Return False when the stored text alone rules the schedule out: it saves parsing very
        many definitions."""
        function = self.text and '"func"' in definition  # other targets are not shown as stored
        if function and str(self.text).lower() not in f"{name} {definition}".lower():
            return False
        if self.tag and self.tag not in definition:
            return False
        return self.queue in (None, "", "default") or str(self.queue) in definition

    def matches(self, schedule: Schedule | None, searched: str) -> bool:
        """Return whether queue, tag and text match; `searched` is `search_text(…)` of it."""
        if self.queue and (schedule is None or schedule.queue != self.queue):
            return False
        if self.tag and (schedule is None or self.tag not in schedule.tags):
            return False
        return not self.text or self.text.lower() in searched


def search_text(name: str, schedule: Schedule | None) -> str:
    """Return the text that a filter searches, in lower case."""
    target = schedule and schedule.target
    shown = target if isinstance(target, str) else target.describe() if target else ""
    return f"{name} {shown}".lower()
