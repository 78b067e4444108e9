"""Print differences: the changes of a manifest or of a deploy. Secrets are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import click

from rq_clock.cli.common import complain, echo, limited, now, open_store, plural
from rq_clock.manifest.diff import FieldChange, differences
from rq_clock.model.decision import is_on_time
from rq_clock.model.entry import Entry
from rq_clock.model.schedule import Schedule
from rq_clock.redaction import printable
from rq_clock.serializers.schedules import (
    CaughtUpView,
    ChangesView,
    ChangeView,
    SkipCountView,
    change_view,
)
from rq_clock.settings import Settings
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.clock import reconcile
    from rq_clock.store.store import Store

LISTED = 100
"""Maximum of printed schedules of each kind; JSON has them all."""


# ---- a deploy ---------------------------------------------------------------------------------


def deploy_view(
    store: Store, declared: Mapping[str, Schedule], release: int, now: datetime
) -> ChangesView:
    """Return the changes that a clock with these schedules makes when it leads, and the past fire
    times that it enqueues. `notes` explain why it would change nothing."""
    from rq_clock.clock.reconcile import differing, plan, refusal

    stored = store.declared()
    note = ""
    if release and store.released() > release:
        note = f"release {release} changes nothing: release {store.released()} has declared here"
    elif reason := refusal(declared, stored):
        note = f"the clock changes nothing: {reason}"
    if note:
        return ChangesView(
            namespace=store.namespace, equal=True, unchanged=len(stored), notes=[note]
        )
    entries, _ = store.load(differing(declared, stored))
    found = plan(declared, stored, entries, now)
    return ChangesView(
        namespace=store.namespace,
        equal=not (found.added or found.changed or found.removed or found.renamed),
        added=[change_view(name, declared[name]) for name in found.added],
        changed=[_changed(entries[name], declared[name]) for name in found.changed],
        removed=[change_view(name, None) for name in found.removed],
        renamed=[_changed(entries[old], declared[new]) for old, new in found.renamed],
        past=sorted(
            {
                change.name
                for change in found.changes
                if change.skip and change.skip.reason == "past"
            }
        ),
        caught_up=list(_caught_up(store, declared, found, now)),
        unchanged=len(declared) - len(found.added) - len(found.changed) - len(found.renamed),
    )


def deploy_preview(settings: Settings, declared: Mapping[str, Schedule]) -> ChangesView | None:
    """Return the changes of a deploy; None, after a line on standard error, if they are unknown.

    It never raises: a release must not fail because of it.
    """
    from redis.exceptions import RedisError

    from rq_clock.store.diagnosis import diagnose

    try:
        return deploy_view(open_store(), declared, settings.release, now())
    except Exception as error:
        redis = isinstance(error, RedisError)
        reason = diagnose(error, settings.redis_url) if redis else f"{error}"
        complain(f"the changes of a deploy are unknown: {' '.join(reason.split())}")
        return None


def _changed(entry: Entry, schedule: Schedule) -> ChangeView:
    found = differences(entry.schedule, schedule)
    if not entry.declared:
        found.append(FieldChange("origin", "run-time", "declared"))
    return ChangeView(name=schedule.name, was=entry.name, fields=found)


def _caught_up(
    store: Store, declared: Mapping[str, Schedule], found: reconcile.Plan, now: datetime
) -> Iterator[CaughtUpView]:
    """Yield the overdue schedules, also run-time ones, with their past fire times."""
    from rq_clock.store.store import portions

    old_rules = {entry.name: entry for entry in found.unsettled}
    new_names, removed = dict(found.renamed), set(found.removed)
    overdue = [name for name, _ in store.due(None, now) if name not in removed]
    for portion in portions(overdue):
        for entry in store.load(portion)[0].values():
            name = new_names.get(entry.name, entry.name)
            schedule = declared.get(name, entry.schedule)
            if old := old_rules.get(entry.name):
                schedule = old.schedule
            if schedule is None:
                continue
            decision = replace(entry, schedule=schedule).decide(now)
            late = [t for t in decision.fire_times if not is_on_time(t, now)]
            skips = [skip for skip in decision.skips if not is_on_time(skip.first, now)]
            if late or skips:
                yield CaughtUpView(
                    name=name,
                    enqueued=len(late),
                    first=late[0] if late else None,
                    last=late[-1] if late else None,
                    more=decision.next is not None and decision.next <= now,
                    skipped=[SkipCountView(reason=s.reason, count=s.count) for s in skips],
                )


# ---- output -----------------------------------------------------------------------------------


def print_changes(view: ChangesView, *, err: bool = False) -> None:
    """Print the changes: a line for each schedule, with a sign; its changed fields below it."""
    lines = [f"note: {note}" for note in view.notes]
    kinds = (
        ("added", view.added, "+", "green"),
        ("renamed", view.renamed, ">", "yellow"),
        ("changed", view.changed, "~", "yellow"),
        ("removed", view.removed, "-", "red"),
    )
    for kind, rows, mark, color in kinds:
        lines += limited([_row(row, mark, color) for row in rows], LISTED, f" {kind}")
    overdue = [click.style(f"! {_late(late)}", fg="yellow") for late in view.caught_up]
    lines += limited(overdue, LISTED, " overdue")
    if view.past:
        listed = ", ".join(view.past[:LISTED])
        lines.append(f"past: {listed}: its only instant has passed, so it never runs")
    counts = [f"{len(rows):,} {kind}" for kind, rows, _, _ in kinds if rows]
    lines.append(", ".join([*counts, f"{view.unchanged:,} unchanged"]))
    echo("\n".join(lines), err=err, styled=True)


def _row(change: ChangeView, mark: str, color: str) -> str:
    line = f"{mark} {change.name}"
    if change.was not in (None, change.name):
        line = f"{mark} {change.was} is now {change.name}"
    if change.words:
        line += f": {change.words}; {change.runs}"
    lines = [click.style(printable(line + (" (paused)" if change.paused else ""), 300), fg=color)]
    for field in change.fields:
        old, new = (printable(text or "(default)", 200) for text in (field.old, field.new))
        lines.append(f"    {field.path}: {old} → {new}")
    return "\n".join(lines)


def _late(late: CaughtUpView) -> str:
    parts = []
    if late.enqueued:
        parts.append(f"{plural(late.enqueued, 'late fire time')} enqueued at once")
        if late.enqueued > 1 and late.first and late.last:
            parts[-1] += f" ({iso(late.first)} to {iso(late.last)})"
        parts += ["more right after"] if late.more else []
    parts += [f"{skip.count:,} skipped ({skip.reason})" for skip in late.skipped]
    return f"{late.name}: {', '.join(parts)}"
