"""Every setting that rq-clock reads from the environment, in one place.

`.env.example` describes each; a test keeps the two together. In development a `.env` file beside
the app is read too; the environment takes precedence.
"""

from __future__ import annotations

import os
import re
import socket
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from urllib.parse import urlsplit

from rq_clock.errors import RqClockError
from rq_clock.outbound.addresses import Allowed, parse_allowed

DEVELOPMENT_REDIS = "redis://127.0.0.1:6399/0"
"""Where `rq-clock redis` listens by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Gives its scopes to a caller of the web process."""

    name: str
    scopes: frozenset[str]
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, read once and checked. Raises RqClockError naming the bad variable."""

    redis_url: str | None
    tls_verify: bool
    namespace: str
    app: str
    owner: str
    former_owner: str
    release: int
    instance: str
    disabled: bool
    stage_bytes: int
    history: int
    output_hours: int
    webhook_allow: tuple[Allowed, ...]
    runs: int
    alert_grace: int
    alert_failures: int
    alert_stuck: int
    alert_url: str = field(repr=False)
    alert_secret: bytes = field(repr=False)
    alert_urls: tuple[str, ...] = field(repr=False)
    ping_url: str = field(repr=False)
    worker_queues: tuple[str, ...]
    worker_concurrency: int
    grace_seconds: int
    max_interruptions: int
    horse_jobs: int
    horse_mb: int
    stamped_logs: bool
    operator: str
    tokens: tuple[Token, ...]
    cookie_secret: str = field(repr=False)
    behind_proxy: bool
    metrics_public: bool
    metrics_schedules: int
    port: int

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read `env`, or the process's environment with `.env` beneath it."""
        env = environment() if env is None else env
        redis_variable = env.get("RQ_CLOCK_REDIS_ENV", "")
        if redis_variable and redis_variable not in env:
            raise RqClockError(
                f"RQ_CLOCK_REDIS_ENV names {redis_variable}, which is not set; "
                "set it to a redis:// URL"
            )
        url = env.get(redis_variable) or env.get("REDIS_URL") or env.get("REDIS_TLS_URL")
        owner, former = _owner(env)
        return cls(
            redis_url=url or None,
            tls_verify=_switch(env, "RQ_CLOCK_REDIS_TLS_VERIFY", default="DYNO" not in env),
            namespace=_namespace(env),
            app=env.get("RQ_CLOCK_APP") or "clock:clock",
            owner=owner,
            former_owner=former,
            release=_release(env.get("HEROKU_RELEASE_VERSION", "")),
            instance=_instance(env),
            disabled=_switch(env, "RQ_CLOCK_DISABLED"),
            stage_bytes=_count(env, "RQ_CLOCK_STAGE_MB", 128) * 1024 * 1024,
            history=_count(env, "RQ_CLOCK_HISTORY", 100),
            output_hours=_count(env, "RQ_CLOCK_OUTPUT_HOURS", 72),
            webhook_allow=_allowed(env.get("RQ_CLOCK_WEBHOOK_ALLOW", "")),
            runs=_count(env, "RQ_CLOCK_RUNS", 1000),
            alert_grace=_count(env, "RQ_CLOCK_ALERT_GRACE_SECONDS", 60),
            alert_failures=_count(env, "RQ_CLOCK_ALERT_FAILURES", 1),
            alert_stuck=_count(env, "RQ_CLOCK_ALERT_STUCK_SECONDS", 3600),
            alert_url=_url(env, "RQ_CLOCK_ALERT_URL"),
            alert_secret=_secret(env.get("RQ_CLOCK_ALERT_SECRET", "")),
            alert_urls=_alert_urls(env.get("RQ_CLOCK_ALERT_URLS", "")),
            ping_url=_url(env, "RQ_CLOCK_PING_URL"),
            worker_queues=_queues(env.get("WORKER_QUEUES", "")),
            worker_concurrency=_count(env, "WORKER_CONCURRENCY", 1),
            grace_seconds=_count(env, "RQ_CLOCK_GRACE_SECONDS", 25),
            max_interruptions=_count(env, "RQ_CLOCK_MAX_INTERRUPTIONS", 10),
            horse_jobs=_count(env, "RQ_CLOCK_HORSE_JOBS", 1000),
            horse_mb=_count(env, "RQ_CLOCK_HORSE_MB", 200),
            stamped_logs=not {"DYNO", "HONCHO_PROCESS_NAME"} & env.keys(),  # those add the time
            operator=env.get("RQ_CLOCK_USER") or _operator(env),
            tokens=tokens_from(env.get("RQ_CLOCK_TOKENS", "")),
            cookie_secret=env.get("RQ_CLOCK_COOKIE_SECRET", ""),
            behind_proxy=_switch(env, "RQ_CLOCK_PROXY"),
            metrics_public=_switch(env, "RQ_CLOCK_METRICS_PUBLIC"),
            metrics_schedules=_count(env, "RQ_CLOCK_METRICS_SCHEDULES", 500),
            port=_count(env, "PORT", 8000),
        )


def environment() -> dict[str, str]:
    """Return the environment of this process, with `.env` beneath it in development."""
    from dotenv import dotenv_values

    if "DYNO" in os.environ:  # a platform sets variables itself; a stray file must not add any
        return dict(os.environ)
    beneath = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {**beneath, **os.environ}


_SCOPES = {
    "read": {"read"},
    "operate": {"read", "operate"},
    "admin": {"read", "operate", "admin", "tasks"},
    "tasks": {"tasks"},
}
"""Scope → the scopes that it includes."""
_TOKEN = re.compile(r"[!-+\--9;-~]+")
SHORTEST_TOKEN = 16


def tokens_from(text: str) -> tuple[Token, ...]:
    """Read `name:scope+scope:value`, comma-separated; a value alone is an admin's, named
    default."""
    found: dict[str, Token] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, scopes, value = (
            part.split(":") if part.count(":") == 2 else ("default", "admin", part)
        )
        named = scopes.split("+")
        if not _TOKEN.fullmatch(value) or not set(named) <= _SCOPES.keys():
            raise RqClockError(
                f"RQ_CLOCK_TOKENS: expected name:scope:value with scopes of "
                f"{', '.join(_SCOPES)} joined by +, or a value alone, got an entry for {name!r} "
                "that is neither"
            )
        if len(value) < SHORTEST_TOKEN:
            raise RqClockError(
                f"RQ_CLOCK_TOKENS: expected a value of at least {SHORTEST_TOKEN} characters, got "
                f"one of {len(value)} for {name!r}; `openssl rand -hex 32` makes a good one"
            )
        if name in found:
            raise RqClockError(f"RQ_CLOCK_TOKENS: expected each name once, got two of {name!r}")
        allowed = frozenset().union(*(_SCOPES[scope] for scope in named))
        found[name] = Token(name=name, scopes=allowed, value=value)
    return tuple(found.values())


def _owner(env: Mapping[str, str]) -> tuple[str, str]:
    """Return the owner of this clock, and the owner that the same app had before its platform set
    an id (on Heroku: before dyno metadata was enabled)."""
    named = env.get("RQ_CLOCK_OWNER")
    if named:
        return named, ""
    anonymous = "dyno" if "DYNO" in env else "local"
    for variable in ("HEROKU_APP_ID", "RENDER_SERVICE_ID", "FLY_APP_NAME"):
        if env.get(variable):
            return env[variable], "dyno" if anonymous == "dyno" else ""
    return anonymous, ""


def _instance(env: Mapping[str, str]) -> str:
    """Return a name that no other process has: at a deploy two dynos are called clock.1, and in its
    container each has the same process id."""
    return f"{env.get('DYNO') or socket.gethostname()}.{os.getpid()}.{token_hex(2)}"


def _operator(env: Mapping[str, str]) -> str:
    """Return the user of this machine, for the audit. In a container a user may have no name."""
    from getpass import getuser

    try:
        user = getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{env.get('DYNO') or socket.gethostname()}"


def _namespace(env: Mapping[str, str]) -> str:
    namespace = env.get("RQ_CLOCK_NAMESPACE") or "default"
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_")
    if not 1 <= len(namespace) <= 40 or not set(namespace) <= allowed:
        raise RqClockError(
            f"RQ_CLOCK_NAMESPACE: expected 1-40 of a-z, 0-9 and '_', got {namespace!r}"
        )
    return namespace


def _queues(text: str) -> tuple[str, ...]:
    """Read names separated by commas or spaces; of a repeated name the first place counts."""
    return tuple(dict.fromkeys(text.replace(",", " ").split())) or ("default",)


def _release(text: str) -> int:
    """Return the number in Heroku's 'v42'; 0 where the platform numbers no releases."""
    digits = text.removeprefix("v")
    return int(digits) if digits.isdigit() else 0


def _switch(env: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    value = env.get(name, "").lower()
    if not value:
        return default
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise RqClockError(f"{name}: expected 1 or 0, got {value!r}")


def _allowed(text: str) -> tuple[Allowed, ...]:
    try:
        return parse_allowed(text)
    except ValueError as error:
        raise RqClockError(
            "RQ_CLOCK_WEBHOOK_ALLOW: expected hosts (intranet.example, localhost:8000) or networks "
            f"(10.1.0.0/16), got '{error}'"
        ) from None


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name) or str(default)
    if not value.isdigit() or int(value) < 1:
        raise RqClockError(f"{name}: expected a whole number, at least 1, got {value!r}")
    return int(value)


def _url(env: Mapping[str, str], name: str) -> str:
    """Return the URL of a web service; empty when there is none. It may be a secret."""
    url = env.get(name, "")
    scheme, host, _port = _parts(url)
    if url and (not host or scheme not in ("http", "https") or "@" in urlsplit(url).netloc):
        raise RqClockError(
            f"{name}: expected a URL of http or https without user and password, got another text "
            "(not shown, it may hold secrets)"
        )
    return url


def _parts(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL; empty ones when it is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return "", "", None


def _secret(text: str) -> bytes:
    """Return the key that alerts are signed with: base64 behind "whsec_", or any text."""
    if not text.startswith("whsec_"):
        return text.encode()
    try:
        return b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise RqClockError(
            "RQ_CLOCK_ALERT_SECRET: expected base64 behind 'whsec_', got something else; copy it "
            "again, or leave the prefix out"
        ) from None


def _alert_urls(text: str) -> tuple[str, ...]:
    """Return URLs for Apprise, separated by spaces or commas. A URL may contain commas itself."""
    urls = tuple(re.split(r"[\s,]+(?=[A-Za-z][\w+.-]*://)", text.strip(" ,\n"))) if text else ()
    if not all(re.match(r"[A-Za-z][\w+.-]*://[^\s/?#]\S*\Z", url) for url in urls):
        raise RqClockError(
            "RQ_CLOCK_ALERT_URLS: expected URLs of Apprise such as mailtos://user:password@host, "
            "separated by spaces or commas, got another text (not shown, it may hold secrets)"
        )
    return urls
