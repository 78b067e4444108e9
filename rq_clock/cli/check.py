"""The command `check`, for the release phase and CI."""

from __future__ import annotations

import sys

import click

from rq_clock.cli.common import echo, json_option, plural, print_json
from rq_clock.cli.diff import deploy_preview, print_changes
from rq_clock.serializers.schedules import CheckView, fault_view
from rq_clock.settings import Settings


@click.command()
@json_option
def check(as_json: bool) -> None:
    """Validate the declared schedules.

    For the release phase and CI. Like a worker it runs what RQ_CLOCK_SETUP names and imports the
    targets; it compares their arguments. It lists every fault and exits with 1 if there is one. If
    Redis answers within 3 s, it also shows what a deploy would change; that never fails the check.
    """
    from rq_clock import loader
    from rq_clock.clock.app import fault_lines

    settings = Settings.from_env()
    found = loader.check(settings)
    if not as_json:
        for warning in found.warnings:
            echo(f"warning: {warning}", err=True)
        if found.faults:
            echo("\n".join(fault_lines(found.faults, settings.app)), err=True)
        else:
            echo(f"{plural(len(found.declared), 'schedule')} in {settings.app}, all good")
    changes = None if found.faults else deploy_preview(settings, found.declared)
    if as_json:
        print_json(
            CheckView(
                app=settings.app,
                ok=not found.faults,
                schedules=len(found.declared),
                faults=[*map(fault_view, found.faults)],
                warnings=[*map(fault_view, found.warnings)],
                changes=changes,
            )
        )
    elif changes:
        echo(f"a deploy changes in namespace {changes.namespace!r}:", err=True)
        print_changes(changes, err=True)
    if found.faults:
        sys.exit(1)
