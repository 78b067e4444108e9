"""Targets of a schedule other than a function: a shell command in a worker or in a one-off dyno, or
a call of a URL.

    clock.add("disk-usage", every(hours=1), command("df -h /", timeout=60))
    clock.add("ping", every(minutes=5), webhook("https://example.com/hook", json={"from": "clock"}))

Pure declarations: constructing never raises, `faults()` reports everything that is wrong. The jobs
call the functions of runners.

A declaration is stored in Redis and stays in its jobs: keep secrets in the app's environment, which
a command sees. Values that look like secrets are masked wherever a target is shown.

Not here: whether `json` is JSON (validation.py), running a command or call (runners, outbound).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from math import ceil
from pathlib import PurePath
from typing import Any, ClassVar

from rq_clock.errors import Fault
from rq_clock.model.url_rules import header_faults, url_faults
from rq_clock.model.variables import name_faults
from rq_clock.redaction import (
    MASK,
    is_secret,
    masked,
    masked_json,
    masked_repr,
    masked_text,
    masked_url,
    printable,
)

DEFAULT_SECONDS = 180
"""Default timeout of a command: RQ's own for a function."""
CALL_SECONDS, LONGEST_CALL = 10, 300
"""Timeout of a web call: the default, and the limit."""
ENDING_SECONDS = 10
"""Seconds that RQ's timeout has on top, so that the runner itself ends a command or call and
records it: a command that ignores SIGTERM is killed after 5 s."""
DYNO_SECONDS = 3600
"""Default timeout of a one-off dyno."""
DYNO_START_SECONDS, DYNO_STOP_SECONDS = 300, 60
"""How long a dyno may take to begin, with what the platform asks to wait; and to end once it has
been stopped, for which the platform allows 30 s."""
LONGEST_COMMAND = 10_000
LONGEST_PATH, LONGEST_TEXTS = 4096, 65_536
"""Limits of characters: of a directory, and of all variables or headers."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SIZE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}\Z")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_NO_NUL, _ASCII = "[^\0\ud800-\udfff]*\\Z", r"[\t -~]*\Z"
_TEXT = re.compile(_NO_NUL)


@dataclass(frozen=True, slots=True, repr=False)
class Command:
    """A shell command; built by `command`."""

    kind: ClassVar[str] = "command"
    func: ClassVar[str] = "rq_clock.runners.run_command"

    shell: str
    timeout: float | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return _repr(self)

    def faults(self) -> Iterator[Fault]:
        """Yield everything that is wrong; nothing when the target can be used."""
        yield from _shell_faults(self)
        cwd: Any = self.cwd
        if cwd is not None and (
            not isinstance(cwd, str) or not 0 < len(cwd) <= LONGEST_PATH or not _TEXT.match(cwd)
        ):
            text = f"expected cwd to be a directory of at most {LONGEST_PATH:,} characters"
            yield Fault("command.cwd", f"{text}, got {masked_repr(cwd)}")
        yield from _env_faults(self)

    def call(self, limit: int | None) -> dict[str, Any]:
        """Return the call for RQ. `limit` is the schedule's timeout, used by a command without its
        own; -1 is for ever."""
        own = self.timeout
        if own is None:
            own = None if limit == -1 else limit or DEFAULT_SECONDS
        return _call(self, {**self.spec(), "timeout": own}, own, limit)

    def spec(self) -> dict[str, Any]:
        """Return the form to store, as JSON, without defaults; `from_spec` reads it."""
        return _spec(self)

    def shown(self) -> dict[str, Any]:
        """Return the same with its secrets masked."""
        return _shown_shell(self)

    def describe(self) -> str:
        """Return one short line for people."""
        return _first_line(self.shell)


@dataclass(frozen=True, slots=True, repr=False)
class Dyno:
    """A shell command in a one-off dyno; built by `dyno`."""

    kind: ClassVar[str] = "dyno"
    func: ClassVar[str] = "rq_clock.runners.run_dyno"

    shell: str
    size: str | None = None
    timeout: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return _repr(self)

    def faults(self) -> Iterator[Fault]:
        """Yield everything that is wrong; only the platform knows its sizes."""
        yield from _shell_faults(self)
        size: Any = self.size
        if size is not None and (not isinstance(size, str) or not _SIZE.match(size)):
            text = f"expected a size such as 'standard-2x', got {masked_repr(size)}"
            yield Fault("dyno.size", text)
        yield from _env_faults(self)

    def call(self, limit: int | None) -> dict[str, Any]:
        """Return the call for RQ. `limit` is the schedule's timeout, used by a dyno without its
        own; -1 is for as long as the platform lets a dyno live, about a day."""
        own = self.timeout
        if own is None:
            own = None if limit == -1 else limit or DYNO_SECONDS
        call = _call(self, {**self.spec(), "timeout": own}, own, limit)
        if call["timeout"] != -1:
            call["timeout"] += DYNO_START_SECONDS + DYNO_STOP_SECONDS
        return call

    def spec(self) -> dict[str, Any]:
        """Return the form to store, as JSON, without defaults; `from_spec` reads it."""
        return _spec(self)

    def shown(self) -> dict[str, Any]:
        """Return the same with its secrets masked."""
        return _shown_shell(self)

    def describe(self) -> str:
        """Return one short line for people."""
        return f"{self.size or 'dyno'} {_first_line(self.shell)}"


@dataclass(frozen=True, slots=True, repr=False)
class Webhook:
    """A call of a URL; built by `webhook`."""

    kind: ClassVar[str] = "webhook"
    func: ClassVar[str] = "rq_clock.runners.call_webhook"

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    timeout: float = CALL_SECONDS

    def __repr__(self) -> str:
        return _repr(self)

    def faults(self) -> Iterator[Fault]:
        """Yield everything that is wrong with it. Only the worker knows whether it may call the
        address; `rq-clock check` checks what it can."""
        yield from (Fault("webhook.url", text) for text in url_faults(self.url))
        for part in ("url", "headers", "json"):
            for text in name_faults(getattr(self, part)):
                yield Fault(f"webhook.{part}", text)
        if self.method not in METHODS:
            text = f"expected method {', '.join(METHODS)}, got {masked_repr(self.method)}"
            yield Fault("webhook.method", text)
        if self.method in ("GET", "HEAD") and self.json is not None:
            text = f"a {self.method} carries no json; use method='POST' or leave it out"
            yield Fault("webhook.json", text)
        if not _is_time(self.timeout) or self.timeout > LONGEST_CALL:
            text = f"expected a webhook's timeout in seconds, above 0 and at most {LONGEST_CALL}"
            yield Fault("webhook.timeout", f"{text}, got {masked_repr(self.timeout)}")
        for text in _named_texts("headers", self.headers, _HEADER, _ASCII):
            yield Fault("webhook.headers", text)
        yield from (Fault("webhook.headers", text) for text in header_faults(self.headers))

    def call(self, limit: int | None) -> dict[str, Any]:
        """Return the call for RQ. `limit` is the schedule's timeout."""
        return _call(self, self.spec(), self.timeout, limit)

    def spec(self) -> dict[str, Any]:
        """Return the form to store, as JSON, without defaults; `from_spec` reads it."""
        return _spec(self)

    def shown(self) -> dict[str, Any]:
        """Return the same with its secrets masked."""
        spec = self.spec() | {"url": masked_url(self.url)}
        if self.json is not None:
            spec["json"] = masked_json(self.json)
        return spec | {"headers": masked(self.headers)} if self.headers else spec

    def describe(self) -> str:
        """Return one short line for people."""
        return printable(f"{self.method} {masked_url(self.url)}", 80)


Target = str | Command | Dyno | Webhook
SHELLS = (Command, Dyno)
"""The targets that are a shell; whoever may define one has all that the app has."""


def command(
    shell: str,
    *,
    timeout: float | timedelta | None = None,
    cwd: str | PurePath | None = None,
    env: Mapping[str, str] | None = None,
) -> Command:
    """Return a shell command as the target of a schedule: `/bin/sh -c shell` in its own session,
    with the app's environment and `env` on top, and empty input. `cwd` is relative to the worker's
    directory, which is the default.

    Exit code 0 is success. After `timeout` seconds (default: the schedule's `timeout`, else 180)
    all its processes get SIGTERM, and SIGKILL 5 s later. When the worker shuts down, the command
    has RQ_CLOCK_GRACE_SECONDS to finish; then it gets SIGTERM, SIGKILL 0.5 s later, and the job
    goes back to the front of its queue. Processes that outlive the command or the worker are ended
    too. The timeout of RQ's job is at least 10 s longer, so that this one comes first.

    The command sees RQ_CLOCK_SCHEDULE, RQ_CLOCK_FIRE_TIME and RQ_CLOCK_REASON, and
    PYTHONUNBUFFERED=1 unless that is set. It is stored with `env` in Redis: leave secrets in the
    app's environment.
    """
    return Command(
        shell, _seconds(timeout), str(cwd) if isinstance(cwd, PurePath) else cwd, _dict(env)
    )


def dyno(
    shell: str,
    *,
    size: str | None = None,
    timeout: float | timedelta | None = None,
    env: Mapping[str, str] | None = None,
) -> Dyno:
    """Return a shell command in a one-off dyno of its own as the target of a schedule, as Heroku
    Scheduler and Cron To Go run them. The worker starts it through the Platform API (HEROKU_API_KEY
    and HEROKU_APP_NAME), passes on its output, and takes its exit code; 0 is success.

    `size` is the platform's (default: that of the app's one-off dynos). After `timeout` seconds
    from its beginning (default: the schedule's `timeout`, else an hour) it is stopped. `env` is
    added to the app's config vars; leave secrets in those.

    A worker that shuts down or dies leaves the dyno running, and the next attempt of the job
    follows it: it is started once, and never side by side with another attempt. A retry after a
    failure starts another one. A dyno that vanishes without an end has failed ("lost").
    """
    return Dyno(shell, size, _seconds(timeout), _dict(env))


def webhook(
    url: str,
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    timeout: float | timedelta = CALL_SECONDS,
) -> Webhook:
    """Return a call of a URL as the target of a schedule. 2xx is success; a redirect is a failure
    and is not followed. The first 2 kB of the answer are kept.

    `json` is the body, none when None. `timeout` seconds (at most 300) cover the whole call, from
    looking up the name to the last byte kept; the timeout of RQ's job is at least 10 s longer.
    Idempotency-Key is "<schedule>/<fire time>", so the receiver recognizes a repeated call: RQ runs
    a job at least once. A run by hand or of a backfill, and a requeued job, have a key of their
    own. After 410 Gone the job is not retried. After 429 or 503 a retry waits for Retry-After, at
    most an hour.

    Only public addresses are called, unless RQ_CLOCK_WEBHOOK_ALLOW names host or network. URL,
    headers and body are stored in Redis; write `env("NAME")` for a secret, which the worker puts in
    its place. Headers that look secret are masked where shown. With RQ_CLOCK_WEBHOOK_SECRET the
    call is signed as Standard Webhooks says; webhook-id is then the Idempotency-Key.
    """
    return Webhook(url, method, _dict(headers), json, _seconds(timeout))


def from_spec(kind: str, spec: Any) -> Target:
    """Return the target that `spec` wrote. Raises ValueError, KeyError or TypeError when it cannot
    be read, for example because a later release wrote it."""
    make: dict[str, Callable[..., Target]] = {"command": command, "dyno": dyno, "webhook": webhook}
    return spec if kind == "func" else make[kind](**spec)


def to_spec(target: Target) -> dict[str, Any]:
    return {"func": target} if isinstance(target, str) else {target.kind: target.spec()}


def shown_target(target: Target) -> dict[str, Any]:
    """Return a target for `list --json`, with its secrets masked: `runs` is one line for people,
    `func` is null for the other targets, which have a key of their own."""
    if isinstance(target, str):
        return {"func": target, "runs": target}
    return {"func": None, target.kind: target.shown(), "runs": target.describe()}


def _spec(target: Command | Dyno | Webhook) -> dict[str, Any]:
    spec = {}
    for f in fields(target):
        value = getattr(target, f.name)
        if value != ({} if f.default is MISSING else f.default):
            spec[f.name] = value
    return spec


def _call(
    target: Command | Dyno | Webhook, spec: dict[str, Any], own: float | None, limit: int | None
) -> dict[str, Any]:
    endless = own is None or limit == -1
    timeout = -1 if endless else max(ceil(own or 0) + ENDING_SECONDS, limit or 0)
    description = target.describe()
    return {"func": target.func, "kwargs": spec, "timeout": timeout, "description": description}


def _repr(target: Command | Dyno | Webhook) -> str:
    try:
        shown = target.shown()
    except Exception:  # a faulty declaration, shown in a message about its faults
        return f"{target.kind}(…)"
    return f"{target.kind}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _shown_shell(target: Command | Dyno) -> dict[str, Any]:
    spec = target.spec() | {"shell": masked_text(target.shell)}
    return spec | {"env": masked(target.env)} if target.env else spec


def _first_line(shell: str) -> str:
    first, *more = shell.strip().splitlines()
    return "$ " + printable(masked_text(first), 60) + (" …" if more else "")


def _shell_faults(target: Command | Dyno) -> Iterator[Fault]:
    """Yield what is wrong with the line and the timeout of a shell."""
    shell: Any = target.shell
    kind = target.kind
    if not isinstance(shell, str) or not shell.strip():
        got = masked_repr(shell) if isinstance(shell, str) else type(shell).__name__
        yield Fault(f"{kind}.shell", f"expected a command line, as 'df -h /', got {got}")
    elif not _TEXT.match(shell) or len(shell) > LONGEST_COMMAND:
        text = f"expected a command line of at most {LONGEST_COMMAND:,} characters, without NUL"
        yield Fault(f"{kind}.shell", f"{text} or half a surrogate pair; put it into a script")
    if target.timeout is not None and not _is_time(target.timeout):
        text = f"expected a {kind}'s timeout in seconds, above 0, got {masked_repr(target.timeout)}"
        yield Fault(f"{kind}.timeout", text)


def _env_faults(target: Command | Dyno) -> Iterator[Fault]:
    for text in _named_texts("env", target.env, _VARIABLE, _NO_NUL):
        yield Fault(f"{target.kind}.env", text)


def _dict(value: Any) -> Any:
    return dict(value or {}) if value is None or isinstance(value, Mapping) else value


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _is_time(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < 1e9  # type: ignore[operator]


def _named_texts(option: str, values: object, name: re.Pattern[str], text: str) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"expected {option} to be a dict of texts, got {type(values).__name__}"
        return
    size = 0
    for key, value in values.items():
        if not isinstance(key, str) or not name.match(key):
            yield f"expected a name as a key in {option}, got {masked_repr(key)}"
        elif not isinstance(value, str) or not re.match(text, value):
            got = MASK if is_secret(key) else masked_repr(value)
            place = f"{option}[{masked_repr(key)}]"
            yield f"expected plain text in {place}, got {got} ({type(value).__name__})"
        else:
            size += len(key) + len(value)
    if size > LONGEST_TEXTS:
        yield f"expected {option} of at most {LONGEST_TEXTS:,} characters in all, got {size:,}"
