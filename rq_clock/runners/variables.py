"""The variables of a web call, put in their places by the worker."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rq_clock.errors import WebhookFailed
from rq_clock.model.variables import is_private, resolved
from rq_clock.settings import Settings, job_environment

_HEADER = re.compile(r"[\t -~]*\Z")


def fill_in(
    call: tuple[str, Mapping[str, str], Any], settings: Settings, allowed: Sequence[str] | None
) -> tuple[str, dict[str, str], Any, dict[str, str]]:
    """Return the URL, headers and body of a call with their variables in place, and these.

    `allowed` is not None for a run that a token has defined: it gets the variables of
    RQ_CLOCK_WEBHOOK_ENV only. Raises WebhookFailed for another one, and for one that is not set or
    fits no header; never with its value.
    """
    environ = job_environment()
    values: dict[str, str] = {}

    def lookup(name: str) -> str:
        if is_private(name) or environ.get(name) == settings.redis_url:
            raise WebhookFailed(f"the variable {name} is rq-clock's own, and no call may have it")
        if allowed is not None and name not in settings.webhook_env:
            raise WebhookFailed(f"the variable {name} is not in this worker's RQ_CLOCK_WEBHOOK_ENV")
        if not environ.get(name):
            raise WebhookFailed(f"the variable {name} is not set on this worker; set it")
        values[name] = environ[name].strip()
        return values[name]

    url, headers, body = call
    found = {name: resolved(value, lookup) for name, value in headers.items()}
    for name, value in found.items():
        if not _HEADER.match(value):
            raise WebhookFailed(f"a variable in the header {name} has characters that none may")
    place = resolved(url, lambda name: quote(lookup(name), safe=""))
    return place, found, resolved(body, lookup), values
