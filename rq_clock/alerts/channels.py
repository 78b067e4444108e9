"""How alerts and pings leave the clock: the log, a signed web call, mail, pings.

Each channel has a queue and a daemon thread of its own, begun with the first thing to send: a
server that hangs holds up what goes the same way, never the tick and never another channel. Queues
are bounded and lose the oldest. Nothing here raises into the clock; a channel that dies is logged
once, and once when it is back. What is in a queue when the process dies is lost; the log has it.

What an operator wrote into the environment may be any address. What a schedule names follows the
rule of webhooks (addresses.py). No address, key or password is logged: they are masked.

No clock is read: a report says when it is from, and what passes until it is sent is measured.
"""

from __future__ import annotations

import hmac
import json
import smtplib
import ssl
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import NAMESPACE_URL, uuid5

from rq_clock.alerts.rules import RECOVERED, Edge, Report, summary
from rq_clock.errors import RqClockError, WebhookFailed
from rq_clock.log import log_event, log_warning
from rq_clock.outbound import client as hook
from rq_clock.outbound.addresses import Allowed, literal, parse_allowed
from rq_clock.redaction import Secrets, masked_text, masked_url, printable
from rq_clock.settings import Mailbox, Settings
from rq_clock.version import __version__

QUEUE = 1000
"""Things that wait in a channel; of more, the oldest are lost."""
RETRY_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before the second, third and fourth attempt, while the channel is not known to be dead:
then each gets one, so that what waits does not pile up behind it."""
SEND_SECONDS, PING_SECONDS = 10.0, 5.0
CLOSE_SECONDS = 1.0
A_MINUTE = 5
"""Pings of one schedule within 60 s."""
PING_EVERY = 60.0
FORGET_SECONDS = 3600.0
"""After this long nobody waits for the end of a run whose start was told."""
ANYWHERE = parse_allowed("0.0.0.0/0 ::/0")
T = TypeVar("T")


class NotSent(RqClockError):
    """A report was not taken. The text holds no secret."""


class Channel(Generic[T]):
    """One way out. `send` gets one thing after the other, in a thread; what it raises counts as not
    sent. `place` says what the log calls the place a thing goes to."""

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

    def put(self, thing: T) -> None:
        """Send it when its turn comes. Returns at once."""
        with self._changed:
            full = len(self._waiting) == QUEUE
            news, self._full = full and not self._full, full or self._full
            self._waiting.append(thing)
            self._changed.notify_all()
        if news:
            log_warning(
                "channel.full", channel=self._name, waiting=QUEUE, effect="the oldest are lost"
            )
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"rq-clock-{self._name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Send what there is without waiting between attempts, and end then."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, moment: float) -> None:
        """Wait for the end of it, until `moment` (monotonic) at most."""
        if self._thread:
            self._thread.join(max(0.0, moment - time.monotonic()))

    def _run(self) -> None:
        while (thing := self._next()) is not None:
            self._deliver(thing)

    def _next(self) -> T | None:
        with self._changed:
            while not self._waiting and not self._closing:
                self._full = False
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, thing: T) -> None:
        place = self._place(thing)
        pauses = () if place in self._dead else self._pauses
        for pause in (*pauses, None):
            try:
                self._send(thing)
            except Exception as error:  # whatever it is, the next thing is sent
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
        """Wait between two attempts, but for no end of the clock."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)


class Channels:
    """All the ways out that are set up."""

    def __init__(self, settings: Settings) -> None:
        self._reports: list[Channel[tuple[Report, float]]] = []
        if settings.alert_url:
            post = partial(_post, settings.alert_url, settings.alert_secret)
            self._reports.append(_reporting("webhook", post, _host(settings.alert_url)))
        if box := settings.alert_mail:
            self._reports.append(_reporting("mail", partial(_mail, box), f"{box.host}:{box.port}"))
        self._url = settings.ping_url
        self._alive_at = float("-inf")
        self._alive = Channel("ping", partial(_get, ANYWHERE), _host)
        allowed = settings.webhook_allow
        self._runs = Channel[Ping]("pings", lambda p: _get(allowed, p.url), lambda p: p.schedule)
        self.pings = Pings(self._runs.put)
        """Those of schedules."""

    def tell(self, report: Report) -> None:
        """Send a report everywhere but to the log."""
        for channel in self._reports:
            channel.put((report, time.monotonic()))

    def alive(self, moment: float) -> None:
        """The clock leads and is on time; `moment` is monotonic. Says so once a minute."""
        if self._url and moment - self._alive_at >= PING_EVERY:
            self._alive_at = moment
            self._alive.put(self._url)

    def close(self) -> None:
        """Send what can be sent within CLOSE_SECONDS."""
        channels: list[Channel[Any]] = [*self._reports, self._alive, self._runs]
        for channel in channels:
            channel.close()
        until = time.monotonic() + CLOSE_SECONDS
        for channel in channels:
            channel.join(until)


def log(edges: Sequence[Edge], *, many: bool) -> None:
    """A line for each edge, or one for them all."""
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
    def send_now(told: tuple[Report, float]) -> None:
        report, moment = told
        send(report, report.at + timedelta(seconds=time.monotonic() - moment))

    return Channel(name, send_now, lambda _: place, RETRY_PAUSES)


def _post(url: str, key: bytes, report: Report, now: datetime) -> None:
    """A web call as Standard Webhooks has it; Slack and its like show the text."""
    said = report.text
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        said = said.replace(character, entity)  # else Slack takes <!channel> for an order
    body = json.dumps({"text": said, **report.facts}).encode()
    stamp = str(int(now.timestamp()))
    headers = {
        "User-Agent": f"rq-clock/{__version__}",
        "Content-Type": "application/json",
        "webhook-id": report.id,
        "webhook-timestamp": stamp,
    }
    if key:
        signed = hmac.digest(key, f"{report.id}.{stamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{b64encode(signed).decode()}"
    _call(hook.Request(url, "POST", headers, body, 0), SEND_SECONDS, ANYWHERE)


def _mail(box: Mailbox, report: Report, now: datetime) -> None:
    """Hand a mail to its server. A password goes over TLS only, except on this machine."""
    mail = EmailMessage()
    mail["From"], mail["To"] = box.sender, ", ".join(box.to)
    mail["Subject"] = printable(report.title, 200)
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{report.id}@rq-clock>"
    lines = [*report.lines, "", *(f"{k}: {v}" for k, v in report.facts.items() if k != "alerts")]
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    try:
        with _mail_server(box) as server:
            if box.user:
                server.login(box.user, box.password)
            server.send_message(mail)
    except (smtplib.SMTPException, OSError) as error:
        said = Secrets({"password": box.password}).hide(f"{error}".encode())
        raise NotSent(f"{type(error).__name__}: {said.decode(errors='replace')}") from None


def _mail_server(box: Mailbox) -> smtplib.SMTP:
    """A connection that mail, and the password if there is one, may be given to."""
    if box.tls:
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(box.host, box.port, timeout=SEND_SECONDS, context=context)
    server = smtplib.SMTP(box.host, box.port, timeout=SEND_SECONDS)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        elif box.user and not _is_here(box.host):
            raise NotSent("the server offers no TLS, and a password is not sent without")
    except BaseException:
        server.close()
        raise
    return server


def _is_here(host: str) -> bool:
    address = literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)


# ---- pings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    """A call of a schedule's address, made for one of its runs."""

    schedule: str
    url: str


class Pings:
    """What the services that schedules name are told of runs: started, succeeded or failed.

    Never more than A_MINUTE in any 60 s for one schedule. A start is told only if there is room for
    its end as well, because a service waits for the end of what has started. Of other ends that
    find no room the newest is told as soon as there is some.
    """

    def __init__(self, put: Callable[[Ping], None]) -> None:
        self._put = put
        self._schedules: dict[str, _Told] = {}

    def started(self, schedule: str, url: str, job_id: str, moment: float) -> None:
        """A run was enqueued; `moment` is monotonic."""
        told = self._told(schedule, moment)
        if told.room >= 2:
            told.open[job_id] = moment
            self._send(told, Ping(schedule, _address(url, "/start", job_id)), moment)

    def ended(self, schedule: str, url: str, job_id: str, moment: float, *, ok: bool) -> None:
        """A run ended for good."""
        told = self._told(schedule, moment)
        ping = Ping(schedule, _address(url, "" if ok else "/fail", job_id))
        awaited = told.open.pop(job_id, None) is not None
        if awaited or told.room >= 1:
            told.held = None
            self._send(told, ping, moment)
        else:
            told.held = ping

    def flush(self, moment: float) -> None:
        """Tell what found no room before, and forget what is long past."""
        for schedule in list(self._schedules):
            told = self._told(schedule, moment)
            if told.held and told.room >= 1:
                ping, told.held = told.held, None
                self._send(told, ping, moment)
            if not told.sent and not told.open:
                del self._schedules[schedule]

    def _told(self, schedule: str, moment: float) -> _Told:
        told = self._schedules.setdefault(schedule, _Told(deque(), {}))
        while told.sent and told.sent[0] <= moment - PING_EVERY:
            told.sent.popleft()
        told.open = {j: m for j, m in told.open.items() if m > moment - FORGET_SECONDS}
        return told

    def _send(self, told: _Told, ping: Ping, moment: float) -> None:
        told.sent.append(moment)
        self._put(ping)


@dataclass(slots=True)
class _Told:
    """What one schedule's service was told: when, which runs' ends it waits for, what waits."""

    sent: deque[float]
    open: dict[str, float]
    held: Ping | None = None

    @property
    def room(self) -> int:
        return A_MINUTE - len(self.sent) - len(self.open)


def _address(url: str, suffix: str, job_id: str) -> str:
    """The address for one run: the same id for its start and its end."""
    parts = urlsplit(url)
    run = f"rid={uuid5(NAMESPACE_URL, job_id)}"
    query = f"{parts.query}&{run}" if parts.query else run
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix, query=query))


def _get(allowed: tuple[Allowed, ...], url: str) -> None:
    headers = {"User-Agent": f"rq-clock/{__version__}"}
    _call(hook.Request(url, "GET", headers, None, 0), PING_SECONDS, allowed)


def _call(request: hook.Request, seconds: float, allowed: tuple[Allowed, ...]) -> None:
    try:
        answer = hook.call(request, seconds, allowed)
    except WebhookFailed as error:
        raise NotSent(str(error).replace(masked_url(request.url), _host(request.url))) from None
    if not 200 <= answer.status < 300:
        raise NotSent(f"expected an answer of 2xx, got {answer.words}")


def _host(url: str) -> str:
    """What the log says of an address: what is behind the host may be its secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
