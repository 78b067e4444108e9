"""One log line for each event: one event word, then key=value.

    run.enqueued schedule=nightly-report fire_time=2026-03-29T01:00:00Z lag_ms=2 job=…

On a dyno the platform adds time and process; elsewhere the line starts with the time of day.
Tests read `record.event` and `record.fields`, never the text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from io import TextIOWrapper
from typing import Any

from rq_clock.errors import RqClockError
from rq_clock.redaction import Secrets, escaped
from rq_clock.timing.instants import iso

logger = logging.getLogger("rq_clock")
MANY_FAULTS = 10_000
"""Faults that are remembered; beyond, they are logged again."""


def log_event(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event. Values are escaped to stay on one line."""
    if logger.isEnabledFor(level):
        text = " ".join([event, *(f"{key}={_shown(value)}" for key, value in fields.items())])
        logger.log(level, "%s", text, extra={"event": event, "fields": fields})


def log_warning(event: str, **fields: Any) -> None:
    """Log an event that needs attention."""
    log_event(event, level=logging.WARNING, **fields)


class FaultLog:
    """Logs the fault of an item once: again only when it is another fault, or was cleared."""

    def __init__(self) -> None:
        self._faults: dict[tuple[Any, ...], str] = {}

    def report(self, event: str, error: Exception | str, **item: Any) -> bool:
        """Log the fault of an item, unless it is in the log already. Return whether it was new."""
        text = explained(error) if isinstance(error, Exception) else error
        if self._faults.get((event, *item.values())) == text:
            return False
        if len(self._faults) >= MANY_FAULTS:
            self._faults.clear()
        self._faults[(event, *item.values())] = text
        log_warning(event, **item, error=text)
        return True

    def clear(self, event: str, **item: Any) -> None:
        """Forget the fault of an item: its next one is logged."""
        self._faults.pop((event, *item.values()), None)


class SecretFilter(logging.Filter):
    """Masks secrets in the lines of a logger that is not ours, and escapes what a terminal would
    obey in its warnings. It drops no line. `secrets` is called for each line."""

    def __init__(self, secrets: Callable[[], Secrets]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        secrets = self._secrets()
        with suppress(Exception):  # a line whose text cannot be made: its handler reports that
            text = record.getMessage()
            shown = self._shown(record, secrets, text)
            if shown != text:  # else it keeps its parts, by which others group lines
                record.msg, record.args = shown, None
            if record.exc_info and record.exc_info[0]:
                trace = logging.Formatter().formatException(record.exc_info)
                record.exc_text = self._shown(record, secrets, trace)
        return True

    def _shown(self, record: logging.LogRecord, secrets: Secrets, text: str) -> str:
        shown = secrets.hide_text(text)
        return escaped(shown, kept="\n\t") if record.levelno >= logging.WARNING else shown


def explained(error: Exception) -> str:
    """Return an error as one line of text that every log can hold."""
    try:
        text = str(error)
    except Exception:
        text = "(it has no text)"
    if not isinstance(error, RqClockError):
        text = f"{type(error).__name__}: {text}"
    return text[:500].encode(errors="backslashreplace").decode()


def set_up(*, stamp: bool) -> None:
    """Send the log to standard output, one line for each event; with the time when `stamp`.

    Each line becomes one write, also a line that a job prints. Unbuffered output would write the
    end of a line separately, and lines of two processes would merge.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, write_through=False)
    handler = logging.StreamHandler(sys.stdout)
    form = "%(asctime)s.%(msecs)03d %(message)s" if stamp else "%(message)s"
    handler.setFormatter(_Formatter(form, datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return iso(value)
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in ' "='):
        return text
    return '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class _Formatter(logging.Formatter):
    """Escapes what a terminal would obey, whoever logs it; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record), kept="\n")
