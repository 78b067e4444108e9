"""The command that a one-off dyno of `dyno(…)` runs."""

from __future__ import annotations

import click


@click.command("exec")
@click.argument("run")
@click.argument("line")
@click.pass_context
def exec_(ctx: click.Context, run: str, line: str) -> None:
    """Run LINE in a one-off dyno that a worker has started.

    Workers call it for schedules with a dyno as their target. RUN names the run whose record in
    Redis gets the output and the exit code.
    """
    from rq_clock import log as logs
    from rq_clock.runners.dyno_exec import execute
    from rq_clock.settings import Settings

    logs.set_up(stamp=Settings.from_env().stamped_logs)
    ctx.exit(execute(run, line))
