"""Commands that import, export and compare schedules.

`apply` and `import` show a plan and ask. Then they make all of its changes, or none if one of its
schedules has changed meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from rq_clock.cli.common import (
    CHECK_FAILED,
    complain,
    confirm,
    echo,
    interactive,
    json_option,
    limited,
    now,
    open_store,
    plural,
    print_json,
    progress,
    schedules_of,
    warn_without_leader,
    yes_option,
)
from rq_clock.cli.completion import queue_names
from rq_clock.cli.diff import deploy_view, print_changes
from rq_clock.cli.params import Zone
from rq_clock.errors import Conflict, ScheduleError
from rq_clock.manifest.definition import Item, Paused
from rq_clock.manifest.diff import Plan, hidden
from rq_clock.manifest.document import choose, dump, read
from rq_clock.manifest.importers.cron_to_go import from_cron_to_go
from rq_clock.manifest.importers.crontab import from_crontab
from rq_clock.manifest.importers.heroku import from_heroku_scheduler
from rq_clock.manifest.importers.result import Imported
from rq_clock.manifest.reader import LONGEST
from rq_clock.model.schedule import Schedule
from rq_clock.serializers.schedules import ChangesView, plan_view
from rq_clock.settings import Settings

if TYPE_CHECKING:
    from rq_clock.store.store import Store

LISTED = 20
"""Conflicting schedules that a message lists."""
file_argument = click.argument("file", type=click.File("rb"))
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would change.")
prune_option = click.option(
    "--prune", is_flag=True, help="Remove the run-time schedules that are not in the file."
)


# ---- export -----------------------------------------------------------------------------------


@click.command()
@click.option("-o", "--output", metavar="FILE", help="File to write (default: standard output).")
@click.option(
    "--format", "form", type=click.Choice(["yaml", "json"]),
    help="Format (default: by the name of FILE, else yaml).",
)  # fmt: skip
@click.option("--tag", "tags", multiple=True, help="Export only this tag; repeatable.")
@click.option("--with-secrets", is_flag=True, help="Write secrets in clear instead of ****.")
def export(output: str | None, form: str | None, tags: tuple[str, ...], with_secrets: bool) -> None:
    """Write the run-time schedules to a file.

    The manifest includes their pauses; `apply` reads it. Declared schedules belong to the code and
    are left out, and so are the one-off jobs of `Schedules.once`. Where a secret is masked, `apply`
    keeps the stored one.
    """
    path = None if output in (None, "-") else Path(str(output))
    form = form or ("json" if path and path.suffix == ".json" else "yaml")
    store = open_store()
    chosen = choose(store.everything(), tags)
    items = chosen.items(store.pauses([schedule.name for schedule in chosen.schedules]), now())
    text = dump(items, form=form, secrets=with_secrets)
    if path is None:
        echo(text, nl=False)
    else:
        _write(path, text, private=with_secrets)
        complain(f"{plural(len(items), 'schedule')} in {path}")
    if not with_secrets:
        _print_hidden([item.schedule for item in items])
    if chosen.jobs:
        complain(f"{plural(chosen.jobs, 'waiting one-off job')} left out")
    if chosen.faults:
        _print_indented(f"left out: {fault}" for fault in chosen.faults)
        sys.exit(1)


def _write(path: Path, text: str, *, private: bool) -> None:
    """Write a whole file or nothing. Only its owner can read a private one. A pipe or a device,
    such as /dev/stdout, is written to, not replaced."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(text)
            return
        path = path.resolve()  # of a link; that of a pipe leads nowhere
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        draft.touch(0o600 if private else 0o666, exist_ok=False)
        draft.write_text(text)
        draft.replace(path)
    except OSError as error:
        raise click.FileError(str(path), hint=error.strerror) from None


def _print_hidden(schedules: Sequence[Schedule]) -> None:
    masked = [f"{s.name}: {', '.join(paths)}" for s in schedules if (paths := hidden(s))]
    if masked:
        complain("masked as possible secrets (--with-secrets writes them):")
        _print_indented(masked)


# ---- apply, diff ------------------------------------------------------------------------------


@click.command()
@file_argument
@prune_option
@dry_run_option
@yes_option
def apply(file: IO[bytes], prune: bool, dry_run: bool, yes: bool) -> None:
    """Make the run-time schedules match a file.

    FILE is a manifest; - is standard input. The command shows the changes and asks. Scripts must
    pass --yes. It makes all of the changes, or none if somebody else has changed one of these
    schedules meanwhile. Schedules that are not in FILE stay, unless you pass --prune.
    """
    store = open_store()
    plan = schedules_of(store).plan(read(_text(file)), prune=prune)
    print_changes(plan_view(plan, store.namespace))
    _carry_out(store, plan, f"apply {_name(file)}", dry_run=dry_run, yes=yes)


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@prune_option
@json_option
def diff(file: IO[bytes] | None, prune: bool, as_json: bool) -> None:
    """Show what a deploy or `apply` would change.

    Without FILE: what the clock would change after a deploy of this code (RQ_CLOCK_APP), and the
    past fire times that it would enqueue at once. With FILE: what `apply FILE` would change. Exits
    with 0 if nothing would change, 5 if something would.
    """
    if prune and not file:
        raise click.UsageError("--prune goes with a FILE")
    if file:
        store = open_store()
        plan = schedules_of(store).plan(read(_text(file)), prune=prune)
        view = plan_view(plan, store.namespace)
    else:
        view = _deploy()
    if as_json:
        print_json(view)
    else:
        print_changes(view)
    if not view.equal:
        sys.exit(CHECK_FAILED)


def _deploy() -> ChangesView:
    from rq_clock.clock.app import load

    settings = Settings.from_env()
    clock, faults = load(settings.app)
    if faults:
        raise ScheduleError(*faults)
    return deploy_view(open_store(), clock.declared, settings.release, now())


def _name(file: IO[bytes]) -> str:
    return getattr(file, "name", "<stdin>")


def _text(file: IO[bytes]) -> str:
    read = file.read(LONGEST + 1)
    if len(read) > LONGEST:
        raise ScheduleError(f"{_name(file)}: expected at most {LONGEST:,} bytes; divide it")
    try:
        return read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScheduleError(f"{_name(file)}: expected UTF-8, got {error.reason}") from None


def _carry_out(store: Store, plan: Plan, reason: str, *, dry_run: bool, yes: bool) -> None:
    """Make the changes of a plan that has been shown, after asking."""
    from rq_clock.store.operations import BATCH_LIMIT

    count = len(plan.steps)
    if not count:
        complain("nothing to change")
        return
    if count > BATCH_LIMIT:
        batches = -(-count // BATCH_LIMIT)
        complain(f"{count:,} changes are made in {batches} batches, each one whole")
    if dry_run:
        complain("nothing was changed: --dry-run")
        return
    if not (yes or interactive()):
        raise click.UsageError("scripts must pass --yes to make these changes")
    confirm(f"Make {plural(count, 'change')} in namespace {store.namespace!r}?", yes=yes)
    _make(store, plan, reason)
    echo(f"{plural(count, 'change')} made", err=True)
    warn_without_leader(store, "they fire")


def _make(store: Store, plan: Plan, reason: str) -> None:
    from rq_clock.store.operations import BATCH_LIMIT

    count, made = len(plan.steps), 0
    with progress(count, "changed", shown=count > BATCH_LIMIT) as show:

        def count_made(total: int) -> None:
            nonlocal made
            made = total
            show(total)

        try:
            schedules_of(store).apply(plan, reason=reason, progress=count_made)
        except Conflict as conflict:
            done = f"the first {made:,} changes were made" if made else "nothing was changed"
            faults = limited([str(fault) for fault in conflict.faults], LISTED)
            raise ScheduleError(*faults, f"{done}; run it again") from None


# ---- import -----------------------------------------------------------------------------------


@click.command("import")
@click.argument("source", type=click.Choice(["crontab", "heroku", "crontogo"]))
@file_argument
@click.option("--prefix", default="", help="Prefix for the names.")
@click.option("--queue", default="default", shell_complete=queue_names, help="RQ queue.")
@click.option("--tz", type=Zone(), help="Zone of a crontab's machine (default: UTC).")
@click.option(
    "--system/--user",
    default=None,
    help="Kind of crontab: the sixth field is a user, or not (default: guess).",
)
@click.option("--dynos", is_flag=True, help="Keep jobs of heroku and crontogo in one-off dynos.")
@dry_run_option
@yes_option
def import_(source: str, file: IO[bytes], prefix: str, dry_run: bool, **options: Any) -> None:
    """Import schedules from another tool.

    They become shell commands, or with --dynos one-off dynos. FILE is one of these; - is
    standard input:

    \b
    crontab   the output of `crontab -l`, or /etc/crontab
    heroku    the table of Heroku Scheduler's dashboard, copied
    crontogo  the output of `heroku cron:jobs:export`, or JSON of Cron To Go

    The command shows the new schedules, the differences in behavior and the rejected lines, and
    asks. Existing schedules stay as they are. Paused schedules stay paused.
    """
    if source != "crontab" and (options["tz"] or options["system"] is not None):
        raise click.UsageError("--tz, --system and --user go with crontab")
    if source == "crontab" and options["dynos"]:
        raise click.UsageError("--dynos goes with heroku and crontogo")
    imported = _imported(source, _text(file), options)
    store = open_store()
    plan = _only_new(schedules_of(store).plan(_imported_items(imported, prefix)))
    print_changes(plan_view(plan, store.namespace))
    if imported.notes:
        complain("notes" + (" (names without the prefix):" if prefix else ":"))
        _print_indented(imported.notes)
    if imported.left_out:
        complain(f"{len(imported.left_out):,} left out:")
        _print_indented(f"{left.line}: {left.text}: {left.reason}" for left in imported.left_out)
    _carry_out(store, plan, f"import {source}", dry_run=dry_run, yes=options["yes"])
    if imported.left_out and not imported.schedules:
        sys.exit(1)


def _imported(source: str, text: str, options: Mapping[str, Any]) -> Imported:
    queue = options["queue"]
    if source == "heroku":
        return from_heroku_scheduler(text, queue=queue, dynos=options["dynos"])
    if source == "crontogo":
        return from_cron_to_go(text, queue=queue, dynos=options["dynos"])
    return from_crontab(text, system=options["system"], tz=options["tz"] or "UTC", queue=queue)


def _imported_items(imported: Imported, prefix: str) -> list[Item]:
    paused = Paused(reason="paused before the import")
    return [
        Item(
            schedule=replace(schedule, name=prefix + schedule.name),
            paused=paused if schedule.name in imported.paused else None,
        )
        for schedule in imported.schedules
    ]


def _only_new(plan: Plan) -> Plan:
    """Return the plan without changed pauses. Raises ScheduleError if it redefines a schedule."""
    others = [step.name for step in plan.changed if step.is_redefined]
    lines = [f"{name}: exists already with another definition" for name in others]
    if lines:
        remedy = "nothing was imported; pass --prefix, or remove them first"
        raise ScheduleError(*limited(lines, LISTED), remedy)
    unchanged = plan.unchanged + len(plan.changed)
    return replace(plan, steps=tuple(plan.added), unchanged=unchanged)


def _print_indented(lines: Iterable[str]) -> None:
    for line in lines:
        echo(f"    {line}", err=True)
