"""How a difference is told: what a manifest would change, and what a deploy would.

A view is what `--json` prints; the lines for people are made of the same. Secrets are masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rq_clock.cli.common import complain, iso, now, open_store, plural

if TYPE_CHECKING:
    from rq_clock.clock import reconcile
    from rq_clock.model.entry import Entry
    from rq_clock.model.schedule import Schedule
    from rq_clock.settings import Settings
    from rq_clock.store.store import Store

LISTED = 100
"""Schedules of a kind that are listed for people; JSON has them all."""
_CHUNK = 500


# ---- a deploy ---------------------------------------------------------------------------------


def deploy_view(
    store: Store, declared: Mapping[str, Schedule], release: int, now: datetime
) -> dict[str, Any]:
    """What a clock with these schedules would change when it leads, and what of the past it would
    enqueue at once. `notes` say why it would leave all as it is."""
    from rq_clock.clock.reconcile import differing, plan
    from rq_clock.schedules.serializers import changes_view, what_view

    stored = store.declared()
    note = ""
    if release and store.released() > release:
        note = f"release {release} changes nothing: release {store.released()} has declared here"
    elif stored and not declared:
        note = "no schedules are declared: the clock removes none unless started with --remove-all"
    if note:
        return changes_view(store.namespace, unchanged=len(stored), notes=[note])
    entries, _ = store.load(differing(declared, stored))
    found = plan(declared, stored, entries, now)
    past = {change.name for change in found.changes if change.past}
    return changes_view(
        store.namespace,
        added=[{"name": n, **what_view(declared[n]), "paused": False} for n in found.added],
        changed=[_changed(entries[name], declared[name]) for name in found.changed],
        removed=[{"name": name, **what_view(None)} for name in found.removed],
        renamed=[_changed(entries[old], declared[new]) for old, new in found.renamed],
        past=sorted(past),
        caughtUp=list(_caught_up(store, declared, found, now)),
        unchanged=len(declared) - len(found.added) - len(found.changed) - len(found.renamed),
    )


def tell_deploy(settings: Settings, declared: Mapping[str, Schedule]) -> None:
    """Say on standard error what a deploy would change, or in one line why that is not known.

    Nothing is raised: a release must not fail for it.
    """
    from redis.exceptions import RedisError

    from rq_clock.store.client import diagnose

    try:
        view = deploy_view(open_store(), declared, settings.release, now())
    except Exception as error:
        redis = isinstance(error, RedisError)
        reason = diagnose(error, settings.redis_url) if redis else f"{error}"
        complain(f"what a deploy would change is not known: {' '.join(reason.split())}")
        return
    click.echo(f"a deploy changes in namespace {view['namespace']!r}:", err=True)
    tell(view, err=True)


def _changed(entry: Entry, schedule: Schedule) -> dict[str, Any]:
    from rq_clock.manifest.diff import Difference, differences
    from rq_clock.schedules.serializers import fields_view

    found = differences(entry.schedule, schedule)
    if not entry.declared:
        found.append(Difference("origin", "run-time", "declared"))
    return {"name": schedule.name, "was": entry.name, "fields": fields_view(found)}


def _caught_up(
    store: Store, declared: Mapping[str, Schedule], found: reconcile.Plan, now: datetime
) -> Iterator[dict[str, Any]]:
    """The overdue schedules, also run-time ones, and what would become of their fire times."""
    from rq_clock.model.decision import due, is_on_time

    old_rules = {entry.name: entry for entry in found.unsettled}
    new_names, removed = dict(found.renamed), set(found.removed)
    overdue = [name for name, _ in store.due(None, now) if name not in removed]
    for start in range(0, len(overdue), _CHUNK):
        for entry in store.load(overdue[start : start + _CHUNK])[0].values():
            name = new_names.get(entry.name, entry.name)
            schedule = declared.get(name, entry.schedule)
            if old := old_rules.get(entry.name):
                schedule = old.schedule
            if schedule is None:
                continue
            decision = due(schedule, entry.decided, now, entry.blocks)
            late = [t for t in decision.fire_times if not is_on_time(t, now)]
            skips = [skip for skip in decision.skips if not is_on_time(skip.first, now)]
            if late or skips:
                yield {
                    "name": name,
                    "enqueued": len(late),
                    "first": iso(late[0]) if late else None,
                    "last": iso(late[-1]) if late else None,
                    "more": decision.next is not None and decision.next <= now,
                    "skipped": [{"reason": s.reason, "count": s.count} for s in skips],
                }


# ---- both -------------------------------------------------------------------------------------


def tell(view: Mapping[str, Any], *, err: bool = False) -> None:
    """The view for people: a line for each schedule, with a sign; what changes below it."""
    from rq_clock.schedules.serializers import CHANGES

    for note in view["notes"]:
        click.echo(f"note: {note}", err=err)
    kinds = (("added", "+", "green"), ("renamed", ">", "yellow"), ("changed", "~", "yellow"),
             ("removed", "-", "red"))  # fmt: skip
    for kind, mark, color in kinds:
        for row in view[kind][:LISTED]:
            click.echo(click.style(f"{mark} {_row(row)}", fg=color), err=err)
            for field in row.get("fields", ()):
                click.echo(f"    {_field(field)}", err=err)
        _tell_more(view[kind], kind, err=err)
    for row in view["caughtUp"][:LISTED]:
        click.echo(click.style(f"! {_caught(row)}", fg="yellow"), err=err)
    _tell_more(view["caughtUp"], "overdue", err=err)
    if view["past"]:
        listed = ", ".join(view["past"][:LISTED])
        click.echo(f"past: {listed}: its only instant has passed, so it never runs", err=err)
    counts = [f"{len(view[kind]):,} {kind}" for kind in CHANGES if view[kind]]
    click.echo(", ".join([*counts, f"{view['unchanged']:,} unchanged"]), err=err)


def _tell_more(rows: Sequence[Any], kind: str, *, err: bool) -> None:
    if len(rows) > LISTED:
        click.echo(f"  … and {len(rows) - LISTED:,} more {kind}", err=err)


def _row(row: Mapping[str, Any]) -> str:
    from rq_clock.redaction import printable

    line = str(row["name"])
    if row.get("was", line) != line:
        line = f"{row['was']} is now {line}"
    if row.get("words"):
        line += f": {row['words']}; {row['runs']}"
    return printable(line + (" (paused)" if row.get("paused") else ""), 300)


def _field(field: Mapping[str, Any]) -> str:
    from rq_clock.redaction import printable

    old, new = (printable(field[k] or "(default)", 200) for k in ("from", "to"))
    return f"{field['field']}: {old} → {new}"


def _caught(row: Mapping[str, Any]) -> str:
    told = []
    if row["enqueued"]:
        told.append(f"{plural(row['enqueued'], 'late fire time')} enqueued at once")
        told[-1] += f" ({row['first']} to {row['last']})" if row["enqueued"] > 1 else ""
        told += ["more right after"] if row["more"] else []
    told += [f"{skip['count']:,} skipped ({skip['reason']})" for skip in row["skipped"]]
    return f"{row['name']}: {', '.join(told)}"
