"""Jobs on pages: state, allowed actions, traceback. Pure."""

from __future__ import annotations

import re

from markupsafe import Markup

from rq_clock.jobs.records import JobView
from rq_clock.web.pages.filters import pill

VERBS = {
    "requeue": "Requeue",
    "cancel": "Cancel",
    "delete": "Delete",
    "stop": "Stop",
    "again": "Run again",
}
"""Action on a job → the word on its button."""
_LOOKS = {
    "queued": ("waiting", "queued"),
    "scheduled": ("waiting", "scheduled"),
    "deferred": ("waiting", "deferred"),
    "started": ("running", "running"),
    "finished": ("ok", "finished"),
}
_FRAME = re.compile(r'\s*File "(?P<path>[^"]*)", line (?P<line>\d+)(?:, in (?P<name>.*))?')
_FOREIGN = re.compile(r"[/\\](?:site-packages|dist-packages|rq_clock|lib[/\\]python\d)|^<")


def look(status: str | None) -> Markup:
    """Return the pill of a job's status in RQ, or of a run's outcome."""
    return pill(*_LOOKS.get(status, (status,))) if status else pill("ended", "forgotten")


def actions(job: JobView, namespace: str) -> list[tuple[str, str]]:
    """Return the allowed actions on a job, with the words on their buttons."""
    found = []
    if job.status == "started":
        found.append("stop")
    if job.status in ("failed", "stopped", "canceled"):
        found.append("requeue")
    if job.status in ("queued", "scheduled", "deferred"):
        found.append("cancel")
    elif job.run and job.run.namespace == namespace and job.status != "started":
        found.append("again")
    if job.status and job.status != "started":
        found.append("delete")
    return [(verb, VERBS[verb]) for verb in found]


def traceback_lines(trace: str) -> tuple[list[tuple[str, bool]], str]:
    """Return the lines of a traceback, each with whether its frame is the app's own code, and the
    place of the innermost such frame."""
    lines: list[tuple[str, bool]] = []
    own, place = False, ""
    for text in trace.rstrip().splitlines():
        frame = _FRAME.match(text)
        if frame:
            own = not _FOREIGN.search(frame["path"])
            if own:
                name = f", in {frame['name']}" if frame["name"] else ""
                place = f"{frame['path']}, line {frame['line']}{name}"
        elif not text.startswith(" "):
            own = False
        lines.append((text, own))
    return lines, place
