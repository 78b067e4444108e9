"""Calls from an event loop: hostile servers, and names whose addresses may not be called."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rq_clock.errors import WebhookFailed
from rq_clock.outbound import async_client
from rq_clock.outbound.addresses import parse_allowed
from rq_clock.outbound.async_client import AsyncClient
from rq_clock.outbound.client import Answer, Refused, Request, TooSlow, retry_after
from tests.helpers import Pace, wait_until
from tests.outbound.conftest import Resolve, Scripted
from tests.outbound.test_client import Responder
from tests.recorder import Recorder, certified, serving

pytestmark = pytest.mark.integration
LOOPBACK = "127.0.0.0/8 ::1"
AWAY = [  # that no call may reach, each as its URL's host
    "127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "0", "0.0.0.0", "[::1]",
    "[::ffff:127.0.0.1]", "[::]", "10.1.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "192.88.99.1", "168.63.129.16", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fec0::1]",
    "[fe80::1%25lo]", "[fe80::1]", "[fd00::1]",
]  # fmt: skip


def request(url: str, body: bytes | None = b"{}", method: str = "POST") -> Request:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer hunter22"}
    return Request(url, method, headers, body, 2048)


def call(url: str, timeout: float = 20, allow: str = LOOPBACK, **options: Any) -> Answer:
    async def run() -> Answer:
        async with AsyncClient(parse_allowed(allow)) as client:
            return await client.call(request(url, **options), timeout)

    return asyncio.run(run())


def failure(url: str, timeout: float = 20, allow: str = LOOPBACK, **options: Any) -> WebhookFailed:
    with pytest.raises(WebhookFailed) as caught:
        call(url, timeout, allow, **options)
    assert "hunter22" not in str(caught.value)
    return caught.value


class Lookups:
    """Lookups of *.example, which hang until they are `over` and fail; other names are found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over, self.begun = threading.Event(), list[str]()
        self._find = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    async def begin(self, count: int) -> None:
        """Wait until `count` lookups have begun."""
        await asyncio.to_thread(wait_until, lambda: len(self.begun) >= count, "the lookups")

    def _look_up(self, host: str, *args: Any, **options: Any) -> Any:
        if not host.endswith(".example"):
            return self._find("127.0.0.1", *args, **options)
        self.begun.append(host)
        self.over.wait(60)
        raise socket.gaierror("no answer")


@pytest.fixture
def web() -> Iterator[Recorder]:
    with serving(Recorder(Responder)) as server:
        yield server


class TestCalls:
    def test_a_call_sends_what_it_is_given_and_no_more(self, web: Recorder) -> None:
        answer = call(f"{web.url}/status/201/made?a=b%20c&d=%7E", body=b'{"x": 1}')
        assert (answer.status, answer.reason, answer.body) == (201, "Created", b"made")
        [seen] = web.seen
        assert (seen["method"], seen["path"]) == ("POST", "/status/201/made?a=b%20c&d=%7E")
        assert seen["body"] == b'{"x": 1}'
        assert seen["headers"] == {
            "Host": f"127.0.0.1:{web.server_port}",
            "Accept-Encoding": "identity",
            "Authorization": "Bearer hunter22",
            "Connection": "close",
            "Content-Length": "8",
            "Content-Type": "application/json",
        }

    def test_every_method_is_sent_without_a_body(self, web: Recorder) -> None:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            assert call(f"{web.url}/status/204", body=None, method=method).status == 204
        assert [seen["method"] for seen in web.seen] == ["GET", "POST", "PUT", "DELETE", "HEAD"]
        assert all(seen["body"] == b"" for seen in web.seen)

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_a_redirect_is_an_answer_and_not_followed(self, web: Recorder, code: int) -> None:
        answer = call(f"{web.url}/status/{code}")
        assert answer.status == code
        assert answer.headers.get("location", "").startswith("http://169.254.169.254/")
        assert len(web.seen) == 1

    def test_hundreds_of_calls_run_side_by_side(self, web: Recorder) -> None:
        """Each of them waits for all others to arrive."""
        everyone = threading.Barrier(200)

        class Together(Responder):
            def _together(self) -> None:
                everyone.wait(60)
                self._status("200")

        async def run() -> list[Answer]:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                one = request(f"{server.url}/together")
                return await asyncio.gather(*(client.call(one, 60) for _ in range(200)))

        server = Recorder(Together)
        server.request_queue_size = 500
        server.socket.listen(500)
        with serving(server):
            assert {answer.status for answer in asyncio.run(run())} == {200}

    def test_a_proxy_of_the_environment_is_not_used(
        self, web: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert call(f"{web.url}/status/200").status == 200

    def test_retry_after_is_read_from_an_answer(self, scripted: Scripted) -> None:
        text = b"HTTP/1.1 503 Busy\r\nRETRY-AFTER: 120\r\nContent-Length: 0\r\n\r\n"
        with scripted(lambda server: server.sendall(text)) as url:
            assert retry_after(call(url)) == 120

    @pytest.mark.parametrize(
        ("status", "asks", "seconds"),
        [
            (503, "120", 120), (429, "120", 120), (500, "120", 0), (302, "120", 0), (503, "", 0),
            (503, "99999999999999", 3600), (503, "soon", 0), (503, "-5", 0), (503, "\u0665", 0),
            (503, "Mon, 02 Mar 2026 03:00:30 GMT", 30), (503, "Mon, 02 Mar 2026 02:00:00 GMT", 0),
            (503, "Tue, 02 Mar 2027 03:00:00 GMT", 3600),
        ],
    )  # fmt: skip
    def test_a_refusal_asks_to_wait_an_hour_at_most(
        self, status: int, asks: str, seconds: int
    ) -> None:
        headers = {"Retry-After": asks, "Date": "Mon, 02 Mar 2026 03:00:00 GMT"}
        assert retry_after(Answer(status, "", b"", headers)) == seconds


class TestHostileServers:
    @pytest.mark.parametrize("path", ["silent", "dribble/head", "dribble/body"])
    def test_the_timeout_is_for_all_of_it(self, web: Recorder, path: str) -> None:
        with Pace() as pace:
            started = time.monotonic()
            error = failure(f"{web.url}/{path}", timeout=0.3)
            took = time.monotonic() - started
        assert isinstance(error, TooSlow)
        assert str(error).endswith("the answer took longer than 0.3 s")
        assert 0.3 <= took < pace.allows(1)

    def test_a_server_that_does_not_answer_delays_no_other_call(self, web: Recorder) -> None:
        async def run() -> list[Any]:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                silent = [client.call(request(f"{web.url}/silent"), 2) for _ in range(20)]
                hanging = [asyncio.create_task(one) for one in silent]
                for _ in range(20):
                    await client.call(request(f"{web.url}/status/200"), 60)
                assert not any(task.done() for task in hanging)
                return await asyncio.gather(*hanging, return_exceptions=True)

        assert all(isinstance(error, TooSlow) for error in asyncio.run(run()))

    def test_only_the_first_bytes_of_a_large_answer_are_read(self, scripted: Scripted) -> None:
        sent = 0

        def respond(server: socket.socket) -> None:
            nonlocal sent
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n")
            with suppress(OSError):
                for _ in range(800):
                    server.sendall(b"x" * 65536)
                    sent += 65536

        with scripted(respond) as url:
            assert call(url).body == b"x" * 2048
        assert sent < 52_428_800

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
    def test_nothing_is_decompressed(self, scripted: Scripted, encoding: str) -> None:
        bomb = gzip.compress(bytes(20_000_000))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode()

        def respond(server: socket.socket) -> None:
            with suppress(OSError):
                server.sendall(head + bomb)

        with scripted(respond) as url:
            assert call(url).body == bomb[:2048]

    @pytest.mark.parametrize(
        "text",
        [b"SSH-2.0-OpenSSH\r\n", b"\0\1\2\3" * 100, b"HTTP/9.9 two hundred\r\n\r\n",
         b"HTTP/1.1 99999 X\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 9_000],
    )  # fmt: skip
    def test_what_is_not_http_is_a_failure(self, scripted: Scripted, text: bytes) -> None:
        def respond(server: socket.socket) -> None:
            with suppress(OSError):
                server.sendall(text)

        with scripted(respond) as url:
            error = failure(url)
        assert not isinstance(error, TooSlow | Refused)
        assert "the answer failed: " in str(error)
        assert str(error).isprintable()

    def test_a_server_that_hangs_up_is_a_failure(self, scripted: Scripted) -> None:
        with scripted(lambda _: None) as url:
            assert re.search("closed the connection|reset by peer", str(failure(url)))
        assert "Connect" in str(failure(url))

    def test_a_success_that_breaks_off_is_a_failure(self, scripted: Scripted) -> None:
        def respond(server: socket.socket) -> None:
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with scripted(respond) as url:
            assert "the answer failed: " in str(failure(url))

    def test_a_refusal_that_breaks_off_is_an_answer(self, scripted: Scripted) -> None:
        head = b"HTTP/1.1 500 Broken\r\nContent-Length: 9\r\n\r\nhalf"
        with scripted(lambda server: server.sendall(head)) as url:
            answer = call(url)
        assert (answer.status, answer.body) == (500, b"half")

    @pytest.mark.parametrize("code", [100, 102, 103, 199])
    def test_interim_responses_are_skipped(self, scripted: Scripted, code: int) -> None:
        interim = f"HTTP/1.1 {code} Interim\r\nLink: </style.css>\r\n\r\n"
        final = "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmade"
        with scripted(lambda server: server.sendall((3 * interim + final).encode())) as url:
            assert call(url).body == b"made"

    def test_interim_responses_without_end_are_a_failure(self, scripted: Scripted) -> None:
        def respond(server: socket.socket) -> None:
            with suppress(OSError):
                while True:
                    server.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")

        with scripted(respond) as url:
            assert "more than 100 interim responses" in str(failure(url))

    def test_another_protocol_that_nobody_asked_for_is_an_answer(self, scripted: Scripted) -> None:
        with scripted(lambda server: server.sendall(b"HTTP/1.1 101 Switching\r\n\r\n")) as url:
            assert call(url).status == 101

    @pytest.mark.parametrize("reads", [0, 300_000])
    def test_a_refusal_is_read_while_a_large_body_is_sent(
        self, scripted: Scripted, reads: int
    ) -> None:
        def respond(server: socket.socket) -> None:
            left = reads
            while left > 0:
                left -= len(server.recv(left))
            server.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")

        for _ in range(5):
            with scripted(respond) as url:
                assert call(url, body=b"x" * 512_000).status == 413


class TestAddresses:
    @pytest.mark.parametrize("host", AWAY)
    def test_no_spelling_of_a_forbidden_address_is_called(self, host: str, web: Recorder) -> None:
        error = failure(f"http://{host}:{web.server_port}/status/200", timeout=5, allow="")
        assert isinstance(error, Refused) or "canonical" in str(error) or "failed" in str(error)
        assert not isinstance(error, TooSlow)
        assert not web.seen

    @pytest.mark.parametrize(
        "address",
        ["10.0.0.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "fd00::1", "64:ff9b::a00:1"],
    )
    def test_a_name_is_refused_for_any_one_address_that_is_not_public(
        self,
        address: str,
        names: Resolve,
    ) -> None:
        names(hook_example=[["93.184.216.34", address]])
        error = failure("http://hook.example/", allow="")
        assert isinstance(error, Refused)
        assert f"hook.example resolves to {address}, " in str(error)

    def test_a_socket_for_a_forbidden_address_is_never_made(
        self,
        web: Recorder,
        names: Resolve,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever a later release of aiohttp does with the addresses that were found."""
        names(hook_example=[["127.0.0.1"]])
        monkeypatch.setattr(async_client, "_Resolver", _Unchecked)
        assert isinstance(failure(f"http://hook.example:{web.server_port}/", allow=""), Refused)
        assert not web.seen

    def test_a_dns_server_that_changes_its_answer_is_found_out(
        self,
        web: Recorder,
        names: Resolve,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(async_client, "KEEP_SECONDS", 0)
        resolver = names(hook_example=[["127.0.0.1"], ["10.0.0.1"]])
        url = f"http://hook.example:{web.server_port}/status/200"

        async def run() -> None:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                assert (await client.call(request(url), 20)).status == 200
                with pytest.raises(Refused, match=r"10\.0\.0\.1, a private address"):
                    await client.call(request(url), 20)

        asyncio.run(run())
        assert resolver.queries == ["hook.example"] * 2
        assert web.seen[0]["headers"]["Host"] == f"hook.example:{web.server_port}"

    def test_calls_to_one_name_share_a_lookup(
        self,
        web: Recorder,
        names: Resolve,
    ) -> None:
        resolver = names(hook_example=[["127.0.0.1"]])
        one = request(f"http://hook.example:{web.server_port}/status/200")

        async def run() -> None:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                await asyncio.gather(*(client.call(one, 60) for _ in range(20)))

        asyncio.run(run())
        assert resolver.queries == ["hook.example"]

    def test_an_address_that_does_not_answer_gives_way_to_the_next(
        self,
        web: Recorder,
        names: Resolve,
    ) -> None:
        names(hook_example=[["127.0.0.2", "127.0.0.1"]])
        assert call(f"http://hook.example:{web.server_port}/status/200").status == 200

    def test_a_name_whose_lookup_hangs_delays_no_other(
        self, web: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over, found = threading.Event(), socket.getaddrinfo

        def slow(host: str, *args: Any, **options: Any) -> Any:
            if host.endswith(".example"):
                over.wait(60)
            return found("127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", slow)

        async def run() -> list[Any]:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                slow = [client.call(request(f"http://h{n}.example/"), 0.5) for n in range(50)]
                hanging = [asyncio.create_task(one) for one in slow]
                url = f"http://other.test:{web.server_port}/status/200"
                assert (await client.call(request(url), 60)).status == 200
                return await asyncio.gather(*hanging, return_exceptions=True)

        errors = asyncio.run(run())
        assert all("looking up the name took longer" in str(error) for error in errors)
        over.set()
        wait_until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("rq-clock-lookup")],
            "the threads have ended",
        )

    def test_more_names_than_are_looked_up_at_a_time_delay_no_other_when_they_hang(
        self, web: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lookups = Lookups(monkeypatch)

        async def run() -> None:
            async with AsyncClient(parse_allowed(LOOPBACK)) as client:
                names = [f"http://h{n}.example/" for n in range(async_client.LOOKUPS + 5)]
                hanging = [asyncio.create_task(client.call(request(n), 120)) for n in names]
                await lookups.begin(async_client.LOOKUPS)
                url = f"http://other.test:{web.server_port}/status/200"
                assert (await client.call(request(url), 40)).status == 200
                assert not [task for task in hanging if task.done()]
                lookups.over.set()
                await asyncio.gather(*hanging, return_exceptions=True)

        asyncio.run(run())
        assert len(lookups.begun) == async_client.LOOKUPS + 5

    def test_names_whose_lookups_hung_get_few_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lookups = Lookups(monkeypatch)

        async def run() -> None:
            resolver = async_client._Resolver(parse_allowed(LOOPBACK))
            for begun_at_once in (30, async_client.FEW):
                lookups.over.clear()
                lookups.begun.clear()
                tasks = [resolver._lookup(f"h{n}.example", 80) for n in range(30)]
                await lookups.begin(begun_at_once)
                await asyncio.to_thread(wait_until, lambda: len(resolver._hung) == 30, "all hang")
                assert await resolver._lookup("other.test", 80)
                assert len(lookups.begun) == begun_at_once
                lookups.over.set()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert len(lookups.begun) == 30

        asyncio.run(asyncio.wait_for(run(), 60))

    def test_a_name_that_does_not_exist_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        text = str(failure("https://no-such-name.example/"))
        assert "looking up the name failed" in text
        assert "Name or service not known" in text

    def test_a_link_local_address_keeps_its_scope(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def scoped(host: str, port: int, **_: object) -> list[Any]:
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", port, 0, 1))]

        connected: list[Any] = []

        async def connect(self: Any, sock: socket.socket, address: Any) -> None:
            connected.append(address)
            raise OSError("not here")

        monkeypatch.setattr(socket, "getaddrinfo", scoped)
        monkeypatch.setattr(asyncio.BaseEventLoop, "sock_connect", connect, raising=False)
        monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
        failure("http://router.example/", allow="fe80::/10")
        assert connected[0][0] == "fe80::1%1"
        assert isinstance(failure("http://router.example/", allow=""), Refused)


class _Unchecked(async_client._Resolver):
    """A resolver that refuses nothing."""

    def __init__(self, _: Any) -> None:
        super().__init__(parse_allowed("0.0.0.0/0 ::/0"))


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path: Path) -> Iterator[Recorder]:
        """A server that is hook.example, at 127.0.0.1."""
        context = certified("hook.example", tmp_path)
        server = Recorder(Responder)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield server

    def test_certificate_and_host_are_those_of_the_name(
        self, secure: Recorder, names: Resolve, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        names(hook_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
        url = f"https://hook.example:{secure.server_port}/status/200/fine"
        assert call(url).body == b"fine"
        assert secure.seen[0]["headers"]["Host"] == f"hook.example:{secure.server_port}"
        text = str(failure(f"https://other.example:{secure.server_port}/status/200"))
        assert "TLS failed: Hostname mismatch" in text

    def test_a_certificate_that_nobody_vouches_for_is_refused(
        self,
        secure: Recorder,
        names: Resolve,
    ) -> None:
        names(hook_example=[["127.0.0.1"]])
        text = str(failure(f"https://hook.example:{secure.server_port}/status/200"))
        assert "TLS failed: self-signed certificate" in text.replace("self signed", "self-signed")

    def test_the_timeout_is_for_the_handshake_too(self, names: Resolve) -> None:
        names(hook_example=[["127.0.0.1"]])
        with socket.create_server(("127.0.0.1", 0)) as silent:
            error = failure(f"https://hook.example:{silent.getsockname()[1]}/", timeout=0.2)
        assert isinstance(error, TooSlow)
        assert "connecting to 127.0.0.1 took longer" in str(error)
