"""The log of the reports: one event and its facts in each line, as rq-clock logs."""

from __future__ import annotations

import json
import logging
import re

_log = logging.getLogger("tasks.reports")
_BARE = re.compile(r"[!#-<>-~]+")


def event(word: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log an event. A value with a space or another unusual character is quoted."""
    if _log.isEnabledFor(level):
        shown = ((name, str(value)) for name, value in facts.items())
        words = (f"{n}={v if _BARE.fullmatch(v) else json.dumps(v)}" for n, v in shown)
        _log.log(level, "%s", " ".join([word, *words]))


def warning(word: str, **facts: object) -> None:
    """Log an event that needs attention."""
    event(word, level=logging.WARNING, **facts)
