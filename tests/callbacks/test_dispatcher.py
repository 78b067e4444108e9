"""Dispatchers in this process: what they send, how answers count, slices, outages, the end."""

from __future__ import annotations

import hmac
import json
import logging
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.utils import import_attribute

from rq_clock import run
from rq_clock.callbacks import Callbacks, NewTask, Task
from rq_clock.callbacks import dispatcher as dispatchers
from rq_clock.callbacks.dispatcher import dispatch
from rq_clock.callbacks.queue import queued_dispatchers
from rq_clock.errors import RqClockError
from rq_clock.redaction import MASK
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import Dispatch, places
from rq_clock.timing.instants import iso
from rq_clock.version import __version__
from rq_clock.worker.hooks import import_dispatcher
from tests.callbacks.conftest import Receiver
from tests.helpers import Events, wait_until

pytestmark = pytest.mark.integration
Call = Callable[[], None]


def add(callbacks: Callbacks, url: str, **options: Any) -> Task:
    task, created = callbacks.enqueue(NewTask(url=url, **options))
    assert created
    return task


@pytest.mark.parametrize("missing", ["aiohttp", "yarl"])
def test_a_worker_without_the_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("outbound.async_client", "callbacks.calls", "callbacks.dispatcher"):
        monkeypatch.delitem(sys.modules, f"rq_clock.{name}")
    with pytest.raises(RqClockError) as error:
        import_attribute("rq_clock.callbacks.dispatcher.dispatch")  # as RQ does for a job
    needs = f'the calls of callbacks need {missing}: pip install "rq-clock[callbacks]"'
    assert str(error.value) == needs
    import_dispatcher()  # the worker serves its other queues


class TestCalls:
    def test_a_call_has_the_id_the_attempt_the_instant_and_the_payload(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/200/x?y=1", payload={"full": ["ü", None]})
        call()
        [seen] = receiver.seen
        assert (seen["method"], seen["path"]) == ("POST", "/status/200/x?y=1")
        assert json.loads(seen["body"]) == {
            "id": task.id,
            "attempt": 1,
            "executeAt": iso(task.execute_at),
            "payload": {"full": ["ü", None]},
        }
        assert seen["headers"] == {
            "Host": f"127.0.0.1:{receiver.server_port}",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Length": str(len(seen["body"])),
            "Content-Type": "application/json",
            "User-Agent": f"rq-clock/{__version__}",
            "webhook-id": task.id,
            "webhook-timestamp": seen["headers"]["webhook-timestamp"],
        }
        assert callbacks.get(task.id).status == "done"

    @pytest.mark.parametrize(
        ("auth", "header"),
        [
            ("s3cret", "Bearer s3cret"),
            ("Basic dTpw", "Basic dTpw"),
            ("${env:CRM_KEY}", "Bearer of-the-worker"),
            ("Key ${env:CRM_KEY}", "Key of-the-worker"),
        ],
    )
    def test_auth_with_a_space_is_the_whole_header_and_else_a_bearer(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, auth: str, header: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("CRM_KEY", "of-the-worker")
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ENV", "CRM_KEY")
        Callbacks(settings=Settings.from_env()).enqueue(
            NewTask(url=f"{receiver.url}/status/200", auth=auth)
        )
        call()
        assert receiver.seen[0]["headers"]["Authorization"] == header

    def test_a_call_is_signed(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = b"0123456789abcdef"
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_SECRET", f"whsec_{b64encode(key).decode()}")
        task = add(callbacks, f"{receiver.url}/status/200")
        call()
        [seen] = receiver.seen
        headers, body = seen["headers"], seen["body"]
        signed = f"{task.id}.{headers['webhook-timestamp']}.".encode() + body
        digest = b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"

    def test_own_headers_and_methods_are_sent(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        headers = {"user-agent": "me", "Content-Type": "application/x-mine", "X-Other": "1"}
        url = f"{receiver.url}/status/200"
        add(callbacks, url, method="PUT", headers=headers)
        add(callbacks, url, method="GET")
        call()
        put, get = sorted(receiver.seen, key=lambda seen: seen["method"], reverse=True)
        assert headers.items() <= put["headers"].items()
        assert "User-Agent" not in put["headers"]
        assert (get["method"], get["body"]) == ("GET", b"")

    def test_secrets_are_shown_nowhere(
        self, callbacks: Callbacks, receiver: Receiver, call: Call,
        caplog: pytest.LogCaptureFixture, events: Events,
    ) -> None:  # fmt: skip
        caplog.set_level(logging.DEBUG)
        done = add(
            callbacks,
            f"{receiver.url}/echo?key=open5esame",
            auth="hunter22",
            headers={"X-Key": "sw0rdfish"},
        )
        url = f"{receiver.url}/status/500?key=open5esame"
        add(callbacks, url, auth="hunter22", max_retries=0)
        loud = add(callbacks, f"{receiver.url}/shout", auth="hunter22", max_retries=0)
        call()
        [failed] = callbacks.get(loud.id).attempts
        assert failed.status == 401
        assert "hunter22" not in failed.error
        [attempt] = callbacks.get(done.id).attempts
        assert f'"Authorization": "{MASK}"' in attempt.answer or MASK in attempt.answer
        for secret in ("hunter22", "sw0rdfish"):
            assert secret not in attempt.answer
            assert secret not in caplog.text
        assert "open5esame" not in caplog.text

    def test_two_kilobytes_of_an_answer_are_kept(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        task = add(callbacks, f"{receiver.url}/big")
        call()
        assert callbacks.get(task.id).attempts[0].answer == "ü" * 1024


class TestResults:
    @pytest.mark.parametrize("code", [200, 201, 204, 299])
    def test_an_answer_of_2xx_is_success(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, code: int, events: Events
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/{code}")
        call()
        found = callbacks.get(task.id)
        assert (found.status, found.attempts[0].status) == ("done", code)
        [ended] = events("task.ended")
        assert (ended["id"], ended["status"], ended["answer"]) == (task.id, "done", code)

    @pytest.mark.parametrize("code", [301, 302, 307, 400, 401, 404, 500, 503])
    def test_any_other_answer_is_a_failure_and_the_task_is_called_again(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, code: int
    ) -> None:
        callbacks.configure({"retryDelays": [300]})
        task = add(callbacks, f"{receiver.url}/status/{code}")
        call()
        found = callbacks.get(task.id)
        assert (found.status, found.failures, found.attempts[0].result) == ("retrying", 1, "status")
        assert found.next_call
        assert 269 < (found.next_call - found.attempts[0].ended).total_seconds() < 331
        assert len(receiver.seen) == 1

    def test_a_task_that_fails_for_good_is_stale_and_never_called_again(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, events: Events
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/500", max_retries=3)
        call()
        assert [one["attempt"] for one in receiver.calls] == [1, 2, 3, 4]
        assert set(receiver.ids) == {task.id}
        assert callbacks.get(task.id).status == "stale"
        assert [end["status"] for end in events("task.ended")] == ["stale"]
        call()
        assert len(receiver.seen) == 4
        callbacks.retry(task.id)
        call()
        assert len(receiver.seen) > 4

    def test_a_receiver_that_is_gone_is_not_called_again(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/410")
        call()
        assert callbacks.get(task.id).status == "stale"
        assert len(receiver.seen) == 1

    def test_a_receiver_that_asks_to_wait_is_waited_for(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        task = add(callbacks, f"{receiver.url}/busy/120")
        call()
        found = callbacks.get(task.id)
        assert found.next_call
        assert 119 <= (found.next_call - found.attempts[0].ended).total_seconds() < 130

    def test_a_receiver_that_recovers_gets_its_task_in_the_end(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        task = add(callbacks, f"{receiver.url}/fail/2")
        call()
        assert [one["attempt"] for one in receiver.calls] == [1, 2, 3]
        found = callbacks.get(task.id)
        assert (found.status, found.attempt) == ("done", 3)
        assert [one.result for one in found.attempts] == ["status", "status", "ok"]

    def test_a_receiver_that_hangs_fails_after_the_timeout(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        callbacks.configure({"retryDelays": [300]})
        task = add(callbacks, f"{receiver.url}/hang", timeout=0.2)
        call()
        [attempt] = callbacks.get(task.id).attempts
        assert (attempt.result, callbacks.get(task.id).status) == ("timeout", "retrying")
        assert "took longer than 0.2 s" in attempt.error

    def test_a_receiver_that_hangs_delays_no_other(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        slow = [add(callbacks, f"{receiver.url}/hang", timeout=60) for _ in range(20)]
        quick = [add(callbacks, f"{receiver.url}/status/200") for _ in range(100)]
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: callbacks.status().done == len(quick), "the others are done")
        assert callbacks.status().calling == len(slow)
        receiver.over.set()
        thread.join()
        assert callbacks.status().done == 120

    def test_nobody_there_is_a_failure(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        callbacks.configure({"retryDelays": [300]})
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.1")
        allowing = Callbacks(settings=Settings.from_env())
        task, _ = allowing.enqueue(NewTask(url="http://127.0.0.1:9/"))
        call()
        [attempt] = callbacks.get(task.id).attempts
        assert attempt.result == "connection"
        assert "onnect" in attempt.error

    def test_an_address_that_may_not_be_called_any_more_is_refused(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/200", max_retries=0)
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "")
        call()
        [attempt] = callbacks.get(task.id).attempts
        assert attempt.result == "address"
        assert "127.0.0.1 is a loopback address" in attempt.error
        assert not receiver.seen

    def test_an_auth_of_a_lost_key_is_a_failure_that_names_the_remedy(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = add(callbacks, f"{receiver.url}/status/200", auth="hunter22", max_retries=0)
        monkeypatch.setenv("RQ_CLOCK_CALLBACKS_KEY", "another-key-of-thirty-two-characters")
        call()
        [attempt] = callbacks.get(task.id).attempts
        assert (attempt.result, callbacks.get(task.id).status) == ("auth", "stale")
        assert "put the former key behind the new one" in attempt.error
        assert not receiver.seen


class TestSlices:
    def test_a_slice_ends_with_a_successor_at_the_back_of_the_queue(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, connection: Redis,
        store: Store, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(dispatchers, "SLICE_SECONDS", 0.0)
        monkeypatch.setattr(dispatchers, "OVERLAP_SECONDS", 0.0)
        add(callbacks, f"{receiver.url}/status/200")
        connection.rpush("rq:queue:callbacks", "another")
        call()
        assert not receiver.seen
        jobs: Any = connection.lrange("rq:queue:callbacks", 0, -1)
        assert [jobs[0], len(jobs)] == [b"another", 2]
        assert (places(store).alive, queued_dispatchers(connection, "default")) == (0, 1)

    def test_a_successor_takes_the_place_over_and_no_moment_is_without_a_dispatcher(
        self, callbacks: Callbacks, receiver: Receiver, connection: Redis, store: Store,
        monkeypatch: pytest.MonkeyPatch, events: Events,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(dispatchers, "SLICE_SECONDS", 0.0)
        monkeypatch.setattr(dispatchers, "OVERLAP_SECONDS", 60.0)
        callbacks.configure({"mode": "steady", "baseIntervalMs": 20, "selectSize": 1})
        added = [add(callbacks, f"{receiver.url}/status/200") for _ in range(200)]
        first = threading.Thread(target=dispatch, args=("default",))
        first.start()
        wait_until(lambda: queued_dispatchers(connection, "default"), "the successor")
        seen = len(receiver.seen)
        wait_until(lambda: len(receiver.seen) > seen, "calls go on")
        [job] = Queue("callbacks", connection=connection).jobs
        second = threading.Thread(target=dispatch, args=job.args)
        second.start()
        first.join()
        assert places(store).alive == 1
        second.join()
        assert sorted(receiver.ids) == [task.id for task in added]
        assert not events("dispatcher.gone")

    def test_nothing_due_soon_has_no_successor(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, connection: Redis, store: Store
    ) -> None:
        news = store.listen()
        news.get_message(timeout=5)
        add(callbacks, f"{receiver.url}/status/200")
        add(callbacks, f"{receiver.url}/status/200", execute_at=store.now() + timedelta(hours=1))
        wait_until(lambda: news.get_message(timeout=0.1), "the news of the first task")
        call()
        assert len(receiver.seen) == 1
        assert queued_dispatchers(connection, "default") == 0
        message = wait_until(lambda: news.get_message(timeout=0.1), "the clock has to look")
        assert message["data"] == b":callbacks"
        news.close()

    def test_large_payloads_are_claimed_a_few_at_a_time(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        large = "x" * 400_000
        for _ in range(12):
            add(callbacks, f"{receiver.url}/status/200", payload=large)
        one = Dispatch(store, "one")
        assert one.enter()
        claim = one.claim(100)
        assert (len(claim.tasks), claim.next_at) == (3, claim.now)
        one.give_back(claim.tasks)
        one.leave()
        monkeypatch.setattr(dispatchers, "BYTES", 1)
        call()
        assert [one["payload"] for one in receiver.calls] == [large] * 12

    def test_there_are_no_more_dispatchers_than_places(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, store: Store
    ) -> None:
        add(callbacks, f"{receiver.url}/status/200")
        other = Dispatch(store, "other")
        assert other.enter()
        call()
        assert not receiver.seen
        other.leave()
        call()
        assert len(receiver.seen) == 1

    def test_a_worker_of_another_namespace_calls_nothing(
        self, callbacks: Callbacks, receiver: Receiver
    ) -> None:
        add(callbacks, f"{receiver.url}/status/200")
        with pytest.raises(RqClockError, match="expected a worker of the namespace 'other'"):
            dispatch("other")
        assert not receiver.seen

    def test_tasks_are_called_in_order(
        self, callbacks: Callbacks, receiver: Receiver, call: Call
    ) -> None:
        callbacks.configure({"mode": "after_answers", "baseIntervalMs": 5, "selectSize": 1})
        names = ("high", "normal", "low")
        added = [
            add(callbacks, f"{receiver.url}/status/200", priority=names[-1 - n % 3])
            for n in range(30)
        ]
        call()
        assert receiver.ids == [t.id for name in names for t in added if t.priority == name]


class TestEnds:
    def test_when_the_worker_has_to_end_running_calls_are_waited_for(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, connection: Redis
    ) -> None:
        task = add(callbacks, f"{receiver.url}/hang")
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: receiver.seen, "the call")
        later = add(callbacks, f"{receiver.url}/status/200/later", priority="low")
        run.stop()
        wait_until(lambda: callbacks.status().dispatchers == 0, "it claims no more")
        receiver.over.set()
        thread.join()
        assert callbacks.get(task.id).status == "done"
        assert callbacks.get(later.id).status in ("waiting", "done")

    def test_a_call_that_outlasts_the_grace_is_made_again(
        self, callbacks: Callbacks, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RQ_CLOCK_GRACE_SECONDS", "1")
        task = add(callbacks, f"{receiver.url}/hang")
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: receiver.seen, "the call")
        run.stop()
        thread.join()
        found = callbacks.get(task.id)
        assert (found.status, found.attempt, found.failures) == ("waiting", 1, 0)
        assert found.attempts[0].result == "lost"
        monkeypatch.setattr(run, "_stopping", lambda: False)
        receiver.over.set()
        call()
        assert [(one["id"], one["attempt"]) for one in receiver.calls] == [
            (task.id, 1),
            (task.id, 2),
        ]
        assert callbacks.get(task.id).status == "done"


class TestOutages:
    def test_results_are_kept_until_redis_is_back(
        self, fresh_server: Any, receiver: Receiver, env: None, monkeypatch: pytest.MonkeyPatch,
        events: Events,
    ) -> None:  # fmt: skip
        server = fresh_server(appendonly="yes", appendfsync="always")
        monkeypatch.setenv("REDIS_URL", server.url)
        callbacks = Callbacks(settings=Settings.from_env())
        callbacks.configure({"mode": "off", "httpCallbackTimeoutMs": 60_000})
        tasks = [add(callbacks, f"{receiver.url}/hang") for _ in range(10)]
        thread = threading.Thread(target=dispatch, args=("default",))
        thread.start()
        wait_until(lambda: len(receiver.seen) == 10, "the calls")
        server.kill()
        receiver.over.set()
        wait_until(lambda: events("dispatcher.outage"), "the outage")
        server.start()
        thread.join()
        assert {callbacks.get(task.id).status for task in tasks} == {"done"}
        assert len(receiver.seen) == 10

    def test_a_frozen_redis_delays_no_call_that_runs(
        self, fresh_server: Any, receiver: Receiver, env: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = fresh_server(appendonly="no")
        monkeypatch.setenv("REDIS_URL", server.url)
        callbacks = Callbacks(settings=Settings.from_env())
        callbacks.configure({"mode": "off", "httpCallbackTimeoutMs": 60_000})
        task = add(callbacks, f"{receiver.url}/hang")
        thread = threading.Thread(target=dispatch, args=("default",))
        thread.start()
        wait_until(lambda: receiver.seen, "the call")
        server.pause()
        receiver.over.set()
        server.resume()
        thread.join()
        assert callbacks.get(task.id).status == "done"
        assert len(receiver.seen) == 1
