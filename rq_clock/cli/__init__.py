"""The `rq-clock` command.

Data goes to standard output, messages to standard error. Every read command supports `--json`: one
document, camelCase, with the same objects as the API (serializers/). Exit codes:

    0 done   1 failed   2 usage   3 no such schedule or task   4 Redis unusable   5 check failed
    6 still running after the time to wait   130 interrupted

A command asks only on a terminal, and `--yes` answers. The module of a command is imported when it
runs, and redis and rq even later, so that help and completion stay fast.
"""

from __future__ import annotations

import click

from rq_clock.cli.group import LazyGroup
from rq_clock.version import __version__

_HERE = "rq_clock.cli"
SECTIONS = {
    "Schedules": {
        "list": (f"{_HERE}.list:list_", "List schedules with their states and next fire times."),
        "show": (f"{_HERE}.schedules:show", "Show everything about one schedule."),
        "next": (f"{_HERE}.schedules:next_", "Show the next fire times of one or all schedules."),
        "explain": (f"{_HERE}.schedules:explain", "Explain when an expression or interval fires."),
        "check": (f"{_HERE}.check:check", "Validate the declared schedules."),
    },
    "Operations": {
        "run": (f"{_HERE}.operations:run", "Run a schedule now."),
        "pause": (f"{_HERE}.operations:pause", "Pause schedules."),
        "resume": (f"{_HERE}.operations:resume", "Resume paused schedules."),
        "skip": (f"{_HERE}.operations:skip", "Skip the next fire times of a schedule."),
        "backfill": (f"{_HERE}.backfills:backfill", "Run past fire times of a schedule."),
        "backfills": (f"{_HERE}.backfills:backfills", "List the newest backfills."),
        "backfill-cancel": (f"{_HERE}.backfills:backfill_cancel", "Cancel a backfill."),
        "audit": (f"{_HERE}.operations:audit", "Show who changed what, when and why."),
    },
    "Run-time schedules": {
        "add": (f"{_HERE}.define:add", "Add a schedule."),
        "update": (f"{_HERE}.define:update", "Change a schedule."),
        "remove": (f"{_HERE}.define:remove", "Remove schedules."),
    },
    "Import and export": {
        "diff": (f"{_HERE}.transfer:diff", "Show what a deploy or `apply` would change."),
        "export": (f"{_HERE}.transfer:export", "Write the run-time schedules to a file."),
        "apply": (f"{_HERE}.transfer:apply", "Make the run-time schedules match a file."),
        "import": (f"{_HERE}.transfer:import_", "Import schedules from another tool."),
    },
    "Runs": {
        "history": (f"{_HERE}.runs:history", "Show past runs and their outcomes."),
        "logs": (f"{_HERE}.runs:logs", "Print the output of a run, or its traceback."),
    },
    "Callbacks": {
        "callbacks": (f"{_HERE}.callbacks:callbacks", "Call URLs at given times, with retries."),
    },
    "Processes": {
        "status": (f"{_HERE}.processes:status", "Show whether the clock and the schedules work."),
        "doctor": (f"{_HERE}.doctor:doctor", "Find problems and their remedies."),
        "healthcheck": (f"{_HERE}.processes:healthcheck", "Check a process from the shell."),
        "web": (f"{_HERE}.processes:web", "Run the web process."),
        "worker": (f"{_HERE}.processes:worker", "Run a worker."),
        "exec": (f"{_HERE}.exec:exec_", "Run LINE in a one-off dyno that a worker has started."),
        "redis": (f"{_HERE}.processes:redis", "Run an embedded Valkey for development."),
    },
    "Shell": {
        "completion": (f"{_HERE}.completion:completion", "Print a shell's completion script.")
    },
}
"""Title → command → its place, and its short help: the first sentence of its help."""


@click.group(
    cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="rq-clock")
def main() -> None:
    """Schedules for RQ that survive restarts.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no such schedule or task, 4 Redis unusable, 5 check
    failed, 6 still running after the time to wait, 130 interrupted.
    """
