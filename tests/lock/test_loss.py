"""A lock that is lost: in a block, a stopped process, a job; a server that is away or full."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue

from rq_clock.errors import LockLost, StoreUnavailable
from rq_clock.lock import exclusive
from tests.clock.storm import Client
from tests.helpers import PATIENCE, Events, replies_lost, wait_until
from tests.lock.lab import (
    HEAD,
    LOCK,
    RESOURCE,
    TOKEN,
    Script,
    Start,
    lasts,
    lose,
    once,
    take_away,
    wait_for_an_event,
)
from tests.server import Server


def wait_for_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.recv(1)


def wait_for_a_process() -> None:
    subprocess.run([sys.executable, "-S", "-c", "import signal; signal.pause()"], check=True)


def select_nothing() -> None:
    select.select([], [], [], 30)


def compute() -> None:
    wait_until(lasts(30), "the loss")


@pytest.mark.parametrize(
    "work", [wait_for_an_event, wait_for_a_socket, select_nothing, wait_for_a_process, compute]
)
def test_a_loss_is_raised_in_whatever_the_main_thread_does(
    redis: Client, work: Callable[[], None], events: Events
) -> None:
    began = time.monotonic()
    message = (
        r"^it: expected to hold the lock, but it ran out, and thief\.1\.2\.ab has it; what is "
    )
    with pytest.raises(LockLost, match=message):
        lose(redis, work)
    assert time.monotonic() - began < 25  # of 30 that the work would take
    assert len(events("lock.lost")) == 1
    assert redis.hget(LOCK, "owner") == b"thief.1.2.ab/0"
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_a_loss_of_the_outer_lock_ends_the_inner_block_too(redis: Client) -> None:
    def inner() -> None:
        with exclusive("inner", redis=redis):
            wait_for_an_event()

    with pytest.raises(LockLost, match=r"^it:"):
        lose(redis, inner)
    assert redis.keys("*:locks:*") == [LOCK.encode()]


def test_check_queries_redis(redis: Client) -> None:
    lock = exclusive("it", redis=redis).__enter__()
    lock.check()
    take_away(redis)
    with pytest.raises(LockLost, match=rf"thief.* token {lock.token} "):
        lock.check()
    with pytest.raises(LockLost):
        lock.__exit__(None, None, None)


def test_a_loss_that_the_block_swallows_is_raised_again(redis: Client) -> None:
    errors = []

    def work() -> None:
        with exclusive("it", timeout=1, redis=redis) as lock:
            redis.delete(LOCK)
            for call in (wait_for_an_event, lock.check, lock.check):
                try:
                    call()
                except LockLost as error:
                    errors.append(str(error))

    with pytest.raises(LockLost) as caught:
        work()
    assert errors == [str(caught.value)] * 3


def test_a_loss_found_at_the_end_is_raised_there(redis: Client) -> None:
    def fails() -> None:
        raise KeyError

    with pytest.raises(LockLost, match="before this block ended"):
        lose(redis, lambda: None)
    redis.delete(LOCK)
    with pytest.raises(KeyError):  # which says more
        lose(redis, fails)


def test_another_holder_meanwhile_counts_even_when_the_lock_is_free_again(redis: Client) -> None:
    def meanwhile() -> None:
        redis.delete(LOCK)
        once(redis)

    with pytest.raises(LockLost, match="before this block ended"):
        lose(redis, meanwhile)


def test_a_block_that_was_alone_to_its_end_has_not_failed(redis: Client) -> None:
    """Its lock ran out, which it did not notice; nobody came."""
    with exclusive("it", hold=timedelta(hours=1), redis=redis) as lock:
        redis.delete(LOCK)
    assert int(redis.hget(LOCK, "token")) == lock.token
    assert 3500 < redis.ttl(LOCK) <= 3600


def test_in_another_thread_only_check_and_the_end_raise_it(redis: Client, events: Events) -> None:
    steps = []

    def work() -> None:
        with exclusive("it", timeout=1, redis=redis) as lock:
            take_away(redis)
            wait_until(lambda: events("lock.lost"), "the keeper has noticed")
            steps.append("still inside")
            try:
                lock.check()
            except LockLost:
                steps.append("checked")
        steps.append("never")

    with ThreadPoolExecutor(1) as pool, pytest.raises(LockLost):
        pool.submit(work).result(PATIENCE)
    assert steps == ["still inside", "checked"]


def test_an_apps_own_handler_of_the_signal_is_called_and_comes_back(redis: Client) -> None:
    received: list[int] = []

    def own(number: int, _: object) -> None:
        received.append(number)

    before = signal.signal(signal.SIGURG, own)
    try:
        with exclusive("it", redis=redis), exclusive("it:2", redis=redis):
            signal.raise_signal(signal.SIGURG)
            assert signal.getsignal(signal.SIGURG) is not own
        assert signal.getsignal(signal.SIGURG) is own
    finally:
        signal.signal(signal.SIGURG, before)
    assert received == [signal.SIGURG]


STOPPED = """
try:
    with exclusive('it', timeout=1) as lock:
        say('inside', lock.token)
        %s
except LockLost as error:
    say('lost', error)
"""


@pytest.mark.parametrize("another", [True, False])
def test_a_process_stopped_past_its_timeout_gets_lock_lost(
    redis: Client, start: Start, another: bool
) -> None:
    stopped = start(STOPPED % "pause(60)")
    token = int(stopped.wait_for_line("inside").split()[1])
    stopped.signal(signal.SIGSTOP)
    wait_until(lambda: not redis.exists(LOCK), "it runs out")
    assert not another or once(redis) > token
    stopped.signal(signal.SIGCONT)
    stopped.wait_for_line("lost it: expected to hold the lock, but it is free")
    assert stopped.ended() == 0


def test_a_process_stopped_past_its_timeout_does_not_believe_to_hold_the_lock(
    redis: Client, start: Start
) -> None:
    """It wakes in front of check(), before its refresher has noticed."""
    stopped = start(STOPPED % "other.blpop('go', 0); lock.check(); say('believes')")
    stopped.wait_for_line("inside")
    wait_until(lambda: redis.info("clients")["blocked_clients"], "it waits")
    stopped.signal(signal.SIGSTOP)
    wait_until(lambda: not redis.exists(LOCK), "it runs out")
    redis.rpush("go", "on")
    stopped.signal(signal.SIGCONT)
    stopped.wait_for_line("lost")
    assert stopped.ended() == 0
    assert "believes" not in stopped.lines()


def test_a_write_after_waking_too_late_is_refused(redis: Client, start: Start) -> None:
    """In a thread nothing stops it from writing; its token does."""
    stopped = start(
        """
def work():
    with exclusive('it', timeout=1) as lock:
        say('first', write(lock, 'first'))
        other.blpop('go', 0)
        say('second', write(lock, 'second'))
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    )
    assert stopped.wait_for_line("first") == "first 1"
    wait_until(lambda: redis.info("clients")["blocked_clients"], "it waits")
    stopped.signal(signal.SIGSTOP)
    write = redis.register_script(RESOURCE)
    assert write(["highest", "attempts", "accepted"], [once(redis, wait=5), "other"]) == 1
    redis.rpush("go", "on")
    stopped.signal(signal.SIGCONT)
    assert stopped.wait_for_line("second") == "second 0"
    stopped.wait_for_line("rq_clock.errors.LockLost: ")
    assert [line.split()[1] for line in redis.lrange("accepted", 0, -1)] == [b"first", b"other"]


def test_a_lock_that_redis_forgot_is_lost(redis: Client) -> None:
    def forgets() -> None:
        redis.flushall()
        wait_for_an_event()

    with pytest.raises(LockLost):
        lose(redis, forgets)


# ---- inside a work horse ------------------------------------------------------------------------

RQS = "import rq; rq.Worker(['default'], connection=other).work(burst=True)"
OURS = "from rq_clock import run_worker; run_worker(['default'], burst=True)"
both_workers = pytest.mark.parametrize("worker", [RQS, OURS], ids=["rq", "rq-clock"])


def run_job(
    redis: Client, work: Callable[[], Script], path: Path, *, timeout: int, lost: bool
) -> str:
    """Let a job wait in its block. Return why it failed."""
    (path / "jobs.py").write_text(
        HEAD + f"def job():\n    with exclusive('it', timeout={timeout}): pause(60)\n"
    )
    job = Queue(connection=redis).enqueue("jobs.job", job_timeout=30 if lost else 2)
    worker = work()
    wait_until(lambda: redis.exists(LOCK), "the job is in its block")
    if lost:
        take_away(redis)
    assert worker.ended() == 0
    result = job.latest_result()
    assert result
    return str(result.exc_string).strip().splitlines()[-1]


@both_workers
def test_a_loss_ends_a_job(redis: Client, start: Start, tmp_path: Path, worker: str) -> None:
    error = run_job(redis, lambda: start(worker), tmp_path, timeout=1, lost=True)
    assert error.startswith("rq_clock.errors.LockLost: it: ")


@both_workers
def test_a_jobs_timeout_ends_its_block_and_frees_the_lock(
    redis: Client, start: Start, tmp_path: Path, worker: str
) -> None:
    error = run_job(redis, lambda: start(worker), tmp_path, timeout=60, lost=False)
    assert error.startswith("rq.timeouts.JobTimeoutException")
    assert not redis.exists(LOCK)


# ---- a server that is away or full, replies that are lost ---------------------------------------


def test_a_grant_whose_reply_was_lost_is_granted_again(redis: Client) -> None:
    with replies_lost("lock_acquire"), exclusive("it", redis=redis) as lock:
        assert redis.hget(LOCK, "token") == redis.get(TOKEN) == b"%d" % lock.token


def test_a_lock_of_an_owner_that_got_no_reply_is_free_after_the_timeout(redis: Client) -> None:
    with (
        replies_lost("lock_acquire", "lock_acquire"),
        pytest.raises(StoreUnavailable, match="it: the reply was lost"),
    ):
        once(redis, timeout=1)
    assert 0 < redis.pttl(LOCK) <= 1000
    once(redis, wait=5)


@pytest.mark.parametrize("losses", [1, 2])
def test_a_release_whose_reply_was_lost_counts(redis: Client, events: Events, losses: int) -> None:
    with replies_lost(*["lock_release"] * losses):
        once(redis)
    assert len(events("lock.unreleased")) == losses - 1
    assert not redis.exists(LOCK)


def test_a_hold_whose_reply_was_lost_counts(redis: Client) -> None:
    with replies_lost("lock_release"):
        once(redis, hold=timedelta(hours=20))
    assert 19 * 3600 < redis.ttl(LOCK) <= 20 * 3600


def test_a_hold_that_cannot_be_stored_raises(redis: Client) -> None:
    with replies_lost("lock_release", "lock_release"), pytest.raises(StoreUnavailable):
        once(redis, hold=timedelta(hours=20))


def test_a_refresh_whose_reply_was_lost_is_repeated(redis: Client) -> None:
    with exclusive("it", timeout=1, redis=redis) as lock:
        with replies_lost("lock_renew", "lock_renew"):
            wait_until(lasts(1.3), "longer than the timeout")
        lock.check()


@pytest.fixture
def impatient(fresh_server: Callable[..., Server]) -> Iterator[tuple[Server, Client]]:
    """A server of the test's own, and a client that soon notices that it is gone."""
    server = fresh_server()
    retry = Retry(NoBackoff(), 0)
    with Redis.from_url(server.url, socket_timeout=0.2, retry=retry) as client:
        yield server, client


def test_an_outage_shorter_than_the_timeout_loses_nothing(impatient: tuple[Server, Client]) -> None:
    server, redis = impatient
    with exclusive("it", timeout=3.6, redis=redis) as lock:
        server.pause()
        with pytest.raises(StoreUnavailable, match=r"^it: "):
            lock.check()
        wait_until(lasts(1.3), "a refresh has failed")
        server.resume()
        wait_until(lasts(2.4), "longer than the timeout")
        lock.check()


def test_an_outage_longer_than_the_timeout_loses_the_lock(impatient: tuple[Server, Client]) -> None:
    server, redis = impatient

    def work() -> None:
        with exclusive("it", timeout=1, redis=redis):
            server.pause()
            wait_for_an_event()

    began = time.monotonic()
    with pytest.raises(LockLost, match=r"it: .* Redis did not answer for 1 s"):
        work()
    assert 1 <= time.monotonic() - began < 25  # of 30 that the work would take
    with pytest.raises(StoreUnavailable):
        once(redis)


def test_a_wait_for_a_lock_outlasts_an_outage(impatient: tuple[Server, Client]) -> None:
    server, redis = impatient
    server.pause()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(once, redis, wait=30)
        wait_until(lasts(0.6), "attempts fail")
        server.resume()
        assert waiting.result(PATIENCE)


def test_a_full_server_grants_no_lock_but_keeps_frees_and_holds_those_it_has(
    impatient: tuple[Server, Client],
) -> None:
    _, redis = impatient
    with exclusive("it", timeout=1, redis=redis) as lock:
        redis.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match=r"it:2: .*maxmemory"):
            exclusive("it:2", redis=redis).__enter__()
        wait_until(lasts(1.3), "longer than the timeout")
        lock.check()
        lock.hold(hours=1)
    assert 3500 < redis.ttl(LOCK) <= 3600
