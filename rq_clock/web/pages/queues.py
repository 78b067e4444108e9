"""Queues, workers and the jobs of RQ; and what can be done to jobs: each a page that says what will
happen, and a form that does it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.jobs.queues import SWEEP, JobFilter, NoJob
from rq_clock.jobs.records import KINDS, Jobs
from rq_clock.settings import Token
from rq_clock.store.audit import Actor
from rq_clock.timing.instants import iso, read_instant
from rq_clock.web.context import Context, Operate, Read, Web, schedules_for
from rq_clock.web.pages.filters import path_with
from rq_clock.web.pages.job_display import VERBS, look, pairs, verbs_of
from rq_clock.web.pages.layout import Fields, done, here, page
from rq_clock.web.problems import Problem

router = APIRouter()
ROWS = 50
SHOWN = 200
"""Failed jobs that fit a filter and are shown."""
_SWEEPS = {"requeue": "Requeue", "delete": "Delete"}


@router.get("/queues")
def queues_page(request: Request, site: Web, token: Read) -> Response:
    """All queues and workers."""
    pulse = site.overview.pulse()
    named = site.overview.queues(pulse)
    sight = site.queues.look(None if named is None else set(named.values()))
    totals = {kind: sum(queue.jobs[kind] for queue in sight.queues) for kind in KINDS}
    return page(
        request, "queues.html", token, pulse, sight=sight, totals=totals,
        unserved=[queue for queue in sight.queues if queue.unserved], unread=named is None,
    )  # fmt: skip


@router.get("/queues/{name:path}")
def queue_page(  # noqa: PLR0913 - what its jobs are asked for by
    request: Request, site: Web, token: Read, name: str,
    kind: str = "", cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """One queue: its jobs of a kind, and who serves it."""
    pulse = site.overview.pulse()
    sight = site.queues.look([name])
    queue = next((queue for queue in sight.queues if queue.name == name), None)
    if queue is None:
        raise Problem("not-found", f"no queue {name!r} is among the first {len(sight.queues)}")
    kind = kind or ("queued" if queue.jobs["queued"] or not queue.jobs["failed"] else "failed")
    jobs = site.queues.jobs(kind, name, most=ROWS, cursor=cursor)
    return page(
        request, "queue.html", token, pulse, queue=queue, kind=kind, at=at, look=look,
        serving=[worker for worker in sight.workers if name in worker.queues],
        **_rows(site, token, jobs),
    )  # fmt: skip


@router.get("/jobs")
def jobs_page(  # noqa: PLR0913 - one a filter
    request: Request, site: Web, token: Read, kind: str = "failed", queue: str = "",
    schedule: str = "", q: str = "", cursor: str = "", at: int = 0,
) -> Response:  # fmt: skip
    """Jobs of a kind, of all queues; failed ones by schedule and text too."""
    pulse = site.overview.pulse()
    wanted = JobFilter(queue=queue.strip(), schedule=schedule.strip(), text=q.strip())
    searched = None
    if kind == "failed" and (wanted.schedule or wanted.text):
        fits, more = site.queues.matching(wanted)
        searched = SWEEP if more else None
        jobs = Jobs(pulse.now, tuple(fits[:SHOWN]), len(fits), "")
    else:
        jobs = site.queues.jobs(kind, wanted.queue, most=ROWS, cursor=cursor)
    return page(
        request, "jobs.html", token, pulse, kind=kind, kinds=KINDS, wanted=wanted, at=at,
        look=look, searched=searched, **_rows(site, token, jobs),
    )  # fmt: skip


def _rows(site: Context, token: Token, jobs: Jobs) -> dict[str, object]:
    """Jobs with what may be done to them."""
    may = "operate" in token.scopes and not site.read_only
    namespace = site.settings.namespace
    rows = [(job, pairs(verbs_of(job, namespace)) if may else []) for job in jobs.jobs]
    return {"jobs": jobs, "rows": rows}


# ---- one job ----------------------------------------------------------------------------------


@router.get("/jobs/{id}/{verb}")
def ask_page(
    request: Request, site: Web, token: Operate, id: str, verb: str, back: str = ""
) -> Response:
    """Asks before something is done to a job."""
    return _ask(request, site, token, id, verb, {"back": back})


@router.post("/jobs/{id}/{verb}")
def act(request: Request, site: Web, token: Operate, id: str, verb: str, form: Fields) -> Response:
    """Do it, and go back with a word on what was done; or say why not, over the same form."""
    try:
        said, job = _act(site, token, id, verb, form)
    except NoJob:
        raise
    except (ScheduleError, RqClockError) as error:
        return _ask(request, site, token, id, verb, form, str(error))
    if verb == "delete":
        return done(request, _back(form.get("back", "")) or "/jobs", said)
    return done(request, _back(form.get("back", "")) or f"/runs/{quote(job, safe='')}", said)


def _act(
    site: Context, token: Token, id: str, verb: str, form: Mapping[str, str]
) -> tuple[str, str]:
    """What was done, and the job to look at."""
    reason = form.get("reason", "").strip()
    who = Actor(by=token.name, reason=reason)
    match verb:
        case "requeue":
            return f"Put {id} at the end of the queue {site.queues.requeue(id, who)}.", id
        case "cancel":
            return f"Took {id} out of the queue {site.queues.cancel(id, who)}.", id
        case "delete":
            site.queues.delete(id, who)
            return f"Deleted {id}.", id
        case "stop":
            return f"Told the worker {site.queues.stop(id, who)} to stop it.", id
        case "again":
            force = form.get("force") == "1"
            job = schedules_for(site, token).rerun(id, force=force, reason=reason)
            return f"Enqueued {job} for the same fire time.", job
        case _:
            raise _unknown(verb, VERBS)


def _ask(  # noqa: PLR0913 - what a form takes
    request: Request, site: Context, token: Token, id: str, verb: str, form: Mapping[str, str],
    error: str = "",
) -> Response:  # fmt: skip
    if verb not in VERBS:
        raise _unknown(verb, VERBS)
    pulse, told = site.overview.pulse(), site.queues.job(id)
    back = _back(form.get("back", "")) or f"/runs/{quote(id, safe='')}"
    return page(
        request, "job_action.html", token, pulse, told=told, job=told.job, verb=verb,
        word=VERBS[verb], back=back, form=form, error=error, look=look,
        status=409 if error else 200,
    )  # fmt: skip


# ---- many jobs --------------------------------------------------------------------------------


@router.get("/sweep/{verb}")
def sweep_page(  # noqa: PLR0913 - one a filter
    request: Request, site: Web, token: Operate, verb: str,
    queue: str = "", schedule: str = "", q: str = "",
) -> Response:  # fmt: skip
    """Asks before something is done to all failed jobs that fit."""
    if verb not in _SWEEPS:
        raise _unknown(verb, _SWEEPS)
    pulse = site.overview.pulse()
    match = JobFilter(
        queue=queue.strip(), schedule=schedule.strip(), text=q.strip(), before=pulse.now
    )
    fits, more = site.queues.matching(match)
    return page(
        request, "sweep.html", token, pulse, verb=verb, word=_SWEEPS[verb], wanted=match,
        fits=fits, more=more, before=iso(pulse.now), most=SWEEP, back=_list(match),
        section="/queues",
    )  # fmt: skip


@router.post("/sweep/{verb}")
def sweep(request: Request, site: Web, token: Operate, verb: str, form: Fields) -> Response:
    """Do it to those that had failed when somebody looked."""
    if verb not in _SWEEPS:
        raise _unknown(verb, _SWEEPS)
    match = JobFilter(
        queue=form.get("queue", ""), schedule=form.get("schedule", ""), text=form.get("q", ""),
        before=read_instant(form.get("before", ""), field="before"),
    )  # fmt: skip
    who = Actor(by=token.name, reason=form.get("reason", "").strip())
    swept = site.queues.sweep(verb, match, who)
    jobs = f"{swept.done:,} job{'' if swept.done == 1 else 's'}"
    said = [f"{_SWEEPS[verb]}d {jobs}."]
    if swept.refused:
        first = next(iter(swept.refused.values()))
        said.append(f"{len(swept.refused):,} were refused, such as {first}.")
    if swept.more:
        said.append("There may be more that were not looked at: do it again for these.")
    return done(request, _list(match), " ".join(said))


def _list(match: JobFilter) -> str:
    return path_with("/jobs", queue=match.queue, schedule=match.schedule, q=match.text)


def _back(path: str) -> str:
    return here(path) if path else ""


def _unknown(verb: str, known: Mapping[str, str]) -> Problem:
    return Problem("not-found", f"expected one of {', '.join(known)}, got {verb!r}")
