"""The `rq-clock` command.

Data goes to standard output, talk to standard error. Every command that reads has `--json`: one
document, camelCase, the objects that an API gives (views.py). Exit codes:

    0 done   1 failed   2 usage   3 no such schedule   4 Redis cannot be used   5 a check says no
    6 not ended within the time to wait   130 interrupted

Somebody is asked only on a terminal, and nothing ever needs it. What a command needs is imported
inside it, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import click

from rq_clock.cli.backfills import backfill, backfill_cancel, backfills
from rq_clock.cli.common import Commands
from rq_clock.cli.completion import completion
from rq_clock.cli.define import add, remove, update
from rq_clock.cli.doctor import doctor
from rq_clock.cli.list import list_
from rq_clock.cli.operations import audit, pause, resume, run, skip
from rq_clock.cli.processes import healthcheck, redis, status, web, worker
from rq_clock.cli.runs import history, logs
from rq_clock.cli.schedules import check, explain, next_, show
from rq_clock.cli.transfer import apply, diff, export, import_
from rq_clock.version import __version__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rq-clock")
def main() -> None:
    """Schedules for RQ that survive restarts.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no such schedule, 4 Redis cannot be used,
    5 a check says no, 6 not ended within the time to wait, 130 interrupted.
    """


SECTIONS = {
    "Schedules": (list_, show, next_, explain, check),
    "Operations": (run, pause, resume, skip, backfill, backfills, backfill_cancel, audit),
    "Run-time schedules": (add, update, remove),
    "Moving": (diff, export, apply, import_),
    "Runs": (history, logs),
    "Processes": (status, doctor, healthcheck, web, worker, redis),
    "Shell": (completion,),
}
for title, commands in SECTIONS.items():
    main.add_section(title, commands)
