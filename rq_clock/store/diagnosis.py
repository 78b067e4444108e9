"""What is wrong with the server, and what to do about it: one line for an operator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import monotonic

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    ResponseError,
    TimeoutError,
)
from redis.sentinel import MasterNotFoundError

from rq_clock.errors import StoreUnavailable
from rq_clock.log import log_event, log_warning
from rq_clock.redaction import printable
from rq_clock.store.address import ESCAPES, redacted
from rq_clock.store.memory import REMEDY

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to reach a server; each pause doubles the one before."""
LONGEST_REFUSED = 30.0
"""The longest pause while a server answers and refuses: its user or its settings must change."""
LOG_FROM = 0.8
"""The pause from which a server that never answered is reported: where all processes start at once,
it may only be slower to start."""
WELL_SECONDS = 10.0
"""How long nothing must be refused until a refusal counts as over."""
ANOTHER_SECONDS = 20.0
"""How long after a line about a problem another problem of the same outage gets one."""
ACCESS = "~* &* +@all -@dangerous"
"""The rules of a user of the server that are enough."""
_REFUSED = re.compile(
    r"no permissions?\b|can't (?:run|access|publish)|unknown command|Cluster|hash to the same slot"
    r"|WRONGTYPE",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: |, with args beginning with:.*| script: .*"
    r"|Error running script .*?: \d+: ",
    re.DOTALL,
)
"""Of an error's text: the arguments of a command, which may be secret, and where in a script."""
_ERRORS: Sequence[tuple[type[Exception] | tuple[type[Exception], ...], str, str]] = (
    (
        Exception, r"max number of clients|connection limit|too many connections",
        "{place} has no connection left (its limit is reached); close others, run fewer processes "
        "or take a larger plan. A process of rq-clock needs two to six",
    ),
    (
        AuthenticationError, "",
        "{place} refuses the user or password ({text}); check REDIS_URL. In a URL " + ESCAPES,
    ),
    (
        ResponseError, r"(?i)(?:permissions? to run|unknown command).{0,9}\b(?:eval|script)",
        "{place} does not let this user run scripts ({text}); EVAL is needed, with EVALSHA and "
        "SCRIPT LOAD: allow them (+@scripting), or use a server that has them",
    ),
    (
        ResponseError, r"(?i)channel",
        "{place} does not let this user use channels ({text}); allow them: ACL SETUSER … &*",
    ),
    (
        ResponseError, r"(?i)permission|can't (?:run|access)",
        "{place} does not let this user do what is needed ({text}); rules that are enough: "
        f"ACL SETUSER … {ACCESS}",
    ),
    (
        ResponseError, r"unknown command",
        "{place} lacks a command ({text}); undo its rename-command, or use a server that has it",
    ),
    (
        (ResponseError, MasterDownError), r"NOREPLICAS|MISCONF|MASTERDOWN|Link with MASTER",
        "{place} takes no writes now ({text}); look at its replicas and its disk",
    ),
    (
        (AskError, ClusterCrossSlotError, ClusterDownError), "",
        "{place} is a Redis Cluster, which neither rq-clock nor RQ can use: a job is in several "
        "keys; use a server with cluster mode off",
    ),
    (
        ResponseError, r"WRONGTYPE",
        "{place}: {text}; something else has written to a key of rq-clock or RQ: of the keys in "
        "`redis-cli --scan --pattern 'rq*'`, delete the one whose TYPE is wrong",
    ),
    (
        ResponseError, r"read only replica",
        "{place} is a replica and takes no writes; after a failover that passes. If it does not, "
        "let REDIS_URL name the primary, or the sentinels (redis+sentinel://)",
    ),
    (ResponseError, r"used memory > 'maxmemory'", "{place} is full ({text}); " + REMEDY),
    (BusyLoadingError, "", "{place} is still loading its data; it will answer when it is done"),
    (
        ConnectionError, r"CERTIFICATE_VERIFY_FAILED",
        "{place} shows a certificate that cannot be verified ({text}); name its authority's file "
        "in SSL_CERT_FILE, or add ?ssl_cert_reqs=none to the URL to accept any certificate",
    ),
    (
        ConnectionError, r"WRONG_VERSION_NUMBER|record layer",
        "{place} does not speak TLS; use redis:// instead of rediss://",
    ),
)  # fmt: skip
"""Kind of an error, a pattern of its text, the line."""


def diagnose(error: BaseException, url: str | None) -> str:
    """Return one line for an operator: the problem with the server and its remedy."""
    place = redacted(url) if url else "Redis"
    if isinstance(error, MasterNotFoundError):
        return _of_sentinels(str(error), place)
    text = printable(_NOISE.sub("", str(error)).strip(), 200)
    for kind, pattern, line in _ERRORS:
        if isinstance(error, kind) and re.search(pattern, str(error)):
            return line.format(place=place, text=text)
    if isinstance(error, TimeoutError):
        tls = "; if it does not speak TLS, use redis://" if place.startswith("rediss") else ""
        return f"{place} does not answer in time{tls}"
    if isinstance(error, ConnectionError):
        if "refused" in text and re.match(r"\w+://(?:127\.|localhost|\[::1\])", place):
            return f"no Redis at {place} ({text}); start one with `rq-clock redis`"
        return f"no connection to {place} ({text}); check REDIS_URL (TLS needs rediss://)"
    return f"{place}: {text}"


def is_refusal(error: BaseException) -> bool:
    """Return whether a server answers and lacks or refuses what is needed, until somebody changes
    its settings or a key."""
    cluster = isinstance(error, AskError | ClusterCrossSlotError)
    return cluster or (isinstance(error, ResponseError) and bool(_REFUSED.search(str(error))))


def _of_sentinels(text: str, place: str) -> str:
    """Return the line for sentinels that name no primary."""
    failed = re.search(r" - (?:\w+:)?(\w+Error)", text)
    if failed and failed[1].startswith("Auth"):
        return (
            f"the sentinels of {place} refuse the user or password; add "
            f"?sentinel_password=… (and &sentinel_username=…) to REDIS_URL. There {ESCAPES}"
        )
    if failed:
        return (
            f"no sentinel of {place} answers ({failed[1]}); check hosts and ports in REDIS_URL "
            "(TLS needs rediss+sentinel://)"
        )
    return (
        f"the sentinels of {place} know no primary of this name that is up; `SENTINEL MASTERS` "
        "lists the names (redis+sentinel://host:port/NAME/database)"
    )


class Reconnect:
    """Retries of a long-running process while the server does not answer, or refuses what is
    needed: one log line for each problem, and pauses that grow."""

    def __init__(self, url: str | None, clock: Callable[[], float] = monotonic) -> None:
        self._url = url
        self._monotonic = clock
        self._answered = False
        self._pause = SHORTEST_PAUSE
        self._refused_at: float | None = None
        self._reported = ""
        """The problem that the log has."""
        self._reported_at = 0.0

    def try_again(self, error: BaseException) -> float:
        """Return the seconds to wait before the next attempt.

        Raises StoreUnavailable when waiting will not help: a server refuses the password of this
        process and never let it in.
        """
        reason = diagnose(error, self._url)
        if not self._answered and isinstance(error, AuthenticationError):
            raise StoreUnavailable(reason) from None
        now = self._monotonic()
        refused = is_refusal(error)
        self._refused_at = now if refused else None
        new = self._reported and reason != self._reported
        if (new and now >= self._reported_at + ANOTHER_SECONDS) or (
            not self._reported and (self._answered or refused or self._pause >= LOG_FROM)
        ):
            self._reported, self._reported_at = reason, now
            log_warning("store.waiting", reason=reason)
        longest = LONGEST_REFUSED if refused else LONGEST_PAUSE
        pause, self._pause = self._pause, min(self._pause * 2, longest)
        return pause

    def answered(self) -> None:
        """Note that the server answers."""
        self._answered = True
        if self._refused_at is None:
            self._report_end()

    def succeeded(self) -> None:
        """Note that an attempt is complete, and reset the pause. `answered` alone does not: an
        attempt that then fails would fail again at once. Neither does an attempt soon after a
        refusal: what was refused may come later."""
        if self._refused_at is not None:
            if self._monotonic() < self._refused_at + self._pause + WELL_SECONDS:
                return
            self._refused_at = None
        self._pause = SHORTEST_PAUSE
        self._report_end()

    def _report_end(self) -> None:
        if self._reported:
            self._reported = ""
            log_event("store.back")
