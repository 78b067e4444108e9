"""The functions that the jobs of commands and webhooks call, in a worker: ours or the stock one.

Ordinary functions of RQ, which print: what a command prints, or the status of a web call and the
first 2 kB of its answer. Our worker logs and keeps that, as it does for every function. Secrets
that are known by name are masked in it, whatever worker it is.
"""

from __future__ import annotations

import json as json_
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from redis.exceptions import RedisError
from rq import get_current_job
from rq.job import Job
from rq.timeouts import JobTimeoutException

from rq_clock import log as logs
from rq_clock.errors import CommandFailed, Interrupted, WebhookFailed
from rq_clock.log import log_event, log_warning
from rq_clock.model.job_id import JobId
from rq_clock.outbound import client as outbound
from rq_clock.outbound.signature import signature_headers
from rq_clock.redaction import Secrets, StreamMask, masked_text, masked_url, printable
from rq_clock.run import Run, allowed_targets, current_run, stopping
from rq_clock.runners.output import Tail, last_line
from rq_clock.runners.shell import SHUTDOWN, Ended, Shell
from rq_clock.runners.variables import fill_in
from rq_clock.runtime import wall_time
from rq_clock.settings import Settings, job_environment, known_secrets
from rq_clock.timing.instants import iso
from rq_clock.version import __version__

ANSWER_KEPT = 2048
"""Bytes of a web call's answer that are kept."""
SIGNAL_SECONDS = 0.5
"""A platform ends all processes at once: a command that died of SIGTERM may be seen dead before
this process gets its own."""


class CommandTimedOut(CommandFailed, JobTimeoutException):
    """A command exceeded its timeout; to RQ the same as a job that does."""


class WebhookTimedOut(WebhookFailed, JobTimeoutException):
    """A web call exceeded its timeout; to RQ the same as a job that does."""


def run_command(
    shell: str,
    timeout: float | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a shell command to its end; see `rq_clock.command` for its environment.

    Raises CommandFailed with its exit code or signal, CommandTimedOut after `timeout` seconds, and
    Interrupted when the worker shuts down and its grace is over. Whatever is raised, no process
    that the command started is left running, unless it made itself a daemon.
    """
    _, job, run = prepare_job()
    if stopping():
        raise Interrupted("not begun, because its worker shuts down")
    facts = facts_of(job, run)
    unbuffered = {"PYTHONUNBUFFERED": "1"}  # else lines come late, and none of a killed script
    environ = {**unbuffered, **job_environment(), **(env or {}), **run_variables(run)}
    secrets, errors = known_secrets(environ), Tail()
    masks = {"stdout": StreamMask(secrets), "stderr": StreamMask(secrets)}

    def add(stream: str, chunk: bytes) -> None:
        if stream == "stderr":
            errors.add(chunk)
        print_output(masks[stream].feed(chunk), stream)

    log_event("command.started", **facts, command=printable(masked_text(shell), 200))
    try:
        with Shell(shell, cwd=cwd, env=environ) as running:
            ended = running.watch(timeout or float("inf"), add, _reasons_to_leave(job))
    except BaseException as error:
        log_warning("command.failed", **facts, reason=type(error).__name__)
        raise
    finally:
        for stream, mask in masks.items():
            print_output(mask.finish(), stream)
    _report(ended, facts)
    _raise_failure(ended, timeout, last_line(errors.value(secrets)))


def call_webhook(
    url: str,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    timeout: float = 10,
) -> dict[str, Any]:
    """Call a URL; see `rq_clock.webhook` for how. Returns status and the body's first 2 kB.

    Raises WebhookFailed when the address is refused, the call breaks off or the answer is not 2xx,
    WebhookTimedOut when it is not over after `timeout` seconds. After 410 the job is not retried;
    after 429 or 503 the next retry waits for the answer's Retry-After, at most an hour.
    """
    settings, job, run = prepare_job()
    facts = facts_of(job, run) | {"url": masked_url(url), "method": method}
    target, filled, content, values = fill_in(
        (url, headers or {}, json), settings, allowed_targets(job.meta) if job else None
    )
    secrets = Secrets({**filled, **{f"secret {name}": value for name, value in values.items()}})
    body = None if content is None else json_.dumps(content).encode()
    started = time.monotonic()
    keep = ANSWER_KEPT + secrets.longest  # one that is cut in two could not be masked
    sent = _headers(filled, body, job, run, settings)
    request = outbound.Request(target, method, sent, body, keep)
    try:
        answer = outbound.call(request, timeout, settings.webhook_allow)
    except WebhookFailed as error:
        reason = secrets.hide_text(str(error))
        log_warning("webhook.failed", **facts, reason=reason)
        slow = isinstance(error, outbound.TooSlow)
        raise (WebhookTimedOut if slow else WebhookFailed)(reason) from None
    took = f"{time.monotonic() - started:.3f}s"
    log_event("webhook.answered", **facts, status=answer.status, took=took)
    text = secrets.hide(answer.body)[:ANSWER_KEPT].decode(errors="replace")
    # others wrote it: nothing in it may forge a line of the log
    lines = (printable(line, ANSWER_KEPT) for line in (answer.words, *text.splitlines()))
    print_output("".join(f"{line}\n" for line in lines).encode(), "stdout")
    if not 200 <= answer.status < 300:
        note = _adjust_retries(job, answer)
        raise WebhookFailed(_failure(answer, masked_url(url), text) + note)
    return {"status": answer.status, "body": text}


def prepare_job() -> tuple[Settings, Job | None, Run | None]:
    """Return the settings, the job and the run of this process. Set up our log if there is none, as
    in RQ's worker."""
    settings = Settings.from_env()
    if not logs.logger.hasHandlers():
        logs.set_up(stamp=settings.stamped_logs)
    return settings, get_current_job(), current_run()


def print_output(output: bytes, stream: str) -> None:
    """Print to this process's own stream. Nobody may read it any more."""
    with suppress(OSError):
        while output:
            output = output[os.write(1 if stream == "stdout" else 2, output) :]


def facts_of(job: Job | None, run: Run | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"schedule": run.schedule} if run else {}
    return facts | ({"job": job.id} if job else {})


def run_variables(run: Run | None) -> dict[str, str]:
    """Return the facts of `current_run()` as environment variables, for a command."""
    if run is None:
        return {}
    facts = {"SCHEDULE": run.schedule, "FIRE_TIME": iso(run.fire_time), "REASON": run.reason}
    if run.previous:
        facts["PREVIOUS"] = iso(run.previous)
    return {f"RQ_CLOCK_{name}": value for name, value in facts.items()}


def _reasons_to_leave(job: Job | None) -> Callable[[], str]:
    """Return a function that returns why the command must end now, or ""."""
    parent = os.getppid() if _is_horse(job) else None

    def leave() -> str:
        orphaned = parent is not None and os.getppid() != parent
        return "its worker's death" if orphaned else ""

    return leave


def _is_horse(job: Job | None) -> bool:
    """Return whether this process's parent is the job's worker. Where the kernel does not end a
    horse whose worker was killed, its command is ended here: another worker will run the job
    again."""
    if job is None or not job.worker_name:
        return False
    try:
        pid = job.connection.hget(f"rq:worker:{job.worker_name}", "pid")
    except RedisError:
        return False
    return pid is not None and int(pid) == os.getppid()


def _report(ended: Ended, facts: dict[str, Any]) -> None:
    name = ended.signal_name
    how: dict[str, Any] = {"signal": name} if name else {"exit": ended.code}
    if ended.why:
        how["because"] = ended.why
    log_event("command.ended", **facts, **how, took=f"{ended.seconds:.3f}s")
    if ended.survivors:
        log_warning(
            "command.survived", **facts, remedy="look for processes of another user, or stuck"
        )


def _raise_failure(ended: Ended, timeout: float | None, last_error_line: str) -> None:
    if ended.code == 0 and not ended.why:
        return
    quote = f"; last line: {last_error_line}" if last_error_line else ""
    if ended.why == "timeout":
        raise CommandTimedOut(f"ended by {ended.words} after {timeout:g} s, its timeout{quote}")
    if ended.why or _is_shutdown(ended.code):
        raise Interrupted(f"ended by {ended.words} because of {ended.why or SHUTDOWN}{quote}")
    raise CommandFailed(f"{ended.words}{quote}")


def _is_shutdown(code: int) -> bool:
    """Return whether the signal that ended the command came to this process too."""
    until = time.monotonic() + SIGNAL_SECONDS
    while code in (-signal.SIGTERM, 128 + signal.SIGTERM) and time.monotonic() < until:
        if stopping():
            return True
        time.sleep(0.01)
    return stopping()


def _headers(
    headers: Mapping[str, str], body: bytes | None, job: Job | None, run: Run | None,
    settings: Settings,
) -> dict[str, str]:  # fmt: skip
    """Return the headers of a call; those of the target replace our own."""
    own = {"User-Agent": f"rq-clock/{__version__}"}
    if body is not None:
        own["Content-Type"] = "application/json"
    if run is not None:
        own["Idempotency-Key"] = key = _idempotency_key(job, run)
        if settings.webhook_secret:
            own |= signature_headers(settings.webhook_secret, key, wall_time(), body or b"")
    names = {name.lower() for name in headers}
    return {**{n: v for n, v in own.items() if n.lower() not in names}, **headers}


def _idempotency_key(job: Job | None, run: Run) -> str:
    """Return the key by which a receiver recognizes a repeated call. Attempts of a job share it;
    a run by hand, a run of a backfill and a job that somebody has requeued have their own: the
    receiver has to act on them again."""
    words = [run.schedule, iso(run.fire_time)]
    id = JobId.parse(job.id) if job else None
    if id and id.kind:
        words.append(f"{id.kind}{id.number}")
    if run.requeued:
        words.append(f"r{run.requeued}")
    return "/".join(words)


def _adjust_retries(job: Job | None, answer: outbound.Answer) -> str:
    """Let the job's next retry follow the answer, and return a note for the error. RQ's worker and
    ours read these attributes of the job when it has failed."""
    if answer.status == HTTPStatus.GONE:
        if job:
            job.retries_left = 0
        return (
            "; not retried, because the receiver wants no more calls: pause or remove the schedule"
        )
    pause = outbound.retry_after(answer)
    left = job.retries_left if job else 0
    if not (job and left and pause):
        return ""
    intervals = job.retry_intervals or [0]
    first, *others = (intervals[max(len(intervals) - n, 0)] for n in range(left, 0, -1))
    job.retry_intervals = [max(first, pause), *others]
    return f"; retried after {max(first, pause)} s, since it asks to wait for {pause} s"


def _failure(answer: outbound.Answer, where: str, body: str) -> str:
    location = answer.headers.get("Location", "")
    if 300 <= answer.status < 400 and location:
        to = masked_url(location)
        return f"{where}: answered {answer.words} to {to}; redirects are not followed"
    first = next((line.strip() for line in body.splitlines() if line.strip()), "")
    quote = f": {printable(first, 200)}" if first else ""
    return f"{where}: expected an answer of 2xx, got {answer.words}{quote}"
