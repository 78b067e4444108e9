"""The pages of runs, queues, the clock, the timeline and the audit, as a browser without a script
meets them: the app on a real Redis, with real workers where something has to run.

Laws: each page renders whatever is in Redis, in at most three round trips. No text becomes markup
or shows a secret. A form acts once, and the audit records it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from rq import Queue
from starlette.testclient import TestClient

from rq_clock.alerts.rules import Alert
from rq_clock.jobs.executions import Executions
from rq_clock.model.targets import command
from rq_clock.runners.output import shown
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.timing.instants import to_ms
from rq_clock.timing.triggers import cron, every
from rq_clock.web import create_app
from rq_clock.web.pages.job_display import traceback_lines
from tests.helpers import round_trips
from tests.web.client import ADMIN, OPERATOR, PAGE_TOKENS, READER
from tests.web.pages.reading import HOUR, HTML, Site, Work, text_of
from tests.worker import jobs as jobs

SECRET = "hunter2hunter2"
PAGES = (
    "/timeline", "/timeline?view=table", "/timeline?shift=-24&tz=Europe/Berlin", "/runs",
    "/runs?state=failed&reason=manual&q=x", "/runs?queue=default", "/runs?schedule=nightly",
    "/runs?since=2026-01-01T00:00&until=2030-01-01T00:00", "/queues", "/jobs", "/jobs?kind=queued",
    "/jobs?schedule=nightly&q=smtp", "/bulk-jobs/requeue", "/bulk-jobs/delete?queue=mail", "/clock",
    "/audit", "/audit?by=ana&verb=trigger&schedule=nightly",
)  # fmt: skip


def link(path: str, job: str) -> str:
    return path.replace("{job}", job)


class TestEveryPage:
    """Laws of all of them."""

    @pytest.mark.parametrize("path", PAGES)
    def test_renders_with_an_empty_redis(self, browser: TestClient, path: str) -> None:
        page = browser.get(path)
        assert page.status_code == 200, page.text[:500]
        assert not re.findall(r"\sstyle=|\son[a-z]+=|javascript:|<style|<script(?! src)", page.text)

    @pytest.mark.parametrize("path", PAGES)
    def test_takes_three_round_trips_at_any_size(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient, path: str
    ) -> None:
        fill(connection, store, schedules)
        browser.get(path)  # loads the scripts, reads the definitions
        with round_trips() as sent:
            page = browser.get(path)
        assert page.status_code == 200
        assert len(sent) <= 3
        assert len(page.text) < 500_000

    def test_a_failed_run_takes_three_and_its_queue_four(
        self, schedules: Schedules, work: Work, browser: TestClient
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail")
        job = schedules.trigger("nightly")
        work()
        limits = {f"/runs/{job}": 3, f"/jobs/{job}/requeue": 3, "/queues/default": 4}
        for path, limit in limits.items():  # one is the status's, of the schedule that fails
            browser.get(path)
            with round_trips() as sent:
                assert browser.get(path).status_code == 200
            assert len(sent) <= limit

    @pytest.mark.parametrize(
        "path",
        [
            "/runs?cursor=x", "/runs?since=x", "/audit?cursor=x", "/timeline?tz=../etc/passwd",
            "/timeline?shift=9999", "/jobs?kind=lost", "/jobs?cursor=x", "/timeline?cursor=x",
        ],
    )  # fmt: skip
    def test_reports_a_wrong_request(self, browser: TestClient, path: str) -> None:
        assert "expected" in text_of(browser.get(path), 422)

    @pytest.mark.parametrize(
        "path",
        [
            "/runs/nothing",
            "/jobs/nothing",
            "/jobs/x/requeue",
            "/bulk-jobs/eat",
            "/bulk-jobs/delete/x",
        ],
    )
    def test_an_unknown_path_is_not_found(self, browser: TestClient, path: str) -> None:
        assert browser.get(path).status_code == 404

    def test_reports_that_redis_is_away(self, fresh_server: Callable[..., Any], site: Site) -> None:
        server = fresh_server()
        settings = Settings.from_env({"REDIS_URL": server.url, "RQ_CLOCK_TOKENS": PAGE_TOKENS})
        client = TestClient(create_app(settings), headers={"Sec-Fetch-Site": "same-origin"})
        client.post("/login", data={"token": ADMIN}, follow_redirects=False)
        server.stop()
        for path in ("/timeline", "/runs", "/runs/x", "/queues", "/jobs", "/clock", "/audit"):
            assert "no Redis at" in text_of(client.get(path), 503)

    def test_stays_where_it_is_mounted(self, schedules: Schedules, site: Site, work: Work) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", queue="mail")
        job = schedules.trigger("nightly")
        work("mail")
        browser = site(under="/clock")
        for path in (*PAGES, f"/runs/{job}", f"/jobs/{job}/delete", "/queues/mail"):
            page = browser.get(f"/clock{path}")
            assert page.status_code == 200, path
            links = re.findall(r'(?:href|action|src)="(/[^"]*)"', page.text)
            assert all(to.startswith("/clock") for to in links), path
        done = browser.post(f"/clock/jobs/{job}/requeue", follow_redirects=False)
        assert done.headers["location"] == f"/clock/runs/{job}"

    def test_no_text_becomes_markup_or_shows_a_secret(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient,
        work: Work,
    ) -> None:  # fmt: skip
        bad = f"{HTML} password={SECRET}"
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", args=[bad], queue=HTML)
        run = schedules.trigger("nightly", reason=HTML)
        other = Queue(HTML, connection=connection).enqueue(jobs.fail, text=bad)
        odd = Queue("default", connection=connection).enqueue(jobs.add, 1, 2, description=bad)
        connection.hset(f"rq:job:{odd.id}", "worker_name", HTML)
        work(HTML)
        connection.set(store.key(f"output:{run}"), f"{HTML}\x1b[31mred\x00")
        worker = {"state": HTML, "queues": HTML, "hostname": HTML, "current_job": HTML}
        connection.hset("rq:worker:odd", mapping=worker)
        connection.sadd("rq:workers", "rq:worker:odd")
        now = datetime.now(UTC)
        alert = Alert(kind="failing", subject=HTML, since=now, last=now, detail=HTML)
        connection.hset(store.key("alerts"), alert.field, alert.to_json())
        connection.hset(store.key("lease"), mapping={"instance": HTML, "owner": HTML, "token": "1"})
        connection.xadd(store.key("audit"), {
            "by": HTML, "verb": HTML, "schedules": HTML, "count": "1", "reason": HTML,
            "detail": '{"x": "<script>alert(1)</script>", "api_key": "hunter2hunter2"}',
        })  # fmt: skip
        paths = [*PAGES, f"/runs/{run}", f"/jobs/{other.id}", f"/jobs/{odd.id}",
                 f"/jobs/{run}/requeue", f"/jobs?q={HTML}", f"/runs?q={HTML}&schedule={HTML}",
                 f"/queues/{HTML.replace('/', '%2F')}"]  # fmt: skip
        for path in paths:
            page = browser.get(path)
            assert page.status_code < 500, path
            assert HTML not in page.text, path
            assert SECRET not in page.text, path
        assert "<script>alert(1)</script>red\\x00" in text_of(browser.get(f"/runs/{run}"))


class TestRuns:
    """Running and ended runs."""

    def test_ended_attempts_are_listed_newest_first_in_pages(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient
    ) -> None:
        fill(connection, store, schedules, runs=120)
        page = browser.get("/runs")
        found = [re.findall(r'href="(/runs/default-s-[^"]+)"', page.text)]
        while match := re.search(r'rel="next" href="([^"]+)"', page.text):
            page = browser.get(unescape(match[1]))
            found.append(re.findall(r'href="(/runs/default-s-[^"]+)"', page.text))
        ids = [one for part in found for one in part]
        assert [len(part) for part in found] == [50, 50, 20]
        assert ids == sorted(set(ids), reverse=True)

    def test_filters_narrow_them(
        self, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        schedules.add("good", every(hours=1), "tests.worker.jobs.add", args=[1, 2], queue="mail")
        schedules.add("bad", every(hours=1), "tests.worker.jobs.fail", args=["quota"])
        for name in ("good", "bad"):
            schedules.trigger(name)
        work("mail", "default")
        for query, names in (
            ("", {"good", "bad"}), ("state=failed", {"bad"}), ("q=QUOTA", {"bad"}),
            ("queue=mail", {"good"}), ("reason=manual", {"good", "bad"}),
            ("reason=schedule", set()), ("since=2100-01-01T00:00", set()),
            ("until=2100-01-01T00:00", {"good", "bad"}), ("until=2000-01-01T00:00", set()),
        ):  # fmt: skip
            page = browser.get(f"/runs?{query}")
            rows = re.findall(r'<th scope="row"><a class="any" href="/schedules/(\w+)"', page.text)
            assert set(rows) == names, query

    def test_a_schedule_lists_skipped_fire_times(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add")
        connection.rpush(
            store.key("ledger:nightly"),
            "- 1772150400000 1772154000000 2 overlap",
            "s 1772157600000 12 timed_out 2 1772157601000 1772157661000 w-1 too slow",
            "x 1772161200000 default-nightly-1772161200000",
        )
        seen = text_of(browser.get("/runs?schedule=nightly"))
        for word in (
            "‖ skipped", "overlap", "2 times", "✕ timed out", "attempt 2", "too slow", "✕ lost",
            "1 min", "27 Feb",
        ):  # fmt: skip
            assert word in seen
        skipped = text_of(browser.get("/runs?schedule=nightly&state=skipped"))
        assert "‖ skipped" in skipped
        assert "✕ timed out" not in skipped

    def test_running_jobs_come_first(
        self, connection: Any, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("long", every(hours=1), "tests.worker.jobs.add")
        job = schedules.trigger("long")
        executions = Executions(connection, "default")
        executions.register("w", datetime.now(UTC))
        assert executions.take("w", ["default"], datetime.now(UTC))
        page = browser.get("/runs")
        assert text_of(page).index("Running now") < text_of(page).index("Ended attempts")
        assert f"/runs/{job}" in page.text


class TestOneRun:
    """Its milestones, its outcome and its output."""

    def test_a_failed_run_shows_its_error(
        self, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", args=["no money"])
        job = schedules.trigger("nightly", reason="late data")
        work()
        page = browser.get(f"/runs/{job}")
        seen = text_of(page)
        ladder = [seen.index(word) for word in ("Fire time", "Enqueued", "Started", "Ended")]
        assert ladder == sorted(ladder)
        assert re.search(r"waited [\d.]+ m?s Started .* took [\d.]+ m?s Ended", seen)
        assert "ValueError: no money" in seen
        assert re.search(r"Innermost in your code: \S+jobs.py, line \d+, in fail", seen)
        assert re.search(r'<b>  File "[^"]*worker/jobs.py"', unescape(page.text))
        assert not re.search(r'<b>  File "[^"]*site-packages', unescape(page.text))
        for verb in ("requeue", "again", "delete"):
            assert f"/jobs/{job}/{verb}" in page.text

    def test_an_expired_job_is_shown_from_the_ledger(
        self, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        schedules.add("short", every(hours=1), "tests.worker.jobs.add", args=[1, 2], result_ttl=0)
        job = schedules.trigger("short")
        work()
        page = browser.get(f"/runs/{job}")
        assert "RQ has forgotten this job" in text_of(page)
        assert "✓ ok" in text_of(page)
        assert f"/jobs/{job}/again" in page.text
        assert f"/jobs/{job}/requeue" not in page.text

    def test_a_result_is_shown(self, connection: Any, browser: TestClient, work: Work) -> None:
        plain = Queue("default", connection=connection).enqueue(jobs.add, 40, 2)
        odd = Queue("default", connection=connection).enqueue(jobs.ask_again, 0)
        work()
        assert "Result 42" in text_of(browser.get(f"/jobs/{plain.id}"))
        assert browser.get(f"/jobs/{odd.id}").status_code == 200

    def test_truncated_output_reports_its_missing_bytes(
        self, connection: Any, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("loud", every(hours=1), command("true"))
        job = schedules.trigger("loud")
        kept = "[1234 bytes came before]\n\x1b[1mbold\x1b[0m\n50%\r100%\n"
        connection.set(f"rq-clock:default:output:{job}", kept)
        page = browser.get(f"/runs/{job}")
        assert 'id="output" data-live' in page.text
        assert "Truncated: the first 1,234 bytes are not kept. bold 100%" in text_of(page)

    def test_a_queued_run_shows_how_long_it_waits(
        self, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add")
        job = schedules.trigger("nightly")
        seen = text_of(browser.get(f"/runs/{job}"))
        assert re.search(r"Started not yet", seen)
        assert "waiting for" in seen
        assert "Cancel…" in seen

    def test_attempts_show_where_the_job_went(
        self, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", retries=2)
        job = schedules.trigger("nightly")
        work()
        seen = text_of(browser.get(f"/runs/{job}"))
        assert seen.count("queued again") == 2
        assert "done" in seen


class TestOperations:
    """A form confirms an action, which happens once and is audited with the token's name."""

    def failed(self, schedules: Schedules, work: Work, **options: Any) -> str:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.fail", **options)
        job = schedules.trigger("nightly")
        work()
        return job

    def test_a_failed_job_is_requeued_once(
        self, connection: Any, schedules: Schedules, site: Site,
        work: Work,
    ) -> None:  # fmt: skip
        job = self.failed(schedules, work)
        browser = site(OPERATOR)
        assert "end of its queue" in text_of(browser.get(f"/jobs/{job}/requeue"))
        page = browser.post(f"/jobs/{job}/requeue", data={"reason": "again"})
        assert f"Put {job} at the end of the queue default." in text_of(page)
        assert connection.lrange("rq:queue:default", 0, -1) == [job.encode()]
        again = browser.post(f"/jobs/{job}/requeue", data={"reason": "kept"})
        assert "expected one that is failed, stopped or canceled, got" in text_of(again, 409)
        assert 'value="kept"' in again.text
        [noted] = schedules.audit(1)
        assert (noted.by, noted.verb, noted.reason) == ("oli", "requeue", "again")
        assert "oli requeue nightly again" in text_of(browser.get("/audit"))

    def test_a_run_can_be_repeated(
        self, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        job = self.failed(schedules, work)
        page = browser.post(f"/jobs/{job}/again", data={"reason": "late data"})
        assert "for the same fire time." in text_of(page)
        refused = browser.post(f"/jobs/{job}/again", data={"force": "1"})
        assert "expected no run in progress" in text_of(refused, 409)
        assert len([a for a in schedules.audit() if a.verb == "again"]) == 1

    def test_deleting_goes_back(
        self, connection: Any, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        job = self.failed(schedules, work)
        form = {"back": "/jobs?queue=default"}
        done = browser.post(f"/jobs/{job}/delete", data=form, follow_redirects=False)
        assert done.headers["location"] == "/jobs?queue=default"
        assert not connection.exists(f"rq:job:{job}")
        assert browser.post(f"/jobs/{job}/delete").status_code == 404
        evil = browser.post(
            f"/jobs/{schedules.trigger('nightly')}/cancel", data={"back": "//evil.example"},
            follow_redirects=False,
        )  # fmt: skip
        assert evil.headers["location"] == "/"

    def test_a_worker_that_does_not_listen_stops_no_job(
        self, connection: Any, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("long", every(hours=1), "tests.worker.jobs.add")
        job = schedules.trigger("long")
        executions = Executions(connection, "default")
        executions.register("w", datetime.now(UTC))
        assert executions.take("w", ["default"], datetime.now(UTC))
        assert "process is killed" in text_of(browser.get(f"/jobs/{job}/stop"))
        assert "its worker w does not listen" in text_of(browser.post(f"/jobs/{job}/stop"), 409)

    def test_a_bulk_action_leaves_later_failures(
        self, connection: Any, schedules: Schedules, browser: TestClient, work: Work
    ) -> None:
        mail = Queue("mail", connection=connection)
        ids = [mail.enqueue(jobs.fail, f"smtp {i}").id for i in range(3)]
        work("mail")
        confirmation = browser.get("/bulk-jobs/requeue?queue=mail&q=smtp")
        assert "Requeue 3 failed jobs" in text_of(confirmation)
        before = re.search(r'name="before" value="([^"]+)"', confirmation.text)
        assert before
        late = mail.enqueue(jobs.fail, "smtp too").id
        work("mail")
        form = {"queue": "mail", "q": "smtp", "before": before[1], "reason": "mail is back"}
        assert "Requeued 3 jobs." in text_of(browser.post("/bulk-jobs/requeue", data=form))
        assert connection.hget(f"rq:job:{late}", "status") == b"failed"
        assert {id.decode() for id in connection.lrange("rq:queue:mail", 0, -1)} == set(ids)
        [noted] = schedules.audit(1)
        assert (noted.verb, noted.reason, noted.detail["jobs"]) == ("requeue", "mail is back", 3)
        assert "expected before as a date and time" in text_of(
            browser.post("/bulk-jobs/delete", data={"queue": "mail"}), 422
        )

    @pytest.mark.parametrize(
        "path", ["/jobs/{job}/requeue", "/jobs/{job}/again", "/bulk-jobs/delete"]
    )
    def test_needs_its_scope_its_site_and_a_writer(
        self, connection: Any, schedules: Schedules, site: Site,
        work: Work, path: str,
    ) -> None:  # fmt: skip
        path = link(path, self.failed(schedules, work))
        reader = site(READER)
        assert reader.get(path).status_code == 403
        assert reader.post(path).status_code == 403
        assert site(read_only=True).post(path).status_code == 403
        elsewhere = site()
        elsewhere.headers["Sec-Fetch-Site"] = "cross-site"
        assert elsewhere.post(path).status_code == 403
        for page in ("/jobs", "/queues/default", path.rpartition("/")[0].replace("/jobs", "/runs")):
            if page != "/bulk-jobs":
                assert "/requeue" not in reader.get(page).text
        assert connection.zcard("rq:failed:default") == 1


class TestQueues:
    """Queues, workers, jobs."""

    def test_a_used_queue_without_worker_is_reported(
        self, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add", queue="reports")
        seen = text_of(browser.get("/queues"))
        assert "No worker serves reports. Schedules use this queue." in seen
        assert "! no worker" in seen
        assert "No workers are running" in seen
        schedules.trigger("nightly")
        assert "1 job waits, the first one for" in text_of(browser.get("/queues"))
        assert "No worker serves this queue" in text_of(browser.get("/queues/reports"))

    def test_failed_jobs_are_filtered_and_paged(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient
    ) -> None:
        fill(connection, store, schedules)
        page = browser.get("/jobs")
        assert "1–50 of 300" in text_of(page)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert following
        assert "51–100 of 300" in text_of(browser.get(unescape(following[1])))
        assert len(re.findall("<tr class=.bad", browser.get("/jobs?q=tasks.n(7)").text)) == 1
        assert "No matching jobs." in text_of(browser.get("/jobs?q=nothing"))


class TestTimeline:
    """Past and planned fire times."""

    def test_past_and_planned_fire_times_are_shown(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient
    ) -> None:
        schedules.add("hourly", every(hours=1), "tests.worker.jobs.add")
        schedules.add("often", every(minutes=1), "tests.worker.jobs.add")
        schedules.add("held", every(hours=6), "tests.worker.jobs.add")
        schedules.pause("held", reason="maintenance")
        now = to_ms(datetime.now(UTC)) // 3_600_000 * 3_600_000
        connection.rpush(
            store.key("ledger:hourly"),
            f"- {now - 7_200_000} {now - 7_200_000} 1 window",
            f"s {now - 3_600_000} 5 failed 1 {now - 3_599_000} {now - 3_598_000} w no",
        )
        page = browser.get("/timeline")
        assert re.search(r'aria-label="1 missed, 1 failed, 2\d planned"', page.text)
        assert 'aria-label="1,4' in page.text  # nearly 1,440 minutes to come
        assert "planned, but paused" in page.text
        assert 'href="#m-bad"' in page.text
        table = text_of(browser.get("/timeline?view=table"))
        assert "hourly missed: window" in table
        assert "hourly failed" in table
        assert re.search(r"often 1,4\d\d times\.", table)

    def test_crowded_instants_suggest_jitter(
        self, schedules: Schedules, browser: TestClient
    ) -> None:
        for i in range(5):
            schedules.add(f"tenant-{i}", cron("0 0,12 * * *"), "tests.worker.jobs.add")
        seen = text_of(browser.get("/timeline?tz=Europe/Berlin"))
        assert re.search(r"5 at \w{3} \d+ \w{3} (01|13):00 CET|5 at .{10,12} (02|14):00 CEST", seen)
        assert "jitter=" in seen
        assert "Most crowded" not in text_of(browser.get("/timeline?shift=-48"))


class TestClockPage:
    """The leader and the trouble."""

    def test_without_a_clock_it_shows_how_to_start_one(self, browser: TestClient) -> None:
        assert "No clock has run here yet." in text_of(browser.get("/clock"))

    def test_the_leader_and_the_alerts_are_shown(
        self, connection: Any, store: Store, schedules: Schedules, browser: TestClient
    ) -> None:
        now = datetime.now(UTC)
        lease = Leases(store).acquire("clock.1", ("app", ""), "starting", now - HOUR)
        lease = Leases(store).acquire("clock.2", ("app", ""), "take-over", now)
        facts = {"enqueued": 7, "release": 120, "lag_p50_ms": 12, "lag_p99_ms": 3400}
        Leases(store).renew(lease, proven=1, tick=to_ms(now), **facts)  # type: ignore[arg-type]
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add")
        connection.zadd(store.key("due"), {"nightly": to_ms(now - HOUR)})
        alert = Alert(
            kind="no-worker", subject="mail", since=now - HOUR, last=now, reported=now,
            detail="3 wait",
        )  # fmt: skip
        connection.hset(store.key("alerts"), alert.field, alert.to_json())
        full = replace(alert, kind="memory", subject="redis", detail="83% of Redis's memory")
        connection.hset(store.key("alerts"), full.field, full.to_json())
        connection.hset(store.key("alerts"), "later-release:x", "not json")
        answer = browser.get("/clock")
        assert "/queues/mail" in answer.text
        assert "/schedules/redis" not in answer.text
        seen = text_of(answer)
        for words in (
            "Instance clock.2", "p50 12 ms · p99 3.4 s", "Fencing token 2", "Release 120",
            "clock.1", "no-worker mail", "3 wait", "memory redis", "83% of", "nightly", "1 h",
        ):  # fmt: skip
            assert words in seen, words
        assert re.search(r"(Valkey|Redis) \d+\.\d+", seen)

    def test_the_doctor_runs_on_request(
        self, schedules: Schedules, browser: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        schedules.add("nightly", every(hours=1), "tests.worker.jobs.add", queue="mail")
        assert "queue-without-worker" not in text_of(browser.get("/clock"))
        assert "no worker serves mail" in text_of(browser.get("/clock?checks=1"))
        monkeypatch.setattr("rq_clock.web.pages.clock.WHOLE", 0)
        with round_trips() as sent:
            seen = text_of(browser.get("/clock?checks=1"))
        assert "rq-clock doctor checks everything" in seen
        assert len(sent) <= 12


class TestAudit:
    """Changes and their actors."""

    def test_entries_are_filtered_and_paged(
        self, schedules: Schedules, browser: TestClient
    ) -> None:
        for i in range(60):
            schedules.add(f"s-{i}", every(hours=1), "tests.worker.jobs.add")
        schedules.pause("s-7", reason="maintenance")
        page = browser.get("/audit")
        assert "ana pause s-7 maintenance" in text_of(page)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert following
        assert text_of(browser.get(unescape(following[1]))).count(" add s-") == 11
        assert text_of(browser.get("/audit?schedule=s-7")).count("ana") >= 2
        assert "pause" in text_of(browser.get("/audit?verb=pause"))
        assert "No matching entries" in text_of(browser.get("/audit?by=nobody"))


class TestTexts:
    """Texts from outside."""

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            (b"", (0, "")),
            (b"[12 bytes came before]\nrest", (12, "rest")),
            (b"a\r\nb\r\n", (0, "a\nb\n")),
            (b"10%\r20%\r\n", (0, "20%\n")),
            (b"\x1b[31mred\x1b[0m \x1b]0;title\x07", (0, "red ")),
            (b"\xff\x00\ttab", (0, "\\xff\\x00\ttab")),
        ],
    )
    def test_output_is_shown_as_a_terminal_would_show_it(
        self, stored: bytes, expected: tuple[int, str]
    ) -> None:
        assert shown(stored) == expected

    def test_own_frames_are_distinguished_from_those_of_libraries(self) -> None:
        trace = (
            "Traceback (most recent call last):\n"
            '  File "/app/.venv/lib/python3.12/site-packages/rq/job.py", line 1, in _execute\n'
            "    result = func()\n"
            '  File "/app/tasks/bill.py", line 7, in close\n'
            "    raise ValueError(1)\n"
            "ValueError: 1\n"
        )
        lines, place = traceback_lines(trace)
        assert [own for _, own in lines] == [False, False, False, True, True, False]
        assert place == "/app/tasks/bill.py, line 7, in close"
        assert traceback_lines("")[0] == []


def fill(
    connection: Any, store: Store, schedules: Schedules, *, count: int = 300, runs: int = 300
) -> None:
    """Add schedules, failed jobs, ended runs and entries of the audit."""
    names = [f"s-{i:04}" for i in range(count)]
    trigger = every(hours=1)
    schedules.add_many((name, trigger, "tests.worker.jobs.add") for name in [*names, "nightly"])
    pipe = connection.pipeline(transaction=False)
    now = to_ms(datetime.now(UTC))
    for i in range(count):
        id, queue = f"job-{i:05}", f"q{i % 20}"
        pipe.hset(f"rq:job:{id}", mapping={
            "status": "failed", "origin": queue, "description": f"tasks.n({i})",
            "ended_at": "2026-01-01T00:00:00.000000Z",
        })  # fmt: skip
        pipe.sadd("rq:queues", f"rq:queue:{queue}")
        pipe.zadd(f"rq:failed:{queue}", {id: 1_800_000_000 + i})
    for i in range(runs):
        fire = now - (runs - i) * 60_000
        name = f"s-{i % count:04}"
        line = f"s {fire} 5 ok 1 {fire + 5} {fire + 9} w"
        pipe.rpush(store.key(f"ledger:{name}"), line)
        pipe.xadd(store.key("runs"), {
            "schedule": "s", "job": f"default-s-{fire}", "entry": line, "again": "",
        }, id=f"{fire}-0")  # fmt: skip
        pipe.xadd(store.key("audit"), {
            "by": "ana", "verb": "add", "schedules": name, "count": "1", "reason": "",
            "detail": "{}",
        })  # fmt: skip
    pipe.execute()
