"""Every setting that rq-clock reads from the environment, in one place.

`.env.example` describes each; a test keeps the two together. In development a `.env` file beside
the app is read too; the environment takes precedence.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from rq_clock.errors import RqClockError
from rq_clock.outbound.addresses import Allowed, parse_allowed
from rq_clock.redaction import Secrets

DEVELOPMENT_REDIS = "redis://127.0.0.1:6399/0"
"""Where `rq-clock redis` listens by default."""
Env = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Gives its scopes to a caller of the web process."""

    name: str
    scopes: frozenset[str]
    value: str = field(repr=False)


OWN_SECRETS = (
    "RQ_CLOCK_TOKENS", "RQ_CLOCK_COOKIE_SECRET", "RQ_CLOCK_ALERT_SECRET", "RQ_CLOCK_ALERT_URL",
    "RQ_CLOCK_ALERT_URLS", "RQ_CLOCK_PING_URL", "RQ_CLOCK_WEBHOOK_SECRET",
    "RQ_CLOCK_CALLBACKS_KEY",
)  # fmt: skip
"""Variables that only rq-clock itself needs: no job and no child of a job gets them."""
_withheld: dict[str, str] = {}


def environment() -> dict[str, str]:
    """Return the environment of this process, with `.env` beneath it in development."""
    from dotenv import dotenv_values

    if "DYNO" in os.environ:  # a platform sets variables itself; a stray file must not add any
        return {**_withheld, **os.environ}
    beneath = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {**beneath, **_withheld, **os.environ}


def job_environment() -> dict[str, str]:
    """Return the environment for a child of a job: without OWN_SECRETS."""
    return {name: value for name, value in environment().items() if name not in OWN_SECRETS}


def withhold_secrets() -> None:
    """Take OWN_SECRETS out of the environment of this process and of its future children. Settings
    still finds them here; so does a function of the app that reads this process's memory."""
    found = {name: os.environ.pop(name) for name in OWN_SECRETS if name in os.environ}
    if found:
        _withheld.update(found)
        _erase([f"{name}=".encode() for name in found])


def _erase(names: Sequence[bytes]) -> None:
    """Overwrite variables in the memory that the process started with: /proc/<pid>/environ shows it
    to each process of the same user. Linux only."""
    import ctypes

    with suppress(OSError, ValueError, IndexError):
        stat = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(stat[47]), int(stat[48])
        at = start
        for variable in ctypes.string_at(start, end - start).split(b"\0"):
            for name in names:
                if variable.startswith(name):
                    ctypes.memset(at + len(name), ord("*"), len(variable) - len(name))
            at += len(variable) + 1


def known_secrets(env: Env) -> Secrets:
    """Return the secrets of an environment, and those of rq-clock itself."""
    own = {**environment(), **env}
    values = {f"{name} secret": own.get(name, "") for name in OWN_SECRETS}
    for place, token in enumerate(own.get("RQ_CLOCK_TOKENS", "").split(",")):
        values[f"token {place}"] = token.strip().rpartition(":")[2]
    for place, url in enumerate(own.get("RQ_CLOCK_ALERT_URLS", "").split()):
        values[f"secret {place}"] = url
    for place, key in enumerate(own.get("RQ_CLOCK_CALLBACKS_KEY", "").replace(",", " ").split()):
        values[f"key {place}"] = key
    return Secrets({**env, **values})


_SCOPES = {
    "read": {"read"},
    "operate": {"read", "operate"},
    "admin": {"read", "operate", "admin", "tasks"},
    "tasks": {"tasks"},
    "commands": {"commands"},
}
"""Scope → the scopes that it includes. None includes `commands`: who may define a command has a
shell on the workers."""
_TOKEN = re.compile(r"[!-+\--9;-~]+")
SHORTEST_TOKEN = 16
SHORTEST_KEY = 32


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


def _redis_url(env: Env) -> str | None:
    named = env.get("RQ_CLOCK_REDIS_ENV", "")
    if named and not re.fullmatch(r"\w+", named):
        raise RqClockError(
            "RQ_CLOCK_REDIS_ENV: expected the name of a variable, got another text (not shown, it "
            "may hold a password); a URL belongs into REDIS_URL"
        )
    if named and named not in env:
        raise RqClockError(
            f"RQ_CLOCK_REDIS_ENV names {named}, which is not set; set it to a redis:// URL"
        )
    return env.get(named) or env.get("REDIS_URL") or env.get("REDIS_TLS_URL") or None


def _owner(env: Env) -> tuple[str, str]:
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


def _instance(env: Env) -> str:
    """Return a name that no other process has: at a deploy two dynos are called clock.1, and in its
    container each has the same process id."""
    return f"{env.get('DYNO') or socket.gethostname()}.{os.getpid()}.{token_hex(2)}"


def _operator(env: Env) -> str:
    """Return the person at this machine, for the audit. In a container a user may have no name."""
    if named := env.get("RQ_CLOCK_USER"):
        return named
    from getpass import getuser

    try:
        user = getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{env.get('DYNO') or socket.gethostname()}"


def _namespace(text: str) -> str:
    namespace = text or "default"
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_")
    if not 1 <= len(namespace) <= 40 or not set(namespace) <= allowed:
        raise RqClockError(
            f"RQ_CLOCK_NAMESPACE: expected 1-40 of a-z, 0-9 and '_', got {namespace!r}"
        )
    return namespace


def _queues(text: str) -> tuple[str, ...]:
    """Read names separated by commas or spaces; of a repeated name the first place counts."""
    return tuple(dict.fromkeys(text.replace(",", " ").split())) or ("default", "callbacks")


def _release(text: str) -> int:
    """Return the number in Heroku's 'v42'; 0 where the platform numbers no releases."""
    found = re.fullmatch(r"v?([0-9]{1,9})", text)
    return int(found[1]) if found else 0


def _log_level(text: str) -> int:
    """Return the level of that name. The variable is not ours alone: what Python's logging does not
    know is for others, and counts as INFO."""
    return logging.getLevelNamesMapping().get(text.upper(), logging.INFO)


def _allowed(text: str) -> tuple[Allowed, ...]:
    try:
        return parse_allowed(text)
    except ValueError as error:
        raise RqClockError(
            "RQ_CLOCK_WEBHOOK_ALLOW: expected hosts (intranet.example, localhost:8000) or networks "
            f"(10.1.0.0/16), got '{error}'"
        ) from None


def _targets(text: str) -> tuple[str, ...] | None:
    """Return patterns of functions; None when the variable is not set."""
    patterns = tuple(text.replace(",", " ").split())
    for pattern in patterns:
        if not re.fullmatch(r"[\w*]+(\.[\w*]+)*", pattern) or len(pattern) > 200:
            raise RqClockError(
                "RQ_CLOCK_TARGETS: expected names of functions, separated by commas, with * for "
                f"any text, such as tasks.*, got {pattern!r}"
            )
    return patterns or None


def _webhook_env(text: str) -> frozenset[str]:
    names = text.replace(",", " ").split()
    wrong = [n for n in names if not re.fullmatch(r"[A-Za-z_]\w{0,99}", n, re.ASCII)]
    wrong += [n for n in names if re.match(r"RQ_CLOCK_|REDIS_(TLS_)?URL\Z", n)]
    if wrong:
        raise RqClockError(
            "RQ_CLOCK_WEBHOOK_ENV: expected names of the app's variables, separated by commas, got "
            f"{wrong[0][:50]!r}"
        )
    return frozenset(names)


def _key(name: str) -> Any:
    return _text(name, lambda text: _secret(name, text), secret=True)


def _secret(name: str, text: str) -> bytes:
    """Return the key that calls are signed with: base64 behind "whsec_", or any text."""
    if not text.startswith("whsec_"):
        return text.encode()
    try:
        return b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise RqClockError(
            f"{name}: expected base64 behind 'whsec_', got something else; copy it again, or leave "
            "the prefix out"
        ) from None


def _callbacks_key(text: str) -> tuple[str, ...]:
    """Return the texts whose keys encrypt the auth of tasks, the newest first."""
    keys = tuple(text.replace(",", " ").split())
    if len(keys) > 2 or any(len(key) < SHORTEST_KEY for key in keys):
        raise RqClockError(
            f"RQ_CLOCK_CALLBACKS_KEY: expected one text of at least {SHORTEST_KEY} characters, or "
            "the new and the former one separated by a comma, got something else (not shown); "
            "`openssl rand -hex 32` makes a good one"
        )
    return keys


def _alert_urls(text: str) -> tuple[str, ...]:
    """Return URLs for Apprise, separated by spaces or commas. A URL may contain commas itself."""
    urls = tuple(re.split(r"[\s,]+(?=[A-Za-z][\w+.-]*://)", text.strip(" ,\n"))) if text else ()
    if not all(re.match(r"[A-Za-z][\w+.-]*://[^\s/?#]\S*\Z", url) for url in urls):
        raise RqClockError(
            "RQ_CLOCK_ALERT_URLS: expected URLs of Apprise such as mailtos://user:password@host, "
            "separated by spaces or commas, got another text (not shown, it may hold secrets)"
        )
    return urls


# ---- the table ---------------------------------------------------------------------------------


def _setting(read: Callable[[Env], Any], *, secret: bool = False) -> Any:
    """Return a field that `read` finds in the environment. A secret is not part of the repr."""
    return field(metadata={"read": read}, repr=not secret)


def _text(name: str, read: Callable[[str], Any] = str, *, secret: bool = False) -> Any:
    return _setting(lambda env: read(env.get(name, "")), secret=secret)


def _count(name: str, default: int, unit: int = 1) -> Any:
    def read(env: Env) -> int:
        value = env.get(name) or str(default)
        if not re.fullmatch("0*[1-9][0-9]{0,8}", value):
            raise RqClockError(
                f"{name}: expected a whole number from 1 to 999999999, got {value[:50]!r}"
            )
        return int(value) * unit

    return _setting(read)


def _switch(name: str, default: Callable[[Env], bool] = lambda env: False) -> Any:
    def read(env: Env) -> bool:
        value = env.get(name, "").lower()
        if value not in _SWITCH:
            raise RqClockError(f"{name}: expected 1 or 0, got {value!r}")
        return _SWITCH[value] if value else default(env)

    return _setting(read)


def _url(name: str) -> Any:
    """Return the field of the URL of a web service, empty for none. It may be a secret."""

    def read(url: str) -> str:
        with suppress(ValueError):  # of a port that is no number
            parts = urlsplit(url)
            plain = parts.hostname and "@" not in parts.netloc and (parts.port or 0) >= 0
            if not url or (plain and parts.scheme in ("http", "https")):
                return url
        raise RqClockError(
            f"{name}: expected a URL of http or https without user and password, got another "
            "text (not shown, it may hold secrets)"
        )

    return _text(name, read, secret=True)


_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True)
_SWITCH |= dict.fromkeys(("", "0", "false", "no", "off"), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, read once and checked. Raises RqClockError naming the bad variable."""

    redis_url: str | None = _setting(_redis_url, secret=True)
    tls_verify: bool = _switch("RQ_CLOCK_REDIS_TLS_VERIFY", default=lambda env: "DYNO" not in env)
    namespace: str = _text("RQ_CLOCK_NAMESPACE", _namespace)
    app: str = _text("RQ_CLOCK_APP", lambda text: text or "clock:clock")
    owner: str = _setting(lambda env: _owner(env)[0])
    former_owner: str = _setting(lambda env: _owner(env)[1])
    release: int = _text("HEROKU_RELEASE_VERSION", _release)
    instance: str = _setting(_instance)
    disabled: bool = _switch("RQ_CLOCK_DISABLED")
    stage_bytes: int = _count("RQ_CLOCK_STAGE_MB", 128, unit=1024 * 1024)
    history: int = _count("RQ_CLOCK_HISTORY", 100)
    output_hours: int = _count("RQ_CLOCK_OUTPUT_HOURS", 72)
    output_bytes: int = _count("RQ_CLOCK_OUTPUT_MB", 8, unit=1024 * 1024)
    function_output: bool = _switch("RQ_CLOCK_FUNCTION_OUTPUT", default=lambda env: True)
    log_level: int = _text("LOG_LEVEL", _log_level)
    targets: tuple[str, ...] | None = _text("RQ_CLOCK_TARGETS", _targets)
    webhook_env: frozenset[str] = _text("RQ_CLOCK_WEBHOOK_ENV", _webhook_env)
    webhook_secret: bytes = _key("RQ_CLOCK_WEBHOOK_SECRET")
    webhook_allow: tuple[Allowed, ...] = _text("RQ_CLOCK_WEBHOOK_ALLOW", _allowed)
    callbacks_key: tuple[str, ...] = _text("RQ_CLOCK_CALLBACKS_KEY", _callbacks_key, secret=True)
    heroku_api_key: str = _text("HEROKU_API_KEY", secret=True)
    heroku_app: str = _text("HEROKU_APP_NAME")
    heroku_api: str = _url("RQ_CLOCK_HEROKU_API")
    runs: int = _count("RQ_CLOCK_RUNS", 1000)
    failed_jobs: int = _count("RQ_CLOCK_FAILED_JOBS", 20)
    alert_grace: int = _count("RQ_CLOCK_ALERT_GRACE_SECONDS", 60)
    alert_failures: int = _count("RQ_CLOCK_ALERT_FAILURES", 1)
    alert_stuck: int = _count("RQ_CLOCK_ALERT_STUCK_SECONDS", 3600)
    alert_url: str = _url("RQ_CLOCK_ALERT_URL")
    alert_secret: bytes = _key("RQ_CLOCK_ALERT_SECRET")
    alert_urls: tuple[str, ...] = _text("RQ_CLOCK_ALERT_URLS", _alert_urls, secret=True)
    ping_url: str = _url("RQ_CLOCK_PING_URL")
    worker_queues: tuple[str, ...] = _text("WORKER_QUEUES", _queues)
    worker_concurrency: int = _count("WORKER_CONCURRENCY", 1)
    grace_seconds: int = _count("RQ_CLOCK_GRACE_SECONDS", 25)
    max_interruptions: int = _count("RQ_CLOCK_MAX_INTERRUPTIONS", 10)
    max_deaths: int = _count("RQ_CLOCK_MAX_DEATHS", 3)
    worker_silence: int = _count("RQ_CLOCK_WORKER_SILENCE", 10)
    setup: str = _setting(lambda env: env.get("RQ_CLOCK_SETUP", ""))
    horse_jobs: int = _count("RQ_CLOCK_HORSE_JOBS", 1)
    horse_mb: int = _count("RQ_CLOCK_HORSE_MB", 200)
    stamped_logs: bool = _setting(lambda env: not {"DYNO", "HONCHO_PROCESS_NAME"} & env.keys())
    """Whether log lines need a time: those two add it."""
    operator: str = _setting(_operator)
    tokens: tuple[Token, ...] = _text("RQ_CLOCK_TOKENS", tokens_from)
    cookie_secret: str = _text("RQ_CLOCK_COOKIE_SECRET", secret=True)
    token_rate: int = _count("RQ_CLOCK_TOKEN_RATE", 100)
    behind_proxy: bool = _switch(
        "RQ_CLOCK_PROXY", default=lambda env: bool({"DYNO", "RENDER", "FLY_APP_NAME"} & env.keys())
    )
    metrics_public: bool = _switch("RQ_CLOCK_METRICS_PUBLIC")
    metrics_schedules: int = _count("RQ_CLOCK_METRICS_SCHEDULES", 500)
    port: int = _count("PORT", 8000)

    @classmethod
    def from_env(cls, env: Env | None = None) -> Settings:
        """Read `env`, or the process's environment with `.env` beneath it."""
        env = environment() if env is None else env
        return cls(**{f.name: f.metadata["read"](env) for f in fields(cls)})
