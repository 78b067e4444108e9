"""The command that finds problems and their remedies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rq_clock.cli.common import CHECK_FAILED, echo, host_now, json_option, print_json, progress
from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.redaction import escaped
from rq_clock.settings import Settings

if TYPE_CHECKING:
    from rq_clock.doctor.facts import Code
    from rq_clock.doctor.server_checks import Finding
    from rq_clock.serializers.clock import RebuiltView
    from rq_clock.store.store import Store

COLORS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command()
@click.option(
    "--rebuild-index", is_flag=True, help="Rebuild the due index first; safe while a clock runs."
)
@json_option
def doctor(rebuild_index: bool, as_json: bool) -> None:
    """Find problems and their remedies.

    It examines Redis, the namespace and the declared schedules. Exits with 5 if it finds an error
    or a warning.
    """
    from rq_clock.doctor.facts import gather
    from rq_clock.doctor.schedule_checks import findings, healthy
    from rq_clock.jobs.executions import Executions
    from rq_clock.serializers.clock import DoctorView
    from rq_clock.store.client import connect
    from rq_clock.store.store import Store

    settings = Settings.from_env()
    code, owner = _code(settings.app), (settings.owner, settings.former_owner)
    with connect(settings=settings) as redis:
        redis.ping()  # or the time to connect would look like skew
        store = Store.from_settings(redis, settings)
        rebuilt = _rebuild(store) if rebuild_index else None
        started = host_now()
        facts = gather(store, Executions(redis, settings.namespace), owner, code)
    found = findings(facts, started)
    if as_json:
        namespace, well = settings.namespace, healthy(found)
        print_json(DoctorView(namespace=namespace, healthy=well, rebuilt=rebuilt, checks=found))
    else:
        _show(found)
    if not healthy(found):
        sys.exit(CHECK_FAILED)


def _show(found: list[Finding]) -> None:
    from rq_clock.doctor.schedule_checks import healthy

    for finding in found:
        level = click.style(finding.level, fg=COLORS[finding.level])
        space = " " * (len("warning") - len(finding.level))
        echo(f"{level}{space}  {finding.code}  {escaped(finding.text)}", styled=True)
        if finding.remedy:
            echo(f"         {finding.remedy}")
    if healthy(found):
        echo("all good")


def _rebuild(store: Store) -> RebuiltView:
    from rq_clock.doctor.rebuild import rebuild
    from rq_clock.serializers.clock import RebuiltView

    total, checked, corrected = store.size(), 0, 0
    with progress(total, "due index") as show:
        for schedules, changed in rebuild(store):
            checked, corrected = checked + schedules, corrected + changed
            show(checked)
    echo(f"due index: {checked} schedules checked, {corrected} corrected", err=True)
    return RebuiltView(schedules=checked, corrected=corrected)


def _code(name: str) -> Code:
    """Return the declared schedules, or why the app cannot be loaded."""
    from rq_clock.clock.app import load
    from rq_clock.doctor.facts import Code

    try:
        clock, faults = load(name)
    except ScheduleError as error:
        return Code(faults=[*map(str, error.faults)])
    except RqClockError as error:
        return Code(problem=str(error))
    return Code(schedules=clock.declared, faults=[*map(str, faults)])
