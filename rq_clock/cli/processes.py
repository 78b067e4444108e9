"""Commands that run or check the processes."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING

import click

from rq_clock.cli.common import CHECK_FAILED, echo, json_option, open_store, plural, print_json
from rq_clock.errors import RqClockError
from rq_clock.redaction import escaped
from rq_clock.timing.instants import iso

if TYPE_CHECKING:
    from rq_clock.serializers.clock import ClockView
    from rq_clock.store.status import Status

LISTED = 100
"""Schedules in each kind of trouble that `status` names."""
NO_CLOCK = "no clock leads; start one (`heroku ps:scale clock=1`, `python clock.py`)"


@click.command()
@click.argument("queues", nargs=-1)
@click.option("--burst", is_flag=True, help="Stop when the queues are empty.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), help="Number of workers in this process."
)
@click.option("--max-jobs", type=click.IntRange(1), help="Stop each worker after this many jobs.")
def worker(
    queues: tuple[str, ...], burst: bool, concurrency: int | None, max_jobs: int | None
) -> None:
    """Run a worker.

    It serves QUEUES, highest priority first (default: WORKER_QUEUES). After SIGTERM or SIGINT the
    running job has RQ_CLOCK_GRACE_SECONDS to finish; then it goes back to the front of its queue.
    """
    from rq_clock.worker.supervisor import run_worker

    sys.path.insert(0, "")  # the directory of the app's modules
    run_worker(queues, burst=burst, concurrency=concurrency, max_jobs=max_jobs)


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen on; 0.0.0.0 on a platform.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on (default: PORT, or 8000)."
)
@click.option("--read-only", is_flag=True, help="Refuse every change, whatever the token.")
@click.option(
    "--dev-token",
    metavar="FILE",
    help="For development: accept and print the token in FILE, created if missing.",
)
def web(host: str, port: int | None, read_only: bool, dev_token: str | None) -> None:
    """Run the web process.

    It serves pages, the API and metrics to holders of a token in RQ_CLOCK_TOKENS. It needs
    `pip install "rq-clock[web]"`.
    """
    try:
        from rq_clock.web.server import serve
    except ModuleNotFoundError as error:
        raise RqClockError(
            f'the web process needs {error.name}: pip install "rq-clock[web]"'
        ) from None
    from pathlib import Path

    from rq_clock.settings import Settings

    settings = Settings.from_env()
    serve(
        settings,
        host=host,
        port=settings.port if port is None else port,
        read_only=read_only,
        token_file=Path(dev_token) if dev_token else None,
    )


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show whether the clock and the schedules work.

    It prints the leading clock, its lag, and the schedules in trouble. Exits with 5 if no clock
    leads, or a schedule is late, stuck, failing or invalid.
    """
    from rq_clock.serializers.clock import clock_view
    from rq_clock.store.status import read_status

    store = open_store()
    found = read_status(store)
    view = clock_view(store.namespace, found)
    if as_json:
        print_json(view)
    else:
        _show_status(view, found)
    if not view.healthy:
        sys.exit(CHECK_FAILED)


def _show_status(view: ClockView, found: Status) -> None:
    if leader := view.leader:
        since, tick = (iso(t) if t else "-" for t in (leader.since, leader.last_tick))
        echo(f"leader     {leader.instance} since {since} (token {leader.token})")
        echo(f"last tick  {tick}")
        if leader.lag_p50_ms is not None:
            echo(
                f"lag (ms)   p50 {leader.lag_p50_ms:g}, p99 {leader.lag_p99_ms:g}, "
                f"max {leader.lag_max_ms:g}"
            )
    for fault in found.time_faults:
        echo(f"time       {fault}")
    echo(f"schedules  {view.schedules}")
    for name, due in islice(found.late.items(), LISTED):
        seconds = (view.now - due).total_seconds()
        echo(f"late       {name} by {seconds:.0f} s (due {iso(due)})")
    for name, blocked in islice(found.stuck.items(), LISTED):
        echo(f"stuck      {name} since {iso(blocked)}")
    for name, ended in islice(found.failing.items(), LISTED):
        echo(f"failing    {name} last at {iso(ended)}; `rq-clock logs {name}` shows why")
    for name in islice(sorted(found.invalid), LISTED):
        echo(f"invalid    {name}; `rq-clock show {name}` shows why")
    problems = [] if view.leader else [NO_CLOCK]
    counts = {state: getattr(view, state) for state in ("late", "stuck", "failing", "invalid")}
    problems += [f"{plural(count, 'schedule')} {state}" for state, count in counts.items() if count]
    for problem in problems:
        echo(click.style("problem", fg="red") + f"    {escaped(problem)}", styled=True)
    if view.healthy:
        echo(click.style("healthy", fg="green"), styled=True)


@click.command()
@click.argument("process", type=click.Choice(["clock", "web", "worker"]))
def healthcheck(process: str) -> None:
    """Check a process from the shell.

    Exits with 0 if PROCESS is healthy, with 5 and the reason if not. clock: a clock leads. worker:
    a worker has sent a heartbeat in the last seconds. web: the web process of this machine answers
    on PORT.
    """
    check = {"clock": _no_clock, "web": _no_web, "worker": _no_worker}[process]
    if why := check():
        echo(why, err=True)
        sys.exit(CHECK_FAILED)


def _no_clock() -> str:
    from rq_clock.store.lease import Leases
    from rq_clock.store.server_time import time_faults

    leader = Leases(open_store()).leader()
    for fault in time_faults(leader):  # a restart would not help, so it is no failure
        echo(f"warning: {fault}", err=True)
    return "" if leader else NO_CLOCK


def _no_worker() -> str:
    from rq_clock.jobs.executions import Executions
    from rq_clock.settings import Settings

    store, silence = open_store(), Settings.from_env().worker_silence
    if Executions(store.redis, store.namespace).living(silence):
        return ""
    return f"no worker has sent a heartbeat for {silence} s; start one (`rq-clock worker`)"


def _no_web() -> str:
    from http.client import HTTPConnection, HTTPException

    from rq_clock.settings import Settings

    port = Settings.from_env().port
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"nothing answers on 127.0.0.1:{port} ({error}); start it (`rq-clock web`)"
    finally:
        connection.close()
    return "" if status == 200 else f"127.0.0.1:{port}/healthz answers with status {status}"


@click.command()
@click.option("--data", default=".data", show_default=True, help="Directory of the server's data.")
def redis(data: str) -> None:
    """Run an embedded Valkey for development.

    It listens at REDIS_URL, or on port 6399.
    """
    from pathlib import Path

    from rq_clock.devserver import serve
    from rq_clock.settings import DEVELOPMENT_REDIS, Settings

    sys.exit(serve(Settings.from_env().redis_url or DEVELOPMENT_REDIS, Path(data)))
