"""A task of callbacks as it is requested, and the check of it. Pure.

Not here: whether the host's address may be called, which has to be looked up (callbacks/).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rq_clock.errors import Fault, ScheduleError
from rq_clock.model.targets import webhook
from rq_clock.model.task import PRIORITIES
from rq_clock.model.url_rules import LONGEST_URL, OWN_HEADERS
from rq_clock.model.validation import is_text, payload_faults, tag_faults
from rq_clock.model.variables import name_faults, names_in
from rq_clock.model.view import camel
from rq_clock.redaction import masked_repr, masked_url
from rq_clock.timing.durations import duration_or_none
from rq_clock.timing.instants import read_instant

FARTHEST = timedelta(days=366)
"""How far in the future a task may be due."""
LONGEST_AUTH, LONGEST_DEDUP_KEY, RETRY_LIMIT = 4096, 200, 100
KEY_REMEDY = (
    "set it on the web process and the workers, as `openssl rand -hex 32` makes one, or name a "
    "variable of the workers as ${env:NAME}"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PORTS = {"http": 80, "https": 443}
_AUTH = re.compile(r"[ -~]*\Z")
_ONLY_ENV = re.compile(r"(?:[A-Za-z][\w-]{0,19} )?\$\{env:([^{}\s]{1,100})\}\Z")
_FORBIDDEN = OWN_HEADERS | {
    "authorization", "content-encoding", "keep-alive", "proxy-authorization", "proxy-connection",
    "te", "trailer", "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp",
}  # fmt: skip
_CALL = {"webhook.url": "webhookUrl", "webhook.json": "payload"}
_FIELDS = {"url": "webhookUrl", "auth": "webhookAuth"}


def named_variable(auth: str) -> str:
    """Return the variable of the workers that an auth names, if it holds nothing else but the
    scheme of the header; else nothing. Such an auth is no secret."""
    match = _ONLY_ENV.match(auth)
    return match[1] if match else ""


def complete_url(url: Any) -> Any:
    """Return a URL with a scheme (https unless it has one), with scheme and host in lower case and
    without the scheme's own port: the tasks of one host have one name for it. What is no URL is
    left as it is."""
    if not isinstance(url, str) or not 0 < len(url) <= LONGEST_URL:
        return url  # too long a one is refused, and must not be kept by the cache
    return _complete_url(url)


@lru_cache(maxsize=1024)  # it is asked for three times while a task is added
def _complete_url(url: str) -> str:
    full = url if _SCHEME.match(url) else f"https://{url.removeprefix('//')}"
    if not full.isprintable():  # urlsplit would drop a line break, which is a fault
        return full
    with suppress(ValueError):
        parts = urlsplit(full)
        host, port = parts.netloc.lower(), parts.port
        if port is not None and port == _PORTS.get(parts.scheme):
            host = host.rpartition(":")[0]
        if "@" not in host:
            return urlunsplit(parts._replace(netloc=host.removesuffix(":")))
    return full


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewTask:
    """A task to add. `execute_at` of None or in the past means as soon as possible. `auth` is the
    Authorization header if it contains a space, else its bearer token; `${env:NAME}` in it stands
    for a variable of the workers. `timeout` is in seconds. None of `max_retries` and `timeout`: as
    the configuration says at each call. While a task with its `dedup_key` waits or is called, it
    stands for that one."""

    url: str
    auth: str = ""
    execute_at: datetime | None = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    payload: Any = None
    dedup_key: str = ""
    priority: str = "normal"
    max_retries: int | None = None
    timeout: float | None = None
    tags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"NewTask({masked_repr(self.method, 10)}, {masked_url(str(self.url))})"

    @property
    def full_url(self) -> str:
        """The URL that is called."""
        return str(complete_url(self.url))

    @classmethod
    def from_request(cls, document: object) -> NewTask:
        """Read a request of the API. Raises ScheduleError for one that is no object, for unknown
        fields, and for an instant or duration that cannot be read; `faults` finds all else."""
        if not isinstance(document, Mapping):
            got = type(document).__name__
            raise ScheduleError(Fault("", f"expected a JSON object with webhookUrl, got {got}"))
        names = {_FIELDS.get(f.name) or camel(f.name): f.name for f in fields(cls)}
        faults = [
            Fault(str(key)[:100], f"expected one of {', '.join(names)}, got {masked_repr(key)}")
            for key in document
            if key not in names
        ]
        values = {names[k]: v for k, v in document.items() if k in names and v is not None}
        if "url" not in values:
            faults.append(Fault("webhookUrl", "expected webhookUrl, the URL to call, got none"))
        try:
            if "execute_at" in values:
                values["execute_at"] = read_instant(values["execute_at"], field="executeAt")
        except ScheduleError as error:
            faults += error.faults
        if isinstance(values.get("timeout"), str):
            duration = duration_or_none(values["timeout"])
            values["timeout"] = duration.total_seconds() if duration else values["timeout"]
        if isinstance(values.get("tags"), list):
            values["tags"] = tuple(values["tags"])
        if faults:
            raise ScheduleError(*faults)
        return cls(**values)

    def faults(
        self, now: datetime, *, variables: Collection[str] = (), key: bool = False
    ) -> Iterator[Fault]:
        """Yield everything that is wrong. `variables` may be named in its auth; `key` tells that
        there is one to encrypt an auth with."""
        yield from self._call_faults()
        yield from self._auth_faults(variables, key=key)
        if self.execute_at is not None and not _is_instant(self.execute_at):
            got = masked_repr(self.execute_at)
            yield Fault("executeAt", f"expected executeAt with its zone, got {got}")
        elif self.execute_at is not None and self.execute_at > now + FARTHEST:
            text = f"expected executeAt within {FARTHEST.days} days, got {self.execute_at}"
            yield Fault("executeAt", f"{text}; add the task later, or use a schedule")
        yield from payload_faults(self.payload, "payload")
        yield from tag_faults(self.tags)
        if not is_text(self.dedup_key, LONGEST_DEDUP_KEY):
            text = f"expected dedupKey of at most {LONGEST_DEDUP_KEY} characters"
            yield Fault("dedupKey", f"{text}, got {masked_repr(self.dedup_key)}")
        if self.priority not in PRIORITIES:
            text = f"expected priority {', '.join(PRIORITIES)}"
            yield Fault("priority", f"{text}, got {masked_repr(self.priority)}")
        retries: Any = self.max_retries
        whole = isinstance(retries, int) and not isinstance(retries, bool)
        if retries is not None and not (whole and 0 <= retries <= RETRY_LIMIT):
            text = f"expected maxRetries as a whole number, 0 to {RETRY_LIMIT}"
            yield Fault("maxRetries", f"{text}, got {masked_repr(retries)}")

    def _call_faults(self) -> Iterator[Fault]:
        """Yield the faults that a webhook of a schedule would have, too, and those of headers that
        are set for each call."""
        headers: Any = self.headers
        timeout = 1.0 if self.timeout is None else self.timeout
        target = webhook(self.full_url, method=self.method, headers=headers, timeout=timeout)
        for part, value in (("webhookUrl", self.url), ("headers", headers)):
            if any(names_in(value)):
                text = f"expected {part} without ${{env:…}}; only webhookAuth may name a variable"
                yield Fault(part, text)
        for fault in target.faults():
            name = _CALL.get(fault.field) or fault.field.removeprefix("webhook.")
            yield Fault(name, fault.text)
        if self.method in ("GET", "HEAD") and self.payload is not None:
            text = f"a {self.method} carries no payload; use method POST or leave it out"
            yield Fault("payload", text)
        for name in headers if isinstance(headers, dict) else ():
            if isinstance(name, str) and name.lower() in _FORBIDDEN - OWN_HEADERS:
                remedy = "use webhookAuth" if name.lower() == "authorization" else "leave it out"
                text = f"the header {masked_repr(name)} is rq-clock's to set; {remedy}"
                yield Fault("headers", text)

    def _auth_faults(self, variables: Collection[str], *, key: bool) -> Iterator[Fault]:
        """Yield the faults of the auth, none of which shows it."""
        auth: Any = self.auth
        right = isinstance(auth, str) and len(auth) <= LONGEST_AUTH and _AUTH.match(auth)
        if not right or auth != auth.strip():
            text = f"expected webhookAuth of at most {LONGEST_AUTH:,} plain characters, without"
            yield Fault("webhookAuth", f"{text} line breaks or spaces around it, got another value")
            return
        yield from (Fault("webhookAuth", text) for text in name_faults(auth))
        for name in sorted(set(names_in(auth)) - set(variables)):
            text = "expected a variable that RQ_CLOCK_WEBHOOK_ENV lists"
            yield Fault("webhookAuth", f"{text}, got {masked_repr(name)}")
        if auth and not key and not named_variable(auth):
            text = "expected RQ_CLOCK_CALLBACKS_KEY, which encrypts webhookAuth, to be set"
            yield Fault("webhookAuth", f"{text}; {KEY_REMEDY}")


def _is_instant(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None
