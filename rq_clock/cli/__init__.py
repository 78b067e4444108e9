"""The `rq-clock` command.

Data goes to standard output, talk to standard error. Every command that reads has `--json`: one
document, camelCase, the objects that an API would give. Exit codes:

    0 done   1 failed   2 usage   3 no such schedule   4 Redis cannot be used   5 a check says no
    130 interrupted

What a command needs is imported inside it, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import click

from rq_clock.cli.base import Commands
from rq_clock.cli.processes import redis, status, worker
from rq_clock.cli.runs import history, logs
from rq_clock.cli.schedules import check, explain, list_, next_
from rq_clock.version import __version__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rq-clock")
def main() -> None:
    """Schedules for RQ that survive restarts.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no such schedule, 4 Redis cannot be used,
    5 a check says no.
    """


for command in (check, explain, history, list_, logs, next_, redis, status, worker):
    main.add_command(command)
