"""Unusual answers to web calls: interim, early, gone, later."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from redis import Redis
from rq import Retry
from rq.job import Job, requeue_job

from rq_clock.jobs.queues import Queues
from rq_clock.model.targets import webhook
from rq_clock.runners.tasks import call_webhook
from rq_clock.store.audit import Actor
from rq_clock.store.store import Store
from tests.outbound.conftest import Scripted
from tests.recorder import Handler, Recorder, serving
from tests.runners.lab import JOB_ID, enqueue, refused
from tests.runners.lab import work as work_as_rq

pytestmark = pytest.mark.integration


class TestAnswers:
    @pytest.mark.parametrize("code", [100, 102, 103, 199])
    def test_interim_responses_are_skipped(self, scripted: Scripted, code: int) -> None:
        interim = f"HTTP/1.1 {code} Interim\r\nLink: </style.css>\r\nContent-Length: 3\r\n\r\n"
        final = "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmade"
        with scripted(lambda server: server.sendall((3 * interim + final).encode())) as url:
            assert call_webhook(url) == {"status": 201, "body": "made"}

    def test_interim_responses_without_end_are_a_failure(self, scripted: Scripted) -> None:
        def respond(server: socket.socket) -> None:
            with suppress(OSError):
                while True:
                    server.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")

        with scripted(respond) as url:
            assert "more than 100 interim responses" in refused(url)

    def test_another_protocol_that_nobody_asked_for_is_a_failure(self, scripted: Scripted) -> None:
        with scripted(lambda server: server.sendall(b"HTTP/1.1 101 Switching\r\n\r\n")) as url:
            assert "got 101 Switching" in refused(url)

    @pytest.mark.parametrize("reads", [0, 500_000])
    def test_a_refusal_is_read_while_a_large_body_is_sent(
        self, scripted: Scripted, reads: int
    ) -> None:
        """The server closes its connection with unread data, which resets it."""

        def respond(server: socket.socket) -> None:
            left = reads
            while left > 0:
                left -= len(server.recv(left))
            server.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")

        for _ in range(5):
            with scripted(respond) as url:
                assert "got 413 Too Large" in refused(url, json="x" * 20_000_000)

    def test_a_body_that_cannot_be_sent_is_a_failure(self, scripted: Scripted) -> None:
        with scripted(lambda _: None) as url:
            assert "the answer failed: " in refused(url, json="x" * 20_000_000)

    def test_a_success_that_breaks_off_is_a_failure(self, scripted: Scripted) -> None:
        def respond(server: socket.socket) -> None:
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with scripted(respond) as url:
            assert "ConnectionResetError" in refused(url)


class Status(Handler):
    """Answers with the status and the Retry-After in the path."""

    def respond(self) -> None:
        _, code, *pause = self.path.split("/")
        self.send_response(int(code))
        if pause:
            self.send_header("Retry-After", pause[0].replace("%20", " "))
        self.end_headers()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    with serving(Recorder(Status)) as server:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", f"127.0.0.1:{server.server_port}")
        yield server


ANA = Actor(by="ana")
Work = Callable[[], object]


@pytest.fixture(params=["rq-clock", "rq"])
def either(request: pytest.FixtureRequest, connection: Redis, work: Callable[..., bool]) -> Work:
    """Run what is enqueued, in our worker or in RQ's."""
    return work if request.param == "rq-clock" else lambda: work_as_rq(connection)


def pause_of(job: Job, connection: Redis) -> float:
    """Return the seconds from now to the job's retry."""
    assert job.get_status(refresh=True) == "scheduled"
    client: Any = connection
    [(_, score)] = client.zrange("rq:scheduled:default", 0, -1, withscores=True)
    return float(score) - datetime.now(UTC).timestamp()


def once_due(job: Job, connection: Redis) -> None:
    """Move a scheduled job into its queue."""
    connection.zrem("rq:scheduled:default", job.id)
    connection.hset(job.key, "status", "queued")
    connection.rpush("rq:queue:default", job.id)


def keys(web: Recorder) -> list[str]:
    return [seen["headers"]["Idempotency-Key"] for seen in web.seen]


class TestRetries:
    def test_a_receiver_that_is_gone_is_not_called_again(
        self, web: Recorder, connection: Any, either: Work
    ) -> None:
        job = enqueue(connection, webhook(f"{web.url}/410"), retry=Retry(max=3))
        either()
        assert job.get_status(refresh=True) == "failed"
        assert len(web.seen) == 1
        text = job.latest_result().exc_string
        assert "got 410 Gone; not retried, because the receiver wants no more calls" in text

    @pytest.mark.parametrize("code", [429, 503])
    def test_a_retry_waits_for_as_long_as_the_receiver_asks(
        self, web: Recorder, connection: Any, either: Work, code: int
    ) -> None:
        job = enqueue(
            connection, webhook(f"{web.url}/{code}/120"), retry=Retry(max=3, interval=[5, 300, 7])
        )
        either()
        assert 60 < pause_of(job, connection) <= 120
        once_due(job, connection)
        either()
        assert 240 < pause_of(job, connection) <= 300  # its own is longer
        once_due(job, connection)
        either()
        assert 60 < pause_of(job, connection) <= 120
        once_due(job, connection)
        either()
        assert job.get_status(refresh=True) == "failed"

    def test_a_pause_may_be_a_date_and_is_an_hour_at_most(
        self, web: Recorder, connection: Any, work: Work
    ) -> None:
        at = datetime.now(UTC) + timedelta(minutes=5)
        dates = [format_datetime(at, usegmt=True), at.strftime("%a %b %d %H:%M:%S %Y")]
        for text, limit in ((dates[0], 301), (dates[1], 301), ("86400", 3600), ("9" * 50, 3600)):
            url = f"{web.url}/429/{text.replace(' ', '%20')}"
            job = enqueue(connection, webhook(url), retry=Retry(max=1))
            work()
            assert limit - 60 < pause_of(job, connection) <= limit
            job.delete()

    @pytest.mark.parametrize(
        "path", ["/429", "/429/0", "/429/-5", "/429/soon", "/429/Thu%2099", "/500/120", "/404/120"]
    )
    def test_any_other_answer_changes_no_retry(
        self, web: Recorder, connection: Any, work: Work, path: str
    ) -> None:
        job = enqueue(connection, webhook(web.url + path), retry=Retry(max=1))
        work()
        assert job.get_status(refresh=True) == "failed"
        assert len(web.seen) == 2

    def test_a_pause_gives_no_retry_to_a_job_without_one(
        self, web: Recorder, connection: Any, either: Work
    ) -> None:
        job = enqueue(connection, webhook(f"{web.url}/429/120"))
        either()
        assert job.get_status(refresh=True) == "failed"


class TestIdempotencyKey:
    def test_attempts_of_a_run_share_it(self, web: Recorder, connection: Any, work: Work) -> None:
        enqueue(connection, webhook(f"{web.url}/500"), retry=Retry(max=2))
        work()
        assert keys(web) == ["nightly/2026-03-01T03:00:00Z"] * 3

    def test_a_job_that_was_requeued_has_another_one(
        self, web: Recorder, connection: Any, store: Store, work: Work
    ) -> None:
        job = enqueue(connection, webhook(f"{web.url}/500"), retry=Retry(max=1))
        work()
        Queues(store).requeue(job.id, ANA)
        work()
        requeue_job(job.id, connection)  # as `rq requeue` does
        work()
        first = "nightly/2026-03-01T03:00:00Z"
        assert keys(web) == [first, first, f"{first}/r1", f"{first}/r2"]

    def test_a_retry_that_was_canceled_and_requeued_has_another_one(
        self, web: Recorder, connection: Any, store: Store, work: Work
    ) -> None:
        job = enqueue(connection, webhook(f"{web.url}/500"), retry=Retry(max=1, interval=60))
        work()
        Queues(store).cancel(job.id, ANA)
        Queues(store).requeue(job.id, ANA)
        work()
        first = "nightly/2026-03-01T03:00:00Z"
        assert keys(web) == [first, f"{first}/r1"]

    @pytest.mark.parametrize("kind", ["m7", "b7"])
    def test_a_run_by_hand_or_of_a_backfill_has_its_own(
        self, web: Recorder, connection: Any, work: Work, kind: str
    ) -> None:
        enqueue(connection, webhook(f"{web.url}/200"))
        enqueue(connection, webhook(f"{web.url}/200"), f"{JOB_ID}-{kind}")
        work()
        first = "nightly/2026-03-01T03:00:00Z"
        assert keys(web) == [first, f"{first}/{kind}"]
