"""What leaves the clock, as real servers on loopback get it: web calls, mail, pings.

The receiving side checks signatures and takes mail apart by itself; nothing of what is judged here
helps to judge it. `hub` and `arrived` are used by the tests of the monitor as well.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from email.policy import default
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from rq_clock.alerts import channels
from rq_clock.alerts.channels import PING_LIMIT, QUEUE, Channel, Channels, Ping, Pings
from rq_clock.alerts.rules import BEGAN, FAILING, LATE, RECOVERED, Alert, Edge, Report, report
from rq_clock.errors import RqClockError
from rq_clock.settings import Settings
from tests.helpers import PATIENCE, Events, wait_until
from tests.recorder import Handler, Recorder, serving
from tests.server import free_url

pytestmark = pytest.mark.integration

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes, or so").decode()


class Hub(Recorder):
    """Responds with the next of `statuses`, then 204; a path that begins with /hang hangs."""

    def __init__(self) -> None:
        super().__init__(HubHandler)
        self.statuses: list[int] = []

    def paths(self) -> list[str]:
        return [urlsplit(seen["path"]).path for seen in self.seen]


class HubHandler(Handler):
    def respond(self) -> None:
        if self.path.startswith("/hang"):
            self.server.over.wait(60)
            return
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as server:
        yield server


class Mailbox(Controller):
    """A mail server that keeps its mail. It refuses every password when it `refuses`."""

    def __init__(self) -> None:
        super().__init__(
            self, "127.0.0.1", int(free_url().rpartition(":")[2].partition("/")[0]),
            authenticator=self.authenticate, auth_require_tls=False,
        )  # fmt: skip
        self.mails: list[tuple[str, list[str], Message]] = []
        self.logins: list[tuple[str, str]] = []
        self.refuses = False
        self.url = f"mailto://127.0.0.1:{self.port}/?from=clock@shop.example&to=ops@shop.example"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content, policy=default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, mail))
        return "250 ok"

    def authenticate(self, *args: Any) -> AuthResult:
        login = args[-1]
        self.logins.append((login.login.decode(), login.password.decode()))
        return AuthResult(success=not self.refuses, handled=False)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    server = Mailbox()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def opened() -> Iterator[Callable[..., Channels]]:
    """Channels by their settings, closed in the end."""
    with ExitStack() as stack:

        def opened(**env: str) -> Channels:
            names = {f"RQ_CLOCK_{name.upper()}": value for name, value in env.items()}
            found = Channels(Settings.from_env(names))
            stack.callback(found.close)
            return found

        yield opened


Open = Callable[..., Channels]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "RETRY_PAUSES", (0.01, 0.01, 0.01))


def failing(subject: str = "nightly", error: str = "ValueError: no") -> Report:
    alert = Alert(kind=FAILING, subject=subject, since=NOON, last=NOON, detail=error)
    return report([Edge(BEGAN, alert, NOON)], "default", NOON)


def arrived(server: Hub, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(server.seen) >= count, f"{count} calls, got {len(server.seen)}")
    return server.seen


def headers(call: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in call["headers"].items()}


class TestWebhook:
    @pytest.mark.parametrize("secret", [SECRET, "any text will do"])
    def test_the_signature_is_that_of_standard_webhooks(
        self, hub: Hub, opened: Open, secret: str
    ) -> None:
        opened(alert_url=f"{hub.url}/in", alert_secret=secret).send(failing())
        [call] = arrived(hub)
        head = headers(call)
        key = base64.b64decode(secret[6:]) if secret == SECRET else secret.encode()
        signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + call["body"]
        digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert head["webhook-signature"] == f"v1,{digest}"
        assert 0 <= int(head["webhook-timestamp"]) - NOON.timestamp() < 20
        assert (call["method"], head["content-type"]) == ("POST", "application/json")

    def test_without_a_secret_nothing_is_signed(self, hub: Hub, opened: Open) -> None:
        opened(alert_url=hub.url).send(failing())
        [call] = arrived(hub)
        assert "webhook-id" in headers(call)
        assert "webhook-signature" not in headers(call)

    def test_the_body_has_the_text_and_the_facts(self, hub: Hub, opened: Open) -> None:
        opened(alert_url=hub.url).send(failing(error="<!channel> & <class 'int'>"))
        [call] = arrived(hub)
        body = json.loads(call["body"])
        assert body["text"].endswith(": <!channel> & <class 'int'>")
        assert body["detail"] == "<!channel> & <class 'int'>"
        assert (body["kind"], body["schedule"], body["namespace"], body["count"]) == (
            "failing", "nightly", "default", 1,
        )  # fmt: skip

    @pytest.mark.usefixtures("impatient")
    def test_a_refused_report_is_sent_again_under_the_same_id(
        self, hub: Hub, opened: Open, events: Events
    ) -> None:
        hub.statuses = [500, 503, 429]
        opened(alert_url=hub.url).send(failing())
        calls = arrived(hub, 4)
        assert len({headers(call)["webhook-id"] for call in calls}) == 1
        assert events("channel.dead") == []

    @pytest.mark.usefixtures("impatient")
    def test_a_dead_channel_is_logged_once_and_once_when_it_is_back(
        self, hub: Hub, opened: Open, events: Events
    ) -> None:
        hub.statuses = [500] * 6
        out = opened(alert_url=f"{hub.url}/services/hunter22")
        for i in range(3):
            out.send(failing(f"dead{i}"))
        arrived(hub, 6)  # four attempts, and then one for each report
        out.send(failing("back"))
        wait_until(lambda: events("channel.back"), "its return")
        out.send(failing("again"))
        arrived(hub, 8)
        [dead], [back] = events("channel.dead"), events("channel.back")
        assert dead == {
            "channel": "webhook", "place": hub.url,
            "error": "expected an answer of 2xx, got 500 Internal Server Error",
        }  # fmt: skip
        assert back == {"channel": "webhook", "place": hub.url}
        subjects = [json.loads(call["body"])["schedule"] for call in hub.seen]
        assert subjects == ["dead0"] * 4 + ["dead1", "dead2", "back", "again"]


class TestApprise:
    """Services by URL, of which json:// and mailto:// need no service."""

    def test_a_service_gets_title_text_and_kind(self, hub: Hub, opened: Open) -> None:
        out = opened(alert_urls=f"{hub.url.replace('http', 'json')}/in")
        out.send(failing(error="<!channel> & <class 'int'>"))
        [call] = arrived(hub)
        body = json.loads(call["body"])
        line = "failing: nightly, failed once since 2026-03-01T12:00:00Z: "
        assert body["title"] == f"[default] {line}<!channel> & <class 'int'>"
        assert body["message"].startswith(f"{line}<!channel> & <class 'int'>\n\nkind: failing\n")
        assert "\nschedule: nightly\n" in body["message"]
        assert body["type"] == "failure"

    def test_a_recovery_is_a_success(self, hub: Hub, opened: Open) -> None:
        alert = Alert(kind=LATE, subject="s", since=NOON, last=NOON)
        out = opened(alert_urls=f"{hub.url.replace('http', 'json')}/in")
        out.send(report([Edge(RECOVERED, alert, NOON)], "default", NOON))
        assert json.loads(arrived(hub)[0]["body"])["type"] == "success"

    def test_several_urls_are_channels_of_their_own(self, hub: Hub, opened: Open) -> None:
        url = hub.url.replace("http", "json")
        opened(alert_urls=f"{url}/hang, {url}/b\n{url}/c?:x=1,2").send(failing())
        arrived(hub, 3)
        assert sorted(hub.paths()) == ["/b", "/c", "/hang"]

    def test_mail_reaches_every_address(self, mailbox: Mailbox, opened: Open) -> None:
        opened(alert_urls=f"{mailbox.url},boss@shop.example").send(failing(error="naïve: no"))
        wait_until(lambda: len(mailbox.mails) == 2, "two mails")
        assert sorted(to for _, [to], _ in mailbox.mails) == [
            "boss@shop.example", "ops@shop.example",
        ]  # fmt: skip
        sender, _, mail = mailbox.mails[0]
        text = "failing: nightly, failed once since 2026-03-01T12:00:00Z: naïve: no"
        assert sender == "clock@shop.example"
        assert mail["Subject"] == f"[default] {text}"
        assert text in mail.get_body(("plain",)).get_content()  # type: ignore[attr-defined]

    def test_a_name_of_a_queue_cannot_add_a_header(self, mailbox: Mailbox, opened: Open) -> None:
        opened(alert_urls=mailbox.url).send(failing("x\r\nBcc: everybody@shop.example"))
        wait_until(lambda: mailbox.mails, "a mail")
        [(_, to, mail)] = mailbox.mails
        assert to == ["ops@shop.example"]
        assert mail["Bcc"] is None

    @pytest.mark.usefixtures("impatient")
    def test_an_error_is_logged_without_any_part_of_the_url(
        self, mailbox: Mailbox, opened: Open, events: Events, caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        mailbox.refuses = True
        url = mailbox.url.replace("//", "//hunter22:p%40ssword22@")
        opened(alert_urls=f"mailtos://127.0.0.1:1/?from=a@b.example {url}").send(failing())
        wait_until(lambda: len(events("channel.dead")) == 2, "two errors")
        refused = next(f for f in events("channel.dead") if f["place"] == "RQ_CLOCK_ALERT_URLS #2")
        assert set(mailbox.logins) == {("hunter22", "p@ssword22")}
        assert refused["channel"] == "mailto"
        assert "535" in refused["error"]
        ours = [record.getMessage() for record in caplog.records if record.name == "rq_clock"]
        output = "".join([*ours, *capfd.readouterr()])
        for secret in ("hunter22", "ssword22", "shop.example"):
            assert secret not in output

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("url", ["nonsense://hunter22/", "slack://hunter22"])
    def test_a_url_that_apprise_refuses_is_an_error(
        self, opened: Open, events: Events, url: str
    ) -> None:
        opened(alert_urls=url).send(failing())
        wait_until(lambda: events("channel.dead"), "the error")
        assert "expected a URL that Apprise knows" in events("channel.dead")[0]["error"]
        assert "hunter22" not in str(events("channel.dead"))

    def test_without_the_package_one_line_names_the_remedy(
        self, opened: Open, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "apprise", None)
        opened(alert_urls="json://a.example json://b.example").send(failing())
        [unavailable] = events("alerts.unavailable")
        assert unavailable["remedy"] == 'pip install "rq-clock[alerts]"'

    def test_only_a_report_imports_it(self) -> None:
        script = """
import sys
from rq_clock.alerts.channels import Channels
from rq_clock.settings import Settings
Channels(Settings.from_env({"RQ_CLOCK_ALERT_URLS": "json://a.example"}))
print("apprise" in sys.modules)
"""
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"


class TestChannel:
    def test_a_hanging_channel_delays_no_other_and_ends_with_the_clock(
        self, hub: Hub, opened: Open
    ) -> None:
        out = opened(
            alert_url=f"{hub.url}/hang",
            alert_urls=f"{hub.url.replace('http', 'json')}/in",
            ping_url=f"{hub.url}/alive",
        )
        for i in range(3):
            out.send(failing(f"s{i}"))
        out.alive(0.0)
        wait_until(lambda: hub.paths().count("/in") == 3, "three reports")
        wait_until(lambda: "/alive" in hub.paths(), "a ping")
        began = time.monotonic()
        out.close()
        assert time.monotonic() - began < 25  # of 30 that the hanging calls would take

    def test_what_waits_is_sent_at_the_end_without_pauses(self, hub: Hub, opened: Open) -> None:
        hub.statuses = [500]
        out = opened(alert_url=hub.url)
        for i in range(5):
            out.send(failing(f"s{i}"))
        arrived(hub)
        out.close()
        arrived(hub, 6)
        assert [json.loads(call["body"])["schedule"] for call in hub.seen] == [
            "s0", "s0", "s1", "s2", "s3", "s4",
        ]  # fmt: skip

    def test_a_full_queue_drops_the_oldest_and_logs_it_once(self, events: Events) -> None:
        gate, sent = threading.Event(), []

        def send(thing: int) -> None:
            assert gate.wait(PATIENCE)
            sent.append(thing)

        channel = Channel[int]("test", send, str)
        channel.put(-1)
        wait_until(lambda: not channel._waiting, "the first one's turn")
        for i in range(QUEUE + 50):
            channel.put(i)
        gate.set()
        wait_until(lambda: len(sent) == QUEUE + 1, "the rest")
        channel.close()
        channel.join(time.monotonic() + PATIENCE)
        assert sent == [-1, *range(50, QUEUE + 50)]
        [full] = events("channel.full")
        assert full["channel"] == "test"

    def test_nothing_that_is_raised_ends_it(self, events: Events) -> None:
        sent = []

        def send(thing: int) -> None:
            if thing == 1:
                raise ZeroDivisionError("token=hunter22")
            sent.append(thing)

        channel = Channel[int]("test", send, lambda _: "there")
        for thing in (1, 2):
            channel.put(thing)
        wait_until(lambda: sent, "the second one")
        channel.close()
        channel.join(time.monotonic() + PATIENCE)
        assert events("channel.dead") == [
            {"channel": "test", "place": "there", "error": "token=****"}
        ]
        assert events("channel.back") == [{"channel": "test", "place": "there"}]

    def test_a_channel_that_is_not_set_up_has_no_thread(self, opened: Open) -> None:
        before = threading.active_count()
        out = opened()
        out.send(failing())
        out.alive(0.0)
        assert threading.active_count() == before


class TestAlive:
    def test_it_is_pinged_once_a_minute(self, hub: Hub, opened: Open) -> None:
        out = opened(ping_url=f"{hub.url}/alive?key=1")
        for second in range(0, 185, 5):
            out.alive(float(second))
        arrived(hub, 4)
        out.close()
        assert [(c["method"], c["path"]) for c in hub.seen] == [("GET", "/alive?key=1")] * 4


class Service:
    """Takes pings down, with the run that each is about."""

    def __init__(self) -> None:
        self.got: list[tuple[float, str, str]] = []
        self.moment = 0.0
        self.pings = Pings(self.take)

    def take(self, ping: Ping) -> None:
        parts = urlsplit(ping.url)
        kind = parts.path.removeprefix("/x").removeprefix("/") or "ok"
        self.got.append((self.moment, kind, parse_qs(parts.query)["rid"][0]))

    def start(self, job: str) -> None:
        self.pings.started("s", "https://hc.example/x", job, self.moment)

    def end(self, job: str, *, ok: bool = True) -> None:
        self.pings.ended("s", "https://hc.example/x", job, self.moment, ok=ok)

    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.got]


class TestPings:
    def test_start_and_end_of_a_run_are_pinged_under_one_id(self) -> None:
        service = Service()
        for job, ok in (("a", True), ("b", False)):
            service.start(job)
            service.end(job, ok=ok)
        assert service.kinds() == ["start", "ok", "start", "fail"]
        ids = [run for _, _, run in service.got]
        assert (ids[0], ids[2]) == (ids[1], ids[3])
        assert ids[0] != ids[2]

    def test_the_query_of_an_address_is_kept(self) -> None:
        got = []
        pings = Pings(lambda ping: got.append(ping.url))
        pings.started("s", "https://hc.example/key/slug/?create=1", "a", 0.0)
        [url] = got
        assert url.startswith("https://hc.example/key/slug/start?create=1&rid=")

    def test_never_more_than_five_a_minute_and_no_start_without_its_end(self) -> None:
        service = Service()
        for second in range(600):
            service.moment = float(second)
            service.start(f"job{second}")
            service.pings.flush(service.moment)
            service.end(f"job{second}", ok=second % 7 != 0)
        moments = [moment for moment, _, _ in service.got]
        for moment in moments:
            assert sum(moment - 60 < other <= moment for other in moments) <= PING_LIMIT
        assert len(moments) > 40
        started = [run for _, kind, run in service.got if kind == "start"]
        ended = [run for _, kind, run in service.got if kind != "start"]
        assert set(started) <= set(ended)
        assert len(set(ended)) == len(ended)

    def test_of_the_ends_without_room_the_newest_is_sent_later(self) -> None:
        service = Service()
        for i in range(10):
            service.end(f"job{i}", ok=i != 9)
        assert service.kinds() == ["ok"] * 5
        service.moment = 59.0
        service.pings.flush(service.moment)
        assert len(service.got) == 5
        service.moment = 60.0
        service.pings.flush(service.moment)
        service.pings.flush(service.moment)
        assert service.kinds()[5:] == ["fail"]

    def test_runs_that_never_end_do_not_silence_a_schedule(self) -> None:
        service = Service()
        for job in "ab":
            service.start(job)
        service.moment = 2 * 3600.0
        for job in "cd":
            service.start(job)
            service.end(job)
        assert service.kinds() == ["start", "start", "start", "ok", "start", "ok"]

    def test_schedules_have_room_of_their_own_and_are_forgotten(self) -> None:
        got: list[Ping] = []
        pings = Pings(got.append)
        for name in ("a", "b"):
            for i in range(6):
                pings.ended(name, "https://hc.example/x", f"{name}{i}", 0.0, ok=True)
        assert len(got) == 10
        for moment in (61.0, 122.0, 183.0):
            pings.flush(moment)
        assert len(got) == 12
        assert pings._schedules == {}

    def test_a_schedules_address_follows_the_rule_of_webhooks(
        self, hub: Hub, opened: Open, events: Events
    ) -> None:
        out = opened()
        out.pings.ended("inside", f"{hub.url}/x", "job", 0.0, ok=True)
        wait_until(lambda: events("channel.dead"), "the refusal")
        [dead] = events("channel.dead")
        assert (dead["channel"], dead["place"]) == ("pings", "inside")
        assert "RQ_CLOCK_WEBHOOK_ALLOW" in dead["error"]
        assert hub.seen == []
        allowed = opened(webhook_allow=f"127.0.0.1:{hub.server_port}")
        allowed.pings.ended("inside", f"{hub.url}/x", "job", 0.0, ok=True)
        arrived(hub)

    def test_a_failing_service_of_one_schedule_is_logged_apart(
        self, hub: Hub, opened: Open, events: Events
    ) -> None:
        out = opened(webhook_allow="127.0.0.1")
        hub.statuses = [404, 204, 404, 204]
        for moment, name in enumerate(["a", "b", "a", "a"]):
            out.pings.ended(name, f"{hub.url}/{name}", "job", float(moment), ok=True)
        wait_until(lambda: events("channel.back"), "its return")
        assert [fields["place"] for fields in events("channel.dead")] == ["a"]
        assert [fields["place"] for fields in events("channel.back")] == ["a"]


class TestLog:
    def test_every_edge_has_a_line_and_many_have_one(self, events: Events) -> None:
        alert = Alert(kind=LATE, subject="s", since=NOON, last=NOON, detail="is undecided")
        began, over = Edge(BEGAN, alert, NOON), Edge(RECOVERED, alert, NOON)
        channels.log([began, over], many=False)
        [late], [recovered] = events("alert.late"), events("alert.recovered")
        assert (late["schedule"], late["state"], late["detail"]) == ("s", BEGAN, "is undecided")
        assert (recovered["kind"], recovered["since"]) == (LATE, "2026-03-01T12:00:00Z")
        channels.log([began] * 20, many=True)
        [digest] = events("alert.digest")
        assert digest["late"] == 20
        assert len(events("alert.late")) == 1

    @pytest.mark.usefixtures("impatient")
    def test_no_address_and_no_key_is_ever_logged(
        self, hub: Hub, opened: Open, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused = hub.url.replace(str(hub.server_port), "1")
        out = opened(
            alert_url=f"{refused}/services/T1/hunter22?key=hunter22",
            alert_secret="hunter22",
            alert_urls="json://hunter22:hunter22@127.0.0.1:1/hunter22?key=hunter22",
            ping_url=f"{refused}/hunter22",
            webhook_allow="127.0.0.1",
        )
        out.send(failing())
        out.alive(0.0)
        out.pings.ended("s", f"{refused}/hunter22", "job", 0.0, ok=True)
        wait_until(lambda: len(events("channel.dead")) == 4, "four deaths")
        assert "hunter22" not in caplog.text
        assert {fields["channel"] for fields in events("channel.dead")} == {
            "webhook", "json", "ping", "pings",
        }  # fmt: skip


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ALERT_URL", "hooks.example/hunter22"),
            ("ALERT_URL", "ftp://hooks.example/hunter22"),
            ("ALERT_URL", "https://me:hunter22@hooks.example/"),
            ("ALERT_URL", "https://[hunter22/"),
            ("PING_URL", "https://hc.example:hunter22/"),
            ("ALERT_SECRET", "whsec_hunter22!"),
            ("ALERT_URLS", "hunter22"),
            ("ALERT_URLS", "mailto:ops@shop.example?hunter22"),
            ("ALERT_URLS", "json://a.example hunter22 json://b.example"),
            ("ALERT_GRACE_SECONDS", "soon"),
            ("ALERT_FAILURES", "0"),
        ],
    )
    def test_what_is_wrong_is_named_and_not_shown(self, name: str, value: str) -> None:
        with pytest.raises(RqClockError, match=f"^RQ_CLOCK_{name}: expected ") as caught:
            Settings.from_env({f"RQ_CLOCK_{name}": value})
        assert "hunter22" not in str(caught.value)
        assert "ter22" not in str(caught.value)

    def test_without_any_there_are_no_channels_and_the_usual_rules(self) -> None:
        settings = Settings.from_env({})
        assert (settings.alert_url, settings.alert_secret, settings.alert_urls) == ("", b"", ())
        assert (settings.alert_grace, settings.alert_failures, settings.alert_stuck) == (
            60, 1, 3600,
        )  # fmt: skip
        assert settings.ping_url == ""

    def test_no_secret_is_in_the_text_of_the_settings(self) -> None:
        settings = Settings.from_env(
            {
                "RQ_CLOCK_ALERT_URL": "https://hooks.example/hunter22",
                "RQ_CLOCK_ALERT_SECRET": "hunter22",
                "RQ_CLOCK_ALERT_URLS": "slack://hunter22/hunter22",
                "RQ_CLOCK_PING_URL": "https://hc.example/hunter22",
            }
        )
        assert "hunter22" not in repr(settings)


def test_a_timestamp_is_of_the_attempt_and_not_of_the_report(hub: Hub) -> None:
    """A report that is sent late has the time of sending: a receiver refuses old timestamps."""
    sent = []
    channel = channels._reporting("test", lambda _, now: sent.append(now), "there")
    channel.put((failing(), time.monotonic() - 300))
    wait_until(lambda: sent, "it")
    channel.close()
    channel.join(time.monotonic() + PATIENCE)
    assert timedelta(seconds=300) <= sent[0] - NOON < timedelta(seconds=400)
