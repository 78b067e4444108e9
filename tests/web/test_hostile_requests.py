"""Requests that nobody sends by mistake: odd parameters, bodies and headers, and what only a bare
socket can send."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from redis import Redis
from rq import Queue
from starlette.testclient import TestClient

from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from tests.helpers import PATIENCE, Pace
from tests.server import Server
from tests.web.client import API, VALUES, app_on
from tests.web.test_server import TOKEN, WebProcess
from tests.worker import jobs as worker_jobs

HERE = {"Sec-Fetch-Site": "same-origin"}
LONG = "9" * 5000
"""Digits that Python refuses to read as a number."""
DEEP = "[" * 9000
WAYS = ("https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example",
        "/\t/evil.example", "/\r\nX-Evil: 1", "javascript:alert(1)", "", "/" * 3 + "evil.example",
        "/@evil.example/..//evil.example", "http:evil.example")  # fmt: skip


@pytest.fixture
def web(redis_url: str) -> Iterator[TestClient]:
    """An admin's client, of an app on a Redis with a schedule and a failed job."""
    with Redis.from_url(redis_url) as redis:
        made = Schedules(redis, settings=Settings.from_env({"REDIS_URL": redis_url}))
        made.add("plain", every(hours=1), "tasks.run")
        queue: Any = Queue(connection=redis)
        queue.enqueue(worker_jobs.fail, job_id="job")
        redis.hset("rq:job:job", "status", "failed")
        redis.zadd("rq:failed:default", {"job": 1})
    headers = {"Authorization": f"Bearer {VALUES['admin']}"}
    with TestClient(app_on(redis_url), follow_redirects=False, headers=headers) as client:
        yield client


def cursor(*parts: Any) -> str:
    return urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


CURSORS = [
    urlsafe_b64encode(DEEP.encode()).decode(), "é", "٣-٣", f"{LONG}-1", "-1", "1-1-1",
    "99999999999999999999-0", cursor("failed", True, ""), cursor("failed", "1_0", ""),
    cursor("failed", "1", "\ud83d"), cursor("failed", "1", 5), cursor("failed", "nan", ""),
    cursor("queued", "1.5", "default"), cursor("queued", "inf", "default"), cursor("٣-٣"),
    cursor("queued", "9" * 30, ""), cursor("trouble", 10**30, 1, "x"), cursor("next", 1e999, ""),
]  # fmt: skip
LISTS = ("/", "/?sort=next", "/jobs", "/jobs?kind=queued", "/queues/default", "/runs", "/audit",
         "/timeline", f"{API}/schedules", f"{API}/jobs", f"{API}/jobs?kind=queued", f"{API}/runs",
         f"{API}/audit", f"{API}/schedules/plain/runs")  # fmt: skip
NOWHERE = (
    "/%2e%2e/", "/schedules/%00", "/schedules/%252e%252e", "/" + "a/" * 20_000,
    "/schedules/" + "x" * 50_000, "/schedules/%ed%a0%80", "/runs/%0d%0aX-Evil:%201",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "//evil.example/%2e%2e", "/\\evil.example/",
    "/api/v1/jobs/%2e%2e", "/api/v1//schedules",
)  # fmt: skip


class TestParameters:
    def test_a_cursor_that_somebody_made_is_no_fault_of_ours(self, web: TestClient) -> None:
        for path in LISTS:
            for made in CURSORS:
                answer = web.get(f"{path}{'&' if '?' in path else '?'}cursor={quote(made)}")
                assert answer.status_code < 500, (path, made)

    @pytest.mark.parametrize("value", [LONG, "1e400", "nan", "٣", "²", "-1", "\x00", "0001-01-01"])
    def test_no_number_or_instant_is_a_fault_of_ours(self, web: TestClient, value: str) -> None:
        named = {
            "/": ("at", "size"), "/runs": ("at", "since", "until"), "/timeline": ("shift", "tz"),
            "/audit": ("at",), f"{API}/schedules": ("limit",), f"{API}/runs": ("since", "until"),
            f"{API}/schedules/plain/next": ("n", "from", "until"),
            f"{API}/runs/default-plain-1/output": ("offset",),
        }  # fmt: skip
        for path, names in named.items():
            for name in names:
                answer = web.get(path, params={name: value})
                assert answer.status_code < 500, (path, name)
        fields = {
            "/schedules/plain/skip": ("count",), "/schedules/plain/pause": ("date",),
            "/schedules/plain/backfill": ("from", "at_once"), "/bulk-jobs/delete": ("before",),
            "/new": ("retries", "timeout", "jitter", "catch_up_limit", "every", "at", "args"),
        }  # fmt: skip
        for path, names in fields.items():
            for name in names:
                form = {"until": "date", "when": "every", "name": "x", name: value}
                answer = web.post(path, data=form, headers=HERE)
                assert answer.status_code < 500, (path, name)

    def test_no_parameter_leads_to_another_site_or_into_a_header(self, web: TestClient) -> None:
        for way in WAYS:
            answers = [
                web.post("/login", data={"token": VALUES["admin"], "next": way}, headers=HERE),
                web.post("/theme", data={"theme": "dark", "next": way}, headers=HERE),
                web.post("/bulk/resume", data={"names": "plain", "back": way}, headers=HERE),
                web.post("/jobs/job/requeue", data={"back": way}, headers=HERE),
                web.post("/schedules/plain/pause", data={"reason": way}, headers=HERE),
                web.get("/login", params={"next": way}),
                web.get("/jobs/job/delete", params={"back": way}),
                web.get(f"{API}/runs", params={"cursor": cursor("1-1"), "reason": way}),
                web.get("http://testserver/" + quote(way, safe="/")),
            ]
            for answer in answers:
                assert "x-evil" not in answer.headers
                to = answer.headers.get("location", "/")
                assert urlsplit(to).netloc in ("", "testserver"), way
                assert not re.match(r"[/\\\s]{2}|\w+:(?!//testserver)", to), way
                for link in re.findall(r'href="([^"]*)"', answer.text):
                    assert link.startswith(("/", "#", "?", "data:")), way
                    assert not re.match(r"[/\\\s]{2}", link), way

    def test_a_path_that_leads_nowhere_is_not_found(self, web: TestClient) -> None:
        for path in NOWHERE:
            answer = web.get(f"http://testserver{path}")
            assert answer.status_code in (404, 422), path[:100]
            assert "x-evil" not in answer.headers

    def test_a_job_cannot_pass_for_something_else(self, web: TestClient, connection: Any) -> None:
        """Its buttons lead to it, or nowhere."""
        queue = Queue(connection=connection)
        assert queue.count
        id = "../schedules/plain"
        connection.hset(f"rq:job:{id}", mapping={"status": "failed", "origin": "default"})
        connection.zadd("rq:failed:default", {id: 2})
        page = web.get("/jobs?kind=failed").text
        assert "/jobs/..%2Fschedules%2Fplain/delete" in page
        assert "/../" not in page


class TestBodies:
    JSON = {"Content-Type": "application/json"}  # noqa: RUF012

    @pytest.mark.parametrize(
        "args",
        ["[" * 45 + "]" * 45, "[" * 60 + "]" * 60, "[" * 900 + "]" * 900, "[" * 10_000, "[NaN]",
         "[Infinity]", "[1e400]", f"[{LONG}]", '["\\ud83d"]', '[{"a":1,"a":2}]', "[1", "\xff"],
    )  # fmt: skip
    def test_an_accepted_value_can_be_shown_and_others_are_refused(
        self, web: TestClient, args: str
    ) -> None:
        body = f'{{"name":"d","every":"1h","func":"a.b","args":{args}}}'.encode("latin-1")
        answer = web.post(f"{API}/schedules", content=body, headers=self.JSON)
        assert answer.status_code in (201, 422)
        for path in ("/", "/schedules/d", "/schedules/d/edit", f"{API}/manifest?format=json"):
            assert web.get(path).status_code in (200, 404)
        web.get(f"{API}/schedules").json()

    def test_a_body_of_another_kind_is_refused(self, web: TestClient) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "x", "", "multipart/x"):
            answer = web.post(f"{API}/schedules", content=b"{}", headers={"Content-Type": kind})
            assert answer.status_code == 415, kind
        zipped = {**self.JSON, "Content-Encoding": "gzip"}
        answer = web.post(f"{API}/schedules", content=b"\x1f\x8b\x08\x00", headers=zipped)
        assert answer.status_code == 422

    def test_very_many_fields_are_read_at_once(self, web: TestClient) -> None:
        began = time.process_time()
        fields = "&".join(f"f{n}=x" for n in range(10_000))
        assert web.post("/new", content=fields, headers=HERE).status_code < 500
        names = "&".join(f"name=p{n}" for n in range(60_000))
        assert web.post("/bulk", content=f"verb=pause&{names}", headers=HERE).status_code == 422
        many = quote(" ".join("z" * 4000 + str(n) for n in range(200)))
        answer = web.post("/bulk/run", content=f"names={many}", headers=HERE)
        assert max(len(value) for value in answer.headers.values()) < 8192
        assert time.process_time() - began < 5

    @pytest.mark.parametrize("text", ["got 'x", "'", "0 6 * * * ", "got 'a' in '", "1,", "key="])
    def test_a_long_text_takes_no_long_time(self, web: TestClient, text: str) -> None:
        began = time.process_time()
        long = text * (500_000 // len(text))
        web.post(f"{API}/explain", json={"cron": long})
        web.post(f"{API}/schedules", json={"name": "a", "every": long, "func": long})
        web.put(f"{API}/manifest", content=long, headers={"Content-Type": "application/yaml"})
        assert time.process_time() - began < 4


class TestHeaders:
    def test_no_header_is_a_fault_of_ours(self, web: TestClient) -> None:
        odd: dict[str, list[str | bytes]] = {
            "Idempotency-Key": ["", "x" * 10_000, b"\xe9"], "Content-Length": [LONG, "+1", "1_0"],
            "If-Match": ["x", '"', "x" * 10_000], "If-None-Match": [",,,", "x" * 10_000],
            "Range": ["bytes=9-1", "bytes=" + "0-1," * 5000], "Accept": ["x" * 10_000, "*/*;q=a"],
            "Cookie": ["rq_clock=" + "x" * 8000, "rq_clock_message=" + "x" * 8000, "=;;="],
            "Host": ["[", "evil]", "a b", "a:b:c", '"><x-evil>'],
            "Authorization": ["Bearer " * 999],
            "X-HTTP-Method-Override": ["DELETE"], "Origin": ["http://[", "//[", "x" * 8000],
        }  # fmt: skip
        for name, values in odd.items():
            for value in values:
                headers = {name.encode(): value.encode() if isinstance(value, str) else value}
                for method, path in (
                    ("GET", "/"), ("GET", "/static/app.css"), ("GET", "/metrics"),
                    ("GET", f"{API}/schedules"), ("POST", f"{API}/schedules/plain/pause"),
                    ("PATCH", f"{API}/schedules/plain"), ("POST", "/login"),
                ):  # fmt: skip
                    answer = web.request(method, path, headers=headers)
                    assert answer.status_code < 500, (name, value[:20], path)
                    assert "<x-evil>" not in answer.text
        assert web.get(f"{API}/schedules/plain").status_code == 200

    def test_another_method_does_nothing(self, web: TestClient) -> None:
        for method in ("HEAD", "OPTIONS", "TRACE", "PROPFIND", "X" * 999):
            for path in ("/", f"{API}/schedules/plain", "/login", "/static/app.css", "/healthz"):
                answer = web.request(method, path)
                assert answer.status_code in (200, 405), (method, path)
                assert VALUES["admin"] not in answer.text


# ---- with a bare socket -----------------------------------------------------------------------

HEAD = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
SECOND = f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n"


@pytest.fixture(scope="module")
def process(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with WebProcess(tmp_path_factory.mktemp("web"), server.url) as process:
        yield process


def answers(place: tuple[str, int], data: str) -> list[int]:
    """Return the status of each response until the server hangs up, or sends no more.

    It sends no more when it has served another connection since, and is then quiet.
    """
    received, served = b"", False
    with socket.create_connection(place, timeout=0.3) as client:
        client.sendall(data.encode("latin-1"))
        while True:
            try:
                part = client.recv(65536)
            except ConnectionResetError:
                break
            except TimeoutError:
                if served:
                    break
                with socket.create_connection(place, timeout=PATIENCE) as other:
                    other.sendall(SECOND.encode())
                    served = bool(other.recv(1))
                continue
            if not part:
                break
            received += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", received)]


class TestSockets:
    @pytest.mark.parametrize(
        "head",
        ["Content-Length: 3\r\nContent-Length: 5\r\n", "Transfer-Encoding: xchunked\r\n",
         "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding : chunked\r\n",
         "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "Content-Length: +5\r\n",
         "X: a\x00b\r\n", "Host: y\r\n", f"Content-Length: {LONG}\r\n"],
    )  # fmt: skip
    def test_where_it_is_not_sure_how_a_request_ends_nothing_behind_it_is_answered(
        self, process: WebProcess, head: str
    ) -> None:
        request = f"POST /login HTTP/1.1\r\n{HEAD}{head}\r\n0\r\n\r\n{SECOND}"
        found = answers(process.place, request)
        assert len(found) <= 1
        assert all(400 <= status < 500 for status in found)

    def test_of_two_that_are_whole_each_is_answered(self, process: WebProcess) -> None:
        assert answers(process.place, SECOND + SECOND) == [200, 200]

    @pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT evil:80", "GET http://evil/login"])
    def test_requests_meant_for_a_proxy_are_not_found(self, process: WebProcess, line: str) -> None:
        assert answers(process.place, f"{line} HTTP/1.1\r\n{HEAD}\r\n") == [404]

    def test_only_the_first_token_counts(self, process: WebProcess) -> None:
        request = f"GET {API}/schedules HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n"
        assert answers(process.place, f"{request}{HEAD.partition(chr(10))[2]}\r\n") == [401]
        assert answers(
            process.place, f"GET {API}/schedules?token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n"
        ) == [401]

    def test_half_open_connections_block_no_one(self, redis_url: str, tmp_path: Path) -> None:
        halves = (f"GET / HTTP/1.1\r\n{HEAD}X-", f"POST /new HTTP/1.1\r\n{HEAD}"
                  "Content-Length: 500\r\n\r\nab", "", SECOND[:-2])  # fmt: skip
        with WebProcess(tmp_path, redis_url) as process, ExitStack() as open_ones:
            for n in range(52):
                client = open_ones.enter_context(socket.create_connection(process.place))
                client.sendall(halves[n % 4].encode())
            with Pace() as pace:
                served = [process.get(path) for path in ("/", f"{API}/schedules", "/login")]
                began = time.monotonic()
                process.process.send_signal(signal.SIGTERM)
                assert process.process.wait(PATIENCE) == 0
                took = time.monotonic() - began
            assert [status for status, _, _ in served] == [200] * 3
            assert max(seconds for _, _, seconds in served) < pace.allows(2)
            assert took < pace.allows(2)
