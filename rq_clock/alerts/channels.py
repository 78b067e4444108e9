"""How alerts and pings leave the clock: the log, a signed web call, Apprise, pings.

Each channel has a queue and a daemon thread of its own, started by the first item: a hanging server
delays only its own channel, never the tick. Queues are bounded and drop the oldest. Nothing here
raises into the clock; a channel that fails is logged once, and once when it is back. A queue is
lost when the process dies; the log has its alerts.

Apprise sends mail and calls Slack, Discord, Teams, PagerDuty and others. It takes 0.5 s to import
and tens of megabytes, so only the thread of such a channel imports it.

Addresses from the environment may be any. Those of schedules follow the rule of webhooks
(outbound/addresses.py). No address, key or password is logged: they are masked.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import NAMESPACE_URL, uuid5

from rq_clock.alerts.rules import RECOVERED, Edge, Report, summary
from rq_clock.errors import RqClockError, WebhookFailed
from rq_clock.log import log_event, log_warning
from rq_clock.outbound import client as outbound
from rq_clock.outbound.addresses import Allowed, parse_allowed
from rq_clock.outbound.signature import signature_headers
from rq_clock.redaction import SHORTEST, Secrets, masked_text, masked_url, printable
from rq_clock.settings import Settings
from rq_clock.version import __version__

QUEUE = 1000
"""Items that wait in a channel; beyond, the oldest are dropped."""
RETRY_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before the second, third and fourth attempt. A channel that is known to fail gets one
attempt for each item, so that the queue does not grow behind it."""
SEND_SECONDS, PING_SECONDS = 10.0, 5.0
CLOSE_SECONDS = 1.0
PING_LIMIT = 5
"""Pings of one schedule within 60 s."""
PING_EVERY = 60.0
FORGET_SECONDS = 3600.0
"""After this long the end of a run whose start was pinged is not expected any more."""
ANYWHERE = parse_allowed("0.0.0.0/0 ::/0")
T = TypeVar("T")


class NotSent(RqClockError):
    """A report was not accepted. The text holds no secret."""


class Channel(Generic[T]):
    """One way out. `send` is called with one item after the other, in a thread; when it raises, the
    item was not sent. `place` returns the name, in the log, of the place an item goes to."""

    def __init__(
        self,
        name: str,
        send: Callable[[T], None],
        place: Callable[[T], str],
        pauses: Sequence[float] = (),
    ) -> None:
        self._name = name
        self._send = send
        self._place = place
        self._pauses = pauses
        self._waiting: deque[T] = deque(maxlen=QUEUE)
        self._changed = threading.Condition()
        self._closing = False
        self._full = False
        self._dead: set[str] = set()
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> None:
        """Send an item when its turn comes. Returns at once."""
        with self._changed:
            full = len(self._waiting) == QUEUE
            overflows, self._full = full and not self._full, full or self._full
            self._waiting.append(item)
            self._changed.notify_all()
        if overflows:
            log_warning(
                "channel.full", channel=self._name, waiting=QUEUE, effect="the oldest are dropped"
            )
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"rq-clock-{self._name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Send the rest without pauses between attempts, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, moment: float) -> None:
        """Wait for its end, until `moment` (monotonic) at the latest."""
        if self._thread:
            self._thread.join(max(0.0, moment - time.monotonic()))

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._deliver(item)

    def _next(self) -> T | None:
        with self._changed:
            while not self._waiting and not self._closing:
                self._full = False
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, item: T) -> None:
        place = self._place(item)
        pauses = () if place in self._dead else self._pauses
        for pause in (*pauses, None):
            try:
                self._send(item)
            except Exception as error:  # the next item is sent all the same
                if pause is None:
                    self._failed(place, error)
                else:
                    self._wait(pause)
            else:
                if place in self._dead:
                    self._dead.remove(place)
                    log_event("channel.back", channel=self._name, place=place)
                return

    def _failed(self, place: str, error: Exception) -> None:
        if place not in self._dead:
            self._dead.add(place)
            text = printable(masked_text(str(error) or type(error).__name__), 200)
            log_warning("channel.dead", channel=self._name, place=place, error=text)

    def _wait(self, seconds: float) -> None:
        """Wait between two attempts, unless the clock ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)


class Channels:
    """All channels that the environment configures."""

    def __init__(self, settings: Settings) -> None:
        self._reports: list[Channel[tuple[Report, float]]] = []
        if settings.alert_url:
            post = partial(_post, settings.alert_url, settings.alert_secret)
            self._reports.append(_reporting("webhook", post, _host(settings.alert_url)))
        self._reports += _apprise_channels(settings.alert_urls)
        self._url = settings.ping_url
        self._alive_at = float("-inf")
        self._alive = Channel("ping", partial(_get, ANYWHERE), _host)
        allowed = settings.webhook_allow
        self._runs = Channel[Ping]("pings", lambda p: _get(allowed, p.url), lambda p: p.schedule)
        self.pings = Pings(self._runs.put)
        """The pings of schedules."""

    def send(self, report: Report) -> None:
        for channel in self._reports:
            channel.put((report, time.monotonic()))

    def alive(self, moment: float) -> None:
        """Ping once a minute: the clock leads and is on time. `moment` is monotonic."""
        if self._url and moment - self._alive_at >= PING_EVERY:
            self._alive_at = moment
            self._alive.put(self._url)

    def close(self) -> None:
        """Send as much as possible within CLOSE_SECONDS."""
        channels: list[Channel[Any]] = [*self._reports, self._alive, self._runs]
        for channel in channels:
            channel.close()
        until = time.monotonic() + CLOSE_SECONDS
        for channel in channels:
            channel.join(until)


def log(edges: Sequence[Edge], *, many: bool) -> None:
    """Log a line for each edge, or one for them all."""
    if many:
        names = ", ".join(edge.alert.subject for edge in edges[:10])
        log_warning("alert.digest", **summary(edges), first=names)
        return
    for edge in edges:
        facts = edge.facts
        kind, state = facts.pop("kind"), facts.pop("state")
        if state == RECOVERED:
            log_event("alert.recovered", kind=kind, **facts)
        else:
            log_warning(f"alert.{kind}", state=state, **facts)


# ---- reports ----------------------------------------------------------------------------------


def _reporting(
    name: str, send: Callable[[Report, datetime], None], place: str
) -> Channel[tuple[Report, float]]:
    def send_now(item: tuple[Report, float]) -> None:
        report, moment = item
        send(report, report.at + timedelta(seconds=time.monotonic() - moment))

    return Channel(name, send_now, lambda _: place, RETRY_PAUSES)


def _post(url: str, key: bytes, report: Report, now: datetime) -> None:
    """Make the web call that Standard Webhooks describes."""
    body = json.dumps({"text": report.text, **report.facts}).encode()
    headers = {"User-Agent": f"rq-clock/{__version__}", "Content-Type": "application/json"}
    headers |= signature_headers(key, report.id, now, body)
    _call(outbound.Request(url, "POST", headers, body, 0), SEND_SECONDS, ANYWHERE)


def _apprise_channels(urls: Sequence[str]) -> list[Channel[tuple[Report, float]]]:
    """Return a channel for each URL. The log names it by its scheme and number, since every other
    part of such a URL may be a secret."""
    if urls and find_spec("apprise") is None:
        log_warning(
            "alerts.unavailable",
            urls=len(urls),
            error="RQ_CLOCK_ALERT_URLS needs the package apprise",
            remedy='pip install "rq-clock[alerts]"',
        )
        return []
    return [
        _reporting(url.partition("://")[0], partial(_notify, url), f"RQ_CLOCK_ALERT_URLS #{number}")
        for number, url in enumerate(urls, 1)
    ]


def _notify(url: str, report: Report, now: datetime) -> None:
    """Send a report through Apprise. Raises NotSent with the errors that Apprise logged."""
    import apprise

    log = logging.getLogger("apprise")
    log.propagate = False  # its lines may hold parts of the URL
    log.setLevel(logging.DEBUG)
    service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="rq-clock", async_mode=False))
    if not service.add(url):
        raise NotSent("expected a URL that Apprise knows, got another one (not shown)")
    kind = apprise.NotifyType
    ok = report.facts.get("state") == RECOVERED
    facts = (f"{name}: {value}" for name, value in report.facts.items() if name != "alerts")
    result = service.notify(
        "\n".join([*report.lines, "", *facts]),
        title=printable(report.title, 200),
        notify_type=kind.SUCCESS if ok else kind.FAILURE,
        body_format=apprise.NotifyFormat.TEXT,
        timeout=SEND_SECONDS,
        log_level=logging.DEBUG,
    )
    if not result:
        errors = [
            entry.message for entry in result.logs()
            if entry.level in ("WARNING", "ERROR") or entry.message.startswith(_REASONS)
        ]  # fmt: skip
        raise NotSent(_without_parts_of(url, "; ".join(errors) or "no reason given"))


_REASONS = ("Socket Exception", "Response Details")
"""How Apprise's lines begin that name the reason of a failure; it logs them for debugging only."""


def _without_parts_of(url: str, text: str) -> str:
    parts = [part for part in re.split(r"[/?&=:@,]+", url) if len(part) >= SHORTEST]
    secrets = Secrets({f"secret {n}": p for n, p in enumerate([*parts, *map(unquote, parts)])})
    return secrets.hide(text.encode()).decode(errors="replace")


# ---- pings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    """A call of a schedule's address, for one of its runs."""

    schedule: str
    url: str


class Pings:
    """The pings to the services that schedules name: a run has started, succeeded or failed.

    At most PING_LIMIT in any 60 s for one schedule. A start is sent only if there is room for its
    end too, because a service waits for the end of a run that has started. Of other ends that find
    no room, the newest is sent as soon as there is some.
    """

    def __init__(self, put: Callable[[Ping], None]) -> None:
        self._put = put
        self._schedules: dict[str, _History] = {}

    def started(self, schedule: str, url: str, job_id: str, moment: float) -> None:
        """A run was enqueued; `moment` is monotonic."""
        history = self._history(schedule, moment)
        if history.room >= 2:
            history.open[job_id] = moment
            self._send(history, Ping(schedule, _address(url, "/start", job_id)), moment)

    def ended(self, schedule: str, url: str, job_id: str, moment: float, *, ok: bool) -> None:
        history = self._history(schedule, moment)
        ping = Ping(schedule, _address(url, "" if ok else "/fail", job_id))
        awaited = history.open.pop(job_id, None) is not None
        if awaited or history.room >= 1:
            history.delayed = None
            self._send(history, ping, moment)
        else:
            history.delayed = ping

    def flush(self, moment: float) -> None:
        """Send the pings that found no room before, and forget old ones."""
        for schedule in list(self._schedules):
            history = self._history(schedule, moment)
            if history.delayed and history.room >= 1:
                ping, history.delayed = history.delayed, None
                self._send(history, ping, moment)
            if not history.sent and not history.open:
                del self._schedules[schedule]

    def _history(self, schedule: str, moment: float) -> _History:
        history = self._schedules.setdefault(schedule, _History())
        while history.sent and history.sent[0] <= moment - PING_EVERY:
            history.sent.popleft()
        history.open = {j: m for j, m in history.open.items() if m > moment - FORGET_SECONDS}
        return history

    def _send(self, history: _History, ping: Ping, moment: float) -> None:
        history.sent.append(moment)
        self._put(ping)


@dataclass(slots=True)
class _History:
    """The recent pings of one schedule."""

    sent: deque[float] = field(default_factory=deque)
    """When (monotonic)."""
    open: dict[str, float] = field(default_factory=dict)
    """Runs whose end the service waits for → when their start was sent."""
    delayed: Ping | None = None
    """Waits for room."""

    @property
    def room(self) -> int:
        return PING_LIMIT - len(self.sent) - len(self.open)


def _address(url: str, suffix: str, job_id: str) -> str:
    """Return the address for one run: the same id for its start and its end."""
    parts = urlsplit(url)
    run = f"rid={uuid5(NAMESPACE_URL, job_id)}"
    query = f"{parts.query}&{run}" if parts.query else run
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix, query=query))


def _get(allowed: tuple[Allowed, ...], url: str) -> None:
    headers = {"User-Agent": f"rq-clock/{__version__}"}
    _call(outbound.Request(url, "GET", headers, None, 0), PING_SECONDS, allowed)


def _call(request: outbound.Request, seconds: float, allowed: tuple[Allowed, ...]) -> None:
    try:
        answer = outbound.call(request, seconds, allowed)
    except WebhookFailed as error:
        raise NotSent(str(error).replace(masked_url(request.url), _host(request.url))) from None
    if not 200 <= answer.status < 300:
        raise NotSent(f"expected an answer of 2xx, got {answer.words}")


def _host(url: str) -> str:
    """Return the part of a URL for the log: the path may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
