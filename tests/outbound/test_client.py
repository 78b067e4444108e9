"""Web calls as a worker makes them: a real server, real names only where a test gives them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rq.timeouts import JobTimeoutException

from rq_clock.model.targets import webhook
from rq_clock.redaction import MASK
from rq_clock.run import Run, running
from rq_clock.runners.tasks import WebhookTimedOut, call_webhook
from rq_clock.version import __version__
from tests.helpers import Events, Pace, wait_until
from tests.outbound.conftest import Resolve, Scripted
from tests.recorder import Handler, Recorder, certified, serving
from tests.runners.lab import FIRE_TIME, ran, refused

pytestmark = pytest.mark.integration


class Responder(Handler):
    """Responds by path."""

    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        _, kind, *words = self.path.partition("?")[0].split("/")
        getattr(self, f"_{kind}")(*words)

    def _status(self, code: str, text: str = "") -> None:
        body = text.encode()
        self.send_response(int(code))
        self.send_header("Content-Length", str(len(body)))
        if code.startswith("3"):
            self.send_header("Location", "http://169.254.169.254/latest?token=hunter22")
        self.end_headers()
        self.wfile.write(body)

    def _echo(self) -> None:
        self._status("200", json.dumps(self.server.seen[-1], default=bytes.decode))

    def _big(self) -> None:
        self._status("200", "ü" * 100_000)

    def _binary(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a\xff")
        self.close_connection = True

    def _controls(self) -> None:
        self._status("200", "a\x1b[2J\0b\rc")

    def _silent(self) -> None:
        self.server.over.wait(30)

    def _dribble(self, where: str) -> None:
        """A byte now and then, for ever: no single read takes long."""
        if where == "body":
            self.send_response(200)
            self.end_headers()
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.over.wait(0.02):
            self.wfile.write(b"x")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A server on loopback, which the setting allows."""
    with serving(Recorder(Responder)) as server:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", f"127.0.0.1:{server.server_port}")
        yield server


def nobody_calls() -> bool:
    return not [t for t in threading.enumerate() if t.name == "rq-clock-webhook"]


class TestWebhook:
    def test_a_call_names_its_caller_and_its_run(self, web: Recorder, events: Events) -> None:
        with running(Run("nightly", FIRE_TIME, "schedule")):
            result = call_webhook(f"{web.url}/status/201/made?a=b%20c", json={"full": "ü"})
        assert result == {"status": 201, "body": "made"}
        [seen] = web.seen
        assert (seen["method"], seen["path"]) == ("POST", "/status/201/made?a=b%20c")
        assert json.loads(seen["body"]) == {"full": "ü"}
        assert seen["headers"] == {
            "Host": f"127.0.0.1:{web.server_port}",
            "Accept-Encoding": "identity",
            "Content-Length": str(len(seen["body"])),
            "Content-Type": "application/json",
            "User-Agent": f"rq-clock/{__version__}",
            "Idempotency-Key": "nightly/2026-03-01T03:00:00Z",
            "Connection": "close",
        }
        [answered] = events("webhook.answered")
        assert (answered["schedule"], answered["status"]) == ("nightly", 201)

    def test_a_call_without_json_has_no_body(self, web: Recorder) -> None:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            assert call_webhook(f"{web.url}/status/204", method=method)["status"] == 204
        assert [seen["method"] for seen in web.seen] == ["GET", "POST", "PUT", "DELETE", "HEAD"]
        assert all(seen["body"] == b"" for seen in web.seen)
        assert not any("Content-Type" in seen["headers"] for seen in web.seen)
        assert not any("Idempotency-Key" in seen["headers"] for seen in web.seen)

    def test_headers_of_the_target_replace_ours(self, web: Recorder) -> None:
        own = {"user-agent": "me", "content-type": "application/x-mine", "X-Other": "1"}
        call_webhook(f"{web.url}/status/200", headers=own, json=1)
        headers = web.seen[0]["headers"]
        assert {n: headers[n] for n in own} == own
        assert "User-Agent" not in headers

    @pytest.mark.parametrize("code", [400, 404, 429, 500, 503])
    def test_an_answer_other_than_2xx_is_a_failure(self, web: Recorder, code: int) -> None:
        text = refused(f"{web.url}/status/{code}/went-wrong")
        assert f"expected an answer of 2xx, got {code} " in text
        assert text.endswith(": went-wrong")

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed_and_says_where_it_pointed(
        self, web: Recorder, code: int
    ) -> None:
        text = refused(f"{web.url}/status/{code}")
        assert f"answered {code} " in text
        assert "to http://169.254.169.254/latest?…; redirects are not followed" in text
        assert "hunter22" not in text
        assert len(web.seen) == 1

    def test_a_large_answer_is_cut_to_two_kilobytes(self, web: Recorder) -> None:
        body = call_webhook(f"{web.url}/big")["body"]
        assert body == "ü" * 1024

    def test_an_answer_that_is_not_utf_8_is_kept_with_replacements(self, web: Recorder) -> None:
        assert call_webhook(f"{web.url}/binary")["body"] == "a\ufffd"

    @pytest.mark.parametrize("path", ["silent", "dribble/head", "dribble/body"])
    def test_the_timeout_is_for_all_of_it(self, web: Recorder, path: str) -> None:
        with Pace() as pace:
            started = time.monotonic()
            with pytest.raises(WebhookTimedOut, match=r"the answer took longer than 0\.3 s"):
                call_webhook(f"{web.url}/{path}", timeout=0.3)
            took = time.monotonic() - started
        assert 0.3 <= took < pace.allows(1)
        assert issubclass(WebhookTimedOut, JobTimeoutException)
        wait_until(nobody_calls, "the thread has ended")

    def test_the_timeout_is_for_looking_up_the_name_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()

        def stuck(*_: object, **__: object) -> list[Any]:
            over.wait(30)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", stuck)
        with pytest.raises(WebhookTimedOut, match="looking up the name took longer than"):
            call_webhook("https://hook.example/", timeout=0.2)
        over.set()

    def test_a_call_that_timed_out_is_not_sent_late(
        self, web: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer, found = threading.Event(), socket.getaddrinfo

        def slow(*args: Any, **options: Any) -> Any:
            answer.wait(30)
            return found(*args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(WebhookTimedOut):
            call_webhook(f"{web.url}/status/200", timeout=0.1)
        answer.set()
        wait_until(nobody_calls, "the thread has ended")
        assert not web.seen

    def test_what_is_not_http_is_a_failure(self, scripted: Scripted) -> None:
        with scripted(lambda server: server.sendall(b"SSH-2.0-OpenSSH\r\n")) as url:
            assert "BadStatusLine" in refused(url)
        assert "Connection refused" in refused(url)

    def test_the_answer_is_result_and_output(
        self, web: Recorder, connection: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        job = ran(connection, webhook(f"{web.url}/status/200/fine"))
        assert job.return_value(refresh=True) == {"status": 200, "body": "fine"}
        assert capfd.readouterr().out == "200 OK\nfine\n"
        assert web.seen[0]["headers"]["Idempotency-Key"] == "nightly/2026-03-01T03:00:00Z"

    def test_the_answer_of_a_failure_is_output_too(
        self, web: Recorder, connection: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        job = ran(connection, webhook(f"{web.url}/status/500/broken"))
        assert job.get_status() == "failed"
        assert capfd.readouterr().out == "500 Internal Server Error\nbroken\n"

    def test_an_answer_forges_no_line_of_the_log(
        self, web: Recorder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        call_webhook(f"{web.url}/controls")
        assert capfd.readouterr().out == "200 OK\na\\x1b[2J\\x00b\nc\n"

    def test_secrets_are_shown_nowhere(
        self, web: Recorder, connection: Any, caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        headers = {"Authorization": "Bearer hunter22", "X-Api-Key": "sw0rdfish"}
        job = ran(connection, webhook(f"{web.url}/echo?key=open5esame", headers=headers))
        body = job.return_value()["body"]
        assert f'"Authorization": "{MASK}"' in body
        for text in (caplog.text, job.description, body, capfd.readouterr().out):
            assert "hunter22" not in text
            assert "sw0rdfish" not in text
        for text in (caplog.text, job.description):
            assert "open5esame" not in text
        assert web.seen[0]["headers"]["Authorization"] == "Bearer hunter22"

    def test_the_cut_of_an_answer_shows_no_secret(self, web: Recorder) -> None:
        for length in range(2040, 2052):
            text = "x" * length + "hunter22"
            headers = {"X-Key": "hunter22"}
            body = call_webhook(f"{web.url}/status/200/{text}", headers=headers)["body"]
            assert body == ("x" * length + MASK)[:2048]


class TestAddresses:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "0", "0.0.0.0", "[::1]",
         "[::ffff:127.0.0.1]", "[::]"],
    )  # fmt: skip
    def test_no_spelling_of_this_machine_is_called(
        self, host: str, web: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "")
        text = refused(f"http://{host}:{web.server_port}/status/200")
        assert "refused, " in text or "looking up the name failed" in text
        assert not web.seen

    @pytest.mark.parametrize(
        "address",
        ["10.0.0.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "fd00::1", "64:ff9b::a00:1"],
    )
    def test_a_name_is_refused_for_any_one_address_that_is_not_public(
        self, address: str, names: Resolve
    ) -> None:
        names(hook_example=[["93.184.216.34", address]])
        text = refused("http://hook.example/")
        assert f"hook.example resolves to {address}, " in text

    @pytest.fixture
    def local(self, web: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        """The server, under any address of this machine."""
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.0/8")
        return web

    def test_a_name_is_looked_up_once_and_its_address_kept_to(
        self, local: Recorder, names: Resolve
    ) -> None:
        resolver = names(hook_example=[["127.0.0.1"], ["10.0.0.1"]])
        url = f"http://hook.example:{local.server_port}/status/200"
        assert call_webhook(url)["status"] == 200
        assert resolver.queries == ["hook.example"]
        assert local.seen[0]["headers"]["Host"] == f"hook.example:{local.server_port}"
        assert "10.0.0.1, a private address" in refused(url)

    def test_an_address_that_does_not_answer_gives_way_to_the_next(
        self, local: Recorder, names: Resolve
    ) -> None:
        names(hook_example=[["127.0.0.2", "127.0.0.1"]])
        assert call_webhook(f"http://hook.example:{local.server_port}/status/200")["status"] == 200

    def test_an_address_that_is_silent_leaves_time_for_the_next(
        self, local: Recorder, names: Resolve
    ) -> None:
        names(hook_example=[["127.0.0.2", "127.0.0.1"]])
        place = ("127.0.0.2", local.server_port)
        with ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(place)
            full.listen(0)
            for _ in range(3):  # later connections get no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(place)
            url = f"http://hook.example:{local.server_port}/status/200"
            assert call_webhook(url, timeout=1)["status"] == 200

    def test_a_name_that_does_not_exist_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        text = refused("https://no-such-name.example/")
        assert "looking up the name failed" in text
        assert "Name or service not known" in text


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
        """A server that is hook.example, at 127.0.0.1."""
        context = certified("hook.example", tmp_path)
        server = Recorder(Responder)
        context.sni_callback = lambda _socket, name, _context: server.seen.append({"sni": name})
        server.socket = context.wrap_socket(server.socket, server_side=True)
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.1")
        with serving(server):
            yield server

    def test_certificate_and_host_are_those_of_the_name(
        self, secure: Recorder, names: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        names(hook_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
        url = f"https://hook.example:{secure.server_port}/status/200/fine"
        assert call_webhook(url) == {"status": 200, "body": "fine"}
        assert secure.seen[0] == {"sni": "hook.example"}
        assert secure.seen[1]["headers"]["Host"] == f"hook.example:{secure.server_port}"
        text = refused(f"https://other.example:{secure.server_port}/status/200")
        assert "TLS failed: Hostname mismatch" in text

    def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, secure: Recorder, names: Resolve
    ) -> None:
        names(hook_example=[["127.0.0.1"]])
        text = refused(f"https://hook.example:{secure.server_port}/status/200")
        assert "TLS failed: self-signed certificate" in text.replace("self signed", "self-signed")

    def test_the_timeout_is_for_the_handshake_too(
        self, names: Resolve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.1")
        names(hook_example=[["127.0.0.1"]])
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(WebhookTimedOut, match="agreeing on TLS took longer"),
        ):
            call_webhook(f"https://hook.example:{silent.getsockname()[1]}/", timeout=0.2)
