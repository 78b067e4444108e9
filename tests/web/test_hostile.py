"""Hostile data and secrets on every page and in every response, and requests that must not reach or
change anything."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from redis import Redis
from rq import Queue
from starlette.testclient import TestClient

from rq_clock.errors import WebhookFailed
from rq_clock.jobs.results import value_of
from rq_clock.model.targets import command, webhook
from rq_clock.runners.tasks import call_webhook
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from rq_clock.web import middleware
from rq_clock.worker.worker import Worker
from tests.process import ROOT
from tests.server import Server, free_url
from tests.web import hostile
from tests.web.client import API, VALUES, Caller, app_on
from tests.web.hostile import paths_of, plant, snapshot
from tests.web.test_server import WebProcess
from tests.worker import jobs as worker_jobs

HERE = {"Sec-Fetch-Site": "same-origin"}
ADMIN = {"Authorization": f"Bearer {VALUES['admin']}"}
HOUR = every(hours=1)


def hush(n: int) -> str:
    """A secret."""
    return f"hush{n:02}q7x9vb2k"


class Walked:
    """Everything there is to look at, looked at in a Redis full of odd things."""

    def __init__(self, path: Path) -> None:
        self.bomb = path / "went-off"
        self.answers: dict[str, Any] = {}
        with Server(path, free_url(), appendonly="no") as server, Redis.from_url(server.url) as r:
            plant(r, self.bomb)
            app = app_on(server.url)
            self.before = snapshot(r)
            with TestClient(app, follow_redirects=False, headers=ADMIN) as web:
                for target in paths_of(app):
                    self.answers[target] = web.get(target)
                links = {link for page in self.pages().values() for link in page.links}
                for link in sorted(links - self.answers.keys())[::4]:
                    self.answers[link] = web.get(link)
            self.after = snapshot(r)

    def pages(self) -> dict[str, hostile.Page]:
        """Those answers that are pages."""
        return {
            path: hostile.Page(answer.text, path)
            for path, answer in self.answers.items()
            if answer.headers.get("content-type", "").startswith("text/html")
        }


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware, "LOOK_SECONDS", 60)
        return Walked(tmp_path_factory.mktemp("walked"))


@pytest.mark.process
class TestData:
    def test_every_page_of_every_item_is_served(self, walked: Walked) -> None:
        for part in (
            "/docs",
            "/metrics",
            "/new",
            "/output",
            "/backfills/",
            "/openapi.json",
            "/run",
        ):
            assert any(part in path for path in walked.answers)
        failed = {p: a.status_code for p, a in walked.answers.items() if a.status_code >= 500}
        assert failed == {}

    def test_pages_have_only_what_a_template_writes(self, walked: Walked) -> None:
        assert "x-evil" in walked.answers["/schedules/plain"].text
        faults = {path: page.faults for path, page in walked.pages().items() if page.faults}
        assert faults == {}

    def test_no_text_of_a_page_reads_backwards_and_a_form_keeps_its_values(
        self, walked: Walked
    ) -> None:
        page = walked.answers["/schedules/shell/edit"].text
        assert "\u202egnitset\u202c" in page.partition("<textarea")[2]
        assert r"\u202egnitset\u202c" in walked.answers["/schedules/shell"].text

    @pytest.mark.parametrize(
        "text",
        ["<x-evil>", "<p onclick=x>", "<p style=x>", "<script>x</script>", "<!-- x -->",
         "<a href='javascript:x'>", "<a href='//evil.example'>", "<a href='/a/../b'>",
         "<form action='/a/%2e%2e/b'>", "<p x-evil=1>", "<p>\u202e1 fo</p>"],
    )  # fmt: skip
    def test_the_reader_of_pages_finds_each_fault(self, text: str) -> None:
        assert hostile.Page(text, "/").faults

    def test_json_is_json(self, walked: Walked) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        for answer in walked.answers.values():
            if "json" in answer.headers.get("content-type", "") and answer.content:
                json.loads(answer.content.decode(), parse_constant=refuse)

    def test_metrics_are_lines_of_ours(self, walked: Walked) -> None:
        line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="([^"\\\n]|\\.)*",?)*\})? \S+')
        for text in walked.answers["/metrics"].text.splitlines():
            assert line.fullmatch(text), text

    def test_nothing_gets_into_a_header(self, walked: Walked) -> None:
        for answer in walked.answers.values():
            assert "x-evil" not in answer.headers
            to = urlsplit(answer.headers.get("location", "/"))
            assert to.netloc in ("", "testserver")

    def test_nothing_that_is_pickled_is_loaded(self, walked: Walked, tmp_path: Path) -> None:
        assert not walked.bomb.exists()
        pickle.loads(pickle.dumps(hostile.Bomb(tmp_path / "it-works")))
        assert (tmp_path / "it-works").exists()

    def test_looking_changes_nothing(self, walked: Walked) -> None:
        assert walked.after == walked.before

    def test_a_link_to_a_queue_leads_to_it(self, walked: Walked) -> None:
        answers = [a for p, a in walked.answers.items() if p.startswith("/queues/..%2F")]
        assert {answer.status_code for answer in answers} == {200}

    @pytest.mark.parametrize(
        "packed",
        [
            b"\x80\x04})" + b"\x85" * 180_000 + b"Ns.",  # a key whose hash overflows the stack
            b"\x80\x04\x8f()\x94"  # one whose hash takes 2^60 steps
            + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(60)) + b"\x90.",
            b"\x80\x04" + b"]" * 190_000 + b"a" * 189_999 + b".",
            b"\x80\x04]\x94h\x00a.",
        ],
        ids=["deep-key", "wide-key", "deep", "in-itself"],
    )  # fmt: skip
    def test_no_result_holds_up_or_ends_the_process(self, packed: bytes) -> None:
        code = (
            "import sys; from rq_clock.jobs.results import value_of; "
            "value_of(sys.stdin.buffer.read())"
        )
        subprocess.run(
            [sys.executable, "-c", code], input=b64encode(packed), timeout=10, check=True, cwd=ROOT
        )
        assert len(value_of(b64encode(packed)) or "") < 20_000


# ---- secrets ----------------------------------------------------------------------------------


WRONG: list[dict[str, Any]] = [
    {"command": {"shell": "x", "env": {"API_KEY": [hush(40)]}}},
    {"command": {"shell": "x", "env": [f"API_KEY={hush(41)}"]}},
    {"webhook": {"url": f"https://u:{hush(42)}@example.com/"}},
    {"webhook": {"url": "https://example.com/", "headers": {"Authorization": f"a\n{hush(43)}"}}},
    {"webhook": {"url": f"ftp://example.com/?key={hush(44)}"}},
    {"func": f"https://u:{hush(45)}@example.com/x"},
    {"func": f"curl --password {hush(46)}"},
    {"func": "a.b", "ping": f"https://u:{hush(47)}@example.com/"},
    {"func": "a.b", "kwargs": [{"api_key": hush(48)}]},
    {"func": "a.b", "args": {"api_key": hush(49)}},
    {"func": "a.b", "kwargs": {"api_key": hush(50)}, "cron": "61 * * * *"},
    {"func": "a.b", "apiKey": hush(51)},
    {"webhook": [f"https://u:{hush(52)}@example.com/"]},
    {"command": {"shell": [f"--password {hush(53)}"]}},
]


def hide(redis: Any, url: str) -> None:
    """Put secrets wherever an app puts them, and run what shows them."""
    settings = Settings.from_env({"REDIS_URL": url})
    made = Schedules(redis, by="ops", settings=settings)
    made.add(
        "func", HOUR, "tests.worker.jobs.fail",
        args=[f"Authorization: Bearer {hush(1)}"],
        kwargs={},
    )  # fmt: skip
    made.add(
        "kept", HOUR, "tests.worker.jobs.fail",
        args=[{"secret": hush(2)}, f"postgres://u:{hush(3)}@h/db", f"--password {hush(4)}"],
        kwargs={"api_key": hush(5), "more": {"password": hush(6), "list": [{"token": hush(7)}]}},
    )  # fmt: skip
    env = {"API_KEY": hush(8), "URL": f"postgres://u:{hush(9)}@h/db"}
    shell = (
        f": --token {hush(10)} https://u:{hush(11)}@h/; echo $API_KEY $URL; echo $URL >&2; exit 3"
    )
    made.add("shell", HOUR, command(shell, env=env))
    made.add(
        "call", HOUR, ping=f"https://example.com/ping/{hush(12)}{hush(12)}",
        target=webhook(
            f"http://127.0.0.1:1/{hush(13)}{hush(13)}?token={hush(14)}",
            json={"password": hush(15)},
            headers={"Authorization": f"Bearer {hush(16)}", "X-Api-Key": hush(17)},
        ),
    )  # fmt: skip
    for name in ("func", "shell", "call"):
        made.trigger(name)
    queue: Any = Queue(connection=redis)
    queue.enqueue(worker_jobs.fail, text=f"api_key={hush(18)} and postgres://u:{hush(19)}@h/db")
    queue.enqueue("builtins.dict", api_key=hush(20))
    Worker(["default"], connection=redis, settings=settings).work(
        burst=True, logging_level="CRITICAL"
    )
    newer = {"trigger": {"moon": 1}, "func": "a.b", "kwargs": {"api_key": hush(21)}}
    redis.hset("rq-clock:default:definitions", "newer", json.dumps(newer))
    redis.hset("rq-clock:default:markers", "newer", "- 1774746000000")
    redis.incr("rq-clock:default:revision")


class TestSecrets:
    def test_none_is_shown_or_logged(
        self, fresh_server: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = fresh_server(requirepass=hush(30), appendonly="no")
        url = server.url.replace("://", f"://default:{hush(30)}@")
        env = {
            "RQ_CLOCK_TOKENS": f"admin:admin+commands:{hush(31)}-long",
            "RQ_CLOCK_COOKIE_SECRET": hush(32),
            "RQ_CLOCK_ALERT_SECRET": hush(33), "RQ_CLOCK_PING_URL": f"https://x.example/{hush(34)}",
            "RQ_CLOCK_ALERT_URLS": f"mailto://u:{hush(35)}@h/?from=a@b.c&to=a@b.c",
        }  # fmt: skip
        with Redis.from_url(url) as redis, WebProcess(tmp_path, url, **env) as web:
            hide(redis, url)
            jobs = [key.decode()[7:] for key in redis.keys("rq:job:*")]
            texts = list(self.everything(web, f"{hush(31)}-long", jobs))
            redis.config_set("requirepass", "another")
            redis.client_kill_filter(_type="normal", skipme=False)
            texts += list(self.everything(web, f"{hush(31)}-long", jobs[:1]))
        texts.append(("the log", web.text()))
        assert any("refuses the user or password" in text for _, text in texts)
        assert any("****" in text for _, text in texts)
        assert sum("exit code 3" in text for _, text in texts) > 1
        shown = {(at, found) for at, text in texts for found in re.findall(r"hush\d\d", text)}
        assert shown == set()

    def everything(self, web: WebProcess, token: str, jobs: list[str]) -> Iterator[tuple[str, str]]:
        names = ["func", "kept", "shell", "call", "newer", *jobs]
        paths = [path for path in paths_of(app_on("redis://x")) if "%" not in path and path]
        paths = sorted({re.sub(r"/(plain|missing)\b", f"/{n}", p) for p in paths for n in names})
        paths = [path for path in paths if not re.search(r"/(half|broken|large|wrong)\b", path)]
        bearer = {"Authorization": f"Bearer {token}"}
        with httpx2.Client(base_url="http://{}:{}".format(*web.place), headers=bearer) as client:
            client.timeout = httpx2.Timeout(30)

            def get(path: str) -> tuple[str, str]:
                answer = client.get(path)
                return path, f"{answer.text}\n{answer.headers}"

            with ThreadPoolExecutor(4) as pool:
                yield from pool.map(get, paths)
            for n, wrong in enumerate(WRONG):
                whole = {"name": f"w{n}", **({} if "cron" in wrong else {"every": "1h"}), **wrong}
                answer = client.post(f"{API}/schedules", json=whole)
                assert answer.status_code in (422, 503), whole
                yield str(wrong)[:60], answer.text
            for header in (
                {"Authorization": f"Bearer {hush(60)}"},
                {"Cookie": f"rq_clock={hush(61)}"},
            ):
                answer = client.get(f"{API}/schedules", headers={"Authorization": "", **header})
                yield str(header), f"{answer.text}\n{answer.headers}"


# ---- what may reach or change nothing ---------------------------------------------------------


@pytest.fixture
def web(redis_url: str) -> Iterator[TestClient]:
    with TestClient(app_on(redis_url), follow_redirects=False, headers=ADMIN) as client:
        yield client


class TestTargets:
    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/",
         "http://[::ffff:169.254.169.254]/", "http://localhost:1/", "http://10.0.0.1/",
         "http://0.0.0.0/", "http://2130706433/", "http://[64:ff9b::7f00:1]/", "http://0x7f.1/"],
    )  # fmt: skip
    def test_an_internal_address_is_not_called(self, url: str) -> None:
        """It can be written down, since only where it is called is known what may be called."""
        assert [*webhook(url).faults()] == []
        with pytest.raises(WebhookFailed):
            call_webhook(url)

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x/", "javascript:x", "//x/"])
    def test_only_the_web_is_called(self, web: TestClient, url: str) -> None:
        body = {"name": "a", "every": "1h", "webhook": url}
        assert web.post(f"{API}/schedules", json=body).status_code == 422
        form = {"name": "a", "when": "every", "every": "1h", "what": "url", "url": url}
        assert web.post("/new", data=form, headers=HERE).status_code in (409, 422)
        assert web.get(f"{API}/schedules").json()["total"] == 0

    def test_only_an_admin_defines_targets(self, web: TestClient) -> None:
        bearer = {"Authorization": f"Bearer {VALUES['operate']}"}
        body = {"every": "1h", "command": "id"}
        form = {"name": "a", "when": "every", "every": "1h", "what": "command", "command": "id"}
        answers = [
            web.post(f"{API}/schedules", json={"name": "a", **body}, headers=bearer),
            web.put(f"{API}/schedules/a", json=body, headers=bearer),
            web.patch(f"{API}/schedules/a", json=body, headers=bearer),
            web.put(f"{API}/manifest", json={"version": 1, "schedules": {}}, headers=bearer),
            web.post("/new", data=form, headers={**bearer, **HERE}),
        ]
        assert [answer.status_code for answer in answers] == [403] * len(answers)


class TestRaces:
    """Two at once, or one twice."""

    @pytest.fixture
    def api(self, redis_url: str) -> Caller:
        api = Caller(app_on(redis_url))
        api.call("PUT", "/schedules/a", {"every": "1h", "func": "a.b"})
        return api

    def twice(self, ask: Callable[[int], int]) -> list[int]:
        with ThreadPoolExecutor(2) as pool:
            return sorted(pool.map(ask, range(2)))

    def test_of_two_edits_of_one_revision_one_is_made(self, api: Caller) -> None:
        for n in range(10):
            tag = {"If-Match": api("GET", "/schedules/a").headers["etag"]}

            def edit(i: int, n: int = n, tag: dict[str, str] = tag) -> int:
                body = {"queue": f"q{n}-{i}"}
                return int(api("PATCH", "/schedules/a", body, headers=tag).status_code)

            assert self.twice(edit) == [200, 412]

    def test_a_form_that_is_sent_twice_acts_once(self, web: TestClient, api: Caller) -> None:
        def send(path: str, **form: str) -> list[int]:
            return self.twice(lambda _: web.post(path, data=form, headers=HERE).status_code)

        assert send("/bulk/run", names="a") == [303, 303]  # and reports to one that it still runs
        span = {"from": "2026-03-01T00:00", "to": "2026-03-01T02:00", "sure": "1"}
        send("/schedules/a/backfill", **span)
        made = api.call("GET", "/schedules/a/backfills")["data"]
        assert sum(backfill["total"] for backfill in made) == 3
        new = {"name": "b", "when": "every", "every": "1h", "func": "a.b", "do": "save"}
        assert 303 in send("/new", **new)
        revision = api.call("GET", "/schedules/a")["revision"]
        assert send("/schedules/a/delete", revision=revision)[0] == 303
        verbs = [said["verb"] for said in api.call("GET", "/audit")["data"]]
        assert [verbs.count(verb) for verb in ("trigger", "remove")] == [1, 1]
        assert api.call("GET", "/schedules")["total"] == 1


def test_read_only_changes_nothing(redis_url: str, connection: Any) -> None:
    """No method, path or page changes anything, with any data."""
    plant(connection, Path("went-off"))
    app = app_on(redis_url, read_only=True)
    before = snapshot(connection)
    document = app.openapi()["paths"]
    with TestClient(app, follow_redirects=False, headers=ADMIN) as web:
        for template, methods in document.items():
            path = re.sub(r"\{id\}", f"default-plain-{hostile.DAY_MS}", template)
            path = re.sub(r"\{[^}]+\}", "plain", path)
            for method in set(methods) - {"get"}:
                body = {"cron": "* * * * *"} if "explain" in path else {}
                answer = web.request(
                    method, path, json=body, headers={"Idempotency-Key": "k", "If-Match": "*"}
                )
                assert answer.status_code == (200 if "explain" in path else 403), path
        for verb in ("run", "skip", "pause", "resume", "delete", "backfill", "edit"):
            answer = web.post(f"/schedules/plain/{verb}", data={"count": "1"}, headers=HERE)
            assert answer.status_code == 403
        assert web.post("/login", data={"token": VALUES["admin"]}, headers=HERE).is_redirect
    assert snapshot(connection) == before
