"""Locks for tasks: their laws, and a contest of processes that are killed and stopped."""

from __future__ import annotations

import pickle
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue

from rq_clock.errors import Busy, LockLost, RqClockError, StoreUnavailable
from rq_clock.lock import exclusive
from tests.clock.storm import Client, chance
from tests.helpers import LUA, PATIENCE, Events, Pace, replies_lost, wait_until
from tests.process import Process
from tests.server import Server

LOCK = "rq-clock:default:locks:it"
TOKEN = "rq-clock:default:lock-token:it"
RESOURCE = """
redis.call('RPUSH', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or 0) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[1] .. ' ' .. ARGV[2])
return 1
"""
"""Refuses a writer with a lower token than it has seen.

KEYS 1 the highest token   2 what was attempted   3 what was accepted   ARGV 1 token   2 writer
"""
HEAD = f"""
import os, random, signal, sys, threading, time
from redis import Redis
from rq_clock.errors import Busy, LockLost
from rq_clock.lock import exclusive

other = Redis.from_url(os.environ['REDIS_URL'])
resource = other.register_script({RESOURCE!r})

def write(lock, writer):
    return resource(['highest', 'attempts', 'accepted'], [lock.token, writer])

def say(*words):
    print(*words, flush=True)

def pause(seconds):
    threading.Event().wait(seconds)
"""


class Script(Process):
    """A process that runs some lines of Python, and its output."""

    def __init__(self, path: Path, url: str, body: str) -> None:
        number = len(list(path.glob("*.log")))
        source = path / f"script{number}.py"
        source.write_text(HEAD + body)
        super().__init__(path / f"script{number}.log", str(source), env={"REDIS_URL": url})


Start = Callable[[str], Script]


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start a script; what still runs at the end of the test is killed."""
    scripts: list[Script] = []

    def begin(body: str) -> Script:
        scripts.append(Script(tmp_path, redis_url, body))
        return scripts[-1]

    yield begin
    for script in scripts:
        script.__exit__()


@pytest.fixture
def redis(connection: Client) -> Client:
    return connection


def once(redis: Client, **options: Any) -> int:
    """Be in the block for a moment. Return the token."""
    with exclusive("it", redis=redis, **options) as lock:
        return lock.token


def fail(redis: Client, error: BaseException, **options: Any) -> None:
    with exclusive("it", redis=redis, **options):
        raise error


def lasts(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


# ---- one at a time ------------------------------------------------------------------------------


def test_busy_names_the_holder_and_how_long_it_works(redis: Client, start: Start) -> None:
    began = time.monotonic()
    first = start("with exclusive('it'): say('inside'); pause(60)")
    first.wait_for_line("inside")
    wait_until(lasts(0.5), "half a second")
    with Pace() as pace:
        before = time.monotonic()
        with pytest.raises(Busy) as caught:
            once(redis)
        took = time.monotonic() - before
    assert took < pace.allows(1)
    busy = caught.value
    assert busy.lock == "it"
    assert busy.holder.startswith(f"{socket.gethostname()}.{first.process.pid}.")
    assert 0.5 <= busy.seconds <= time.monotonic() - began
    assert 0 < busy.free_in <= 60
    assert not busy.done
    assert str(busy) == (
        f"it: expected a free lock, got one held by {busy.holder} for 0:00:"
        f"{round(busy.seconds):02}; come back later, or wait for it with wait=seconds"
    )


def test_busy_has_the_same_text_in_another_process() -> None:
    busy = Busy("it", "worker.1.4.ab", 7200.4, 3600, True)
    copy = pickle.loads(pickle.dumps(busy))
    assert str(copy) == str(busy)
    assert str(busy) == "it: done 2:00:00 ago by worker.1.4.ab, nobody may again for 1:00:00"
    assert (copy.lock, copy.seconds, copy.done) == ("it", 7200.4, True)


def test_a_lock_is_free_after_its_block_also_after_an_exception(redis: Client) -> None:
    once(redis)
    assert not redis.exists(LOCK)
    with pytest.raises(KeyError):
        fail(redis, KeyError())
    assert not redis.exists(LOCK)
    once(redis)


def test_locks_of_different_names_and_namespaces_do_not_meet(
    redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exclusive("it", redis=redis), exclusive("it:2", redis=redis):
        monkeypatch.setenv("RQ_CLOCK_NAMESPACE", "other")
        with exclusive("it", redis=redis):
            assert sorted(redis.keys()) == [
                b"rq-clock:default:lock-token:it",
                b"rq-clock:default:lock-token:it:2",
                b"rq-clock:default:locks:it",
                b"rq-clock:default:locks:it:2",
                b"rq-clock:other:lock-token:it",
                b"rq-clock:other:locks:it",
            ]


def test_nothing_stays_for_ever(redis: Client) -> None:
    with exclusive("it", timeout=7, redis=redis):
        assert 0 < redis.pttl(LOCK) <= 7000
    assert redis.keys() == [TOKEN.encode()]
    assert 0 < redis.ttl(TOKEN) <= 30 * 24 * 3600 + 7


def test_without_a_client_the_environments_redis_is_used(
    redis: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreUnavailable, match="expected REDIS_URL"), exclusive("it"):
        pass
    monkeypatch.setenv("REDIS_URL", redis_url)
    with exclusive("it"):
        assert redis.exists(LOCK)


def test_a_client_that_decodes_replies_will_do(redis: Client, redis_url: str) -> None:
    with Redis.from_url(redis_url, decode_responses=True) as decoding:
        with exclusive("it", redis=decoding) as lock:
            lock.check()
            with pytest.raises(Busy):
                once(decoding)
        assert not redis.exists(LOCK)


def test_a_wait_ends_with_the_lock_when_it_is_free(redis: Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        with exclusive("it", redis=redis) as lock:
            waiting = pool.submit(once, redis, wait=600)
            wait_until(lasts(0.3), "some attempts")
            assert not waiting.done()
        assert waiting.result(PATIENCE) > lock.token


def test_waiting_ends_with_busy(redis: Client) -> None:
    with exclusive("it", redis=redis):
        began = time.monotonic()
        with pytest.raises(Busy):
            once(redis, wait=0.4)
        assert 0.4 <= time.monotonic() - began < 30  # of 60 that the lock is held


def test_an_exception_while_waiting_leaves_no_lock(redis: Client) -> None:
    def alarm(*_: object) -> None:
        raise KeyError("alarm")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with exclusive("it", redis=redis):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyError):
                once(redis, wait=30)
    finally:
        signal.signal(signal.SIGALRM, before)
    quiet = lasts(0.5)
    while not quiet():
        assert not redis.exists(LOCK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "expected a name of 1-100 letters, digits, '_', '.', ':' or '-', got ''"),
        ({"name": "a b"}, "a b: expected a name .* got 'a b'"),
        ({"name": "x" * 101}, "expected a name"),
        ({"name": "x\n"}, "expected a name"),
        ({"name": 7}, "7: expected a name .* got 7"),
        ({"timeout": 0.9}, r"it: expected timeout in seconds, 1 to 86400, got 0\.9"),
        ({"timeout": 86_401}, "it: expected timeout in seconds, 1 to 86400, got 86401"),
        ({"timeout": float("nan")}, "got nan"),
        ({"timeout": True}, "got True"),
        ({"timeout": "60"}, "got '60'"),
        ({"wait": -1}, "it: expected wait in seconds, 0 or more, got -1"),
        ({"hold": 60}, "it: expected hold as a timedelta, at least 0.001 s, got 60"),
        ({"hold": timedelta(0)}, "expected hold as a timedelta"),
        ({"timeout": 0, "wait": None}, "it: expected timeout .* got 0; expected wait .* got None"),
    ],
)
def test_faults_are_raised_before_redis_is_used(options: Any, message: str) -> None:
    with pytest.raises(RqClockError, match=message):
        exclusive(**{"name": "it", **options})


def test_the_bounds_are_allowed(redis: Client) -> None:
    for name, timeout in (("x" * 100, 1), ("a.b:c-D_9", 86_400)):
        with exclusive(name, timeout=timeout, redis=redis):
            pass


# ---- how long it is held ------------------------------------------------------------------------


def test_a_block_longer_than_its_timeout_keeps_the_lock(redis: Client) -> None:
    with exclusive("it", timeout=1, redis=redis) as lock:
        over = lasts(1.6)
        while not over():
            with pytest.raises(Busy):
                once(redis, wait=0.2)
        lock.check()


def test_a_process_killed_in_its_block_frees_the_lock_after_the_timeout(
    redis: Client, start: Start
) -> None:
    killed = start("with exclusive('it', timeout=1): say('inside'); pause(60)")
    killed.wait_for_line("inside")
    killed.signal(signal.SIGKILL)
    with Pace() as pace:
        died, left = time.monotonic(), redis.pttl(LOCK) / 1000
        once(redis, wait=30)
        took = time.monotonic() - died
    assert 0 < left - 0.05 < took < pace.allows(3)


def test_a_sigterm_that_raises_frees_the_lock_at_once(redis: Client, start: Start) -> None:
    ended = start(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "with exclusive('it'): say('inside'); pause(60)"
    )
    ended.wait_for_line("inside")
    ended.signal(signal.SIGTERM)
    assert ended.ended() == 7
    once(redis)


def test_an_exception_at_any_instruction_leaves_no_lock(redis: Client, start: Start) -> None:
    storm = start(
        """
class Alarm(Exception): pass
def alarm(*_): raise Alarm
def block():
    with exclusive('it', wait=60):
        pass
block()  # imports what it needs: Python's import system does not stand such a storm
signal.signal(signal.SIGALRM, alarm)
sys.unraisablehook = lambda _: None
hits, over = 0, time.monotonic() + 1
while time.monotonic() < over or hits <= 100:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 0.0015))
        block()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Alarm:
        hits += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
block()
say('hits', hits, signal.getsignal(signal.SIGURG).name)
pause(60)
"""
    )
    _, hits, handler = storm.wait_for_line("hits").split()
    print("hits", hits)
    assert int(hits) > 100
    assert handler == "SIG_DFL"
    wait_until(lambda: not redis.exists(LOCK), "the last release")


def test_a_lock_that_is_forgotten_in_its_block_is_freed(redis: Client) -> None:
    lock = exclusive("it", redis=redis)
    lock.__enter__()
    assert redis.exists(LOCK)
    del lock
    wait_until(lambda: not redis.exists(LOCK), "the release")
    once(redis)
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_a_fork_that_leaves_the_block_releases_nothing(redis: Client, start: Start) -> None:
    parent = start(
        """
with exclusive('it') as lock:
    child = os.fork()
    if child == 0:
        lock.check()
        sys.exit(0)
    say('child', os.waitpid(child, 0)[1])
    lock.check()
    say('held')
"""
    )
    assert parent.wait_for_line("child") == "child 0"
    parent.wait_for_line("held")
    assert parent.ended() == 0
    assert not redis.exists(LOCK)


# ---- fencing ------------------------------------------------------------------------------------


def test_tokens_grow_with_every_holder(redis: Client, start: Start) -> None:
    tokens = [once(redis) for _ in range(20)]
    other = start("with exclusive('it') as lock: say('t', lock.token)")
    assert other.ended() == 0  # until then it may hold the lock
    tokens.append(int(other.wait_for_line("t ")[2:]))
    tokens.append(once(redis))
    assert tokens == sorted(set(tokens))
    assert tokens[-1] < 2**53


def test_tokens_grow_after_redis_lost_them(redis: Client) -> None:
    before = [once(redis) for _ in range(20)]
    redis.flushall()
    assert once(redis) > before[-1]


def test_tokens_grow_when_the_servers_clock_goes_back(redis: Client) -> None:
    future = once(redis) + 3600 * 10**6
    redis.set(TOKEN, future)
    assert [once(redis), once(redis)] == [future + 1, future + 2]


# ---- lost ---------------------------------------------------------------------------------------


def take_away(redis: Client) -> None:
    """Let the lock run out, and another one have it."""
    redis.delete(LOCK)
    assert redis.hset(LOCK, mapping={"owner": "thief.1.2.ab/0", "token": 2**52, "since": 0})


def lose(redis: Client, work: Callable[[], None], **options: Any) -> None:
    """Lose the lock inside a block, and go on with `work` there."""
    with exclusive("it", redis=redis, **{"timeout": 1, **options}):
        take_away(redis)
        work()


def wait_for_an_event() -> None:
    threading.Event().wait(30)


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


# ---- a hold -------------------------------------------------------------------------------------


def test_a_hold_keeps_everyone_out_after_success(redis: Client) -> None:
    with exclusive("it", timeout=1, redis=redis) as lock:
        lock.hold(hours=19, minutes=60)
    with pytest.raises(Busy, match=r"done 0:00:00 ago by .* again for 20:00:00") as busy:
        once(redis)
    assert busy.value.done
    assert 0 <= busy.value.seconds < 5
    assert 20 * 3600 - 5 < busy.value.free_in <= 20 * 3600


def test_a_server_clock_that_goes_back_lengthens_no_lock(redis: Client) -> None:
    once(redis, hold=timedelta(hours=1))
    [key] = redis.keys("*locks:*")
    redis.pexpire(key, 25 * 3_600_000)  # as it does when it goes back by a day
    with pytest.raises(Busy) as busy:
        once(redis)
    assert busy.value.free_in <= 3600
    assert redis.pttl(key) <= 3_600_000


def test_a_hold_ends(redis: Client) -> None:
    began = time.monotonic()
    token = once(redis, hold=timedelta(seconds=0.4))
    assert once(redis, wait=PATIENCE) > token
    assert time.monotonic() - began >= 0.4


def test_nobody_waits_for_a_hold_that_is_longer_than_the_wait(redis: Client) -> None:
    once(redis, hold=timedelta(hours=1))
    began = time.monotonic()
    with pytest.raises(Busy):
        once(redis, wait=600)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("error", [KeyError(), SystemExit(0), KeyboardInterrupt()])
def test_an_exception_means_no_hold(redis: Client, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(redis, error, hold=timedelta(hours=20))
    once(redis)


def test_a_lost_lock_means_no_hold(redis: Client) -> None:
    with pytest.raises(LockLost):
        lose(redis, lambda: None, hold=timedelta(days=1))
    assert redis.ttl(LOCK) == -1


def test_a_late_message_of_a_former_holder_changes_nothing(redis: Client) -> None:
    """Sent before the end of the block, and on its way for longer."""
    with exclusive("it", redis=redis) as lock:
        owner = redis.hget(LOCK, "owner")
        lock.hold(hours=20)
    acquire, renew, release = (
        redis.register_script((LUA / f"lock_{verb}.lua").read_text())
        for verb in ("acquire", "renew", "release")
    )
    before = redis.hgetall(LOCK)
    assert renew([LOCK], [owner, 1000]) == owner
    assert acquire([LOCK, TOKEN], [owner, 1000])[0] == b"done"
    assert release([LOCK, TOKEN], [owner, lock.token, 0]) == 1
    assert redis.hgetall(LOCK) == before
    assert redis.ttl(LOCK) > 19 * 3600
    take_away(redis)
    before = redis.hgetall(LOCK)
    assert renew([LOCK], [owner, 1000]) == b"thief.1.2.ab/0"
    assert release([LOCK, TOKEN], [owner, lock.token, 0]) == 0
    assert redis.hgetall(LOCK) == before
    assert redis.ttl(LOCK) == -1


def test_a_wrong_hold_is_refused(redis: Client) -> None:
    with exclusive("it", redis=redis) as lock:
        with pytest.raises(RqClockError, match=r"it: expected hold\(hours=20\), got .*'hour'"):
            lock.hold(hour=20)
        with pytest.raises(RqClockError, match=r"it: expected a hold of at least 0\.001 s"):
            lock.hold(hours=-1)
    with pytest.raises(RqClockError, match=r"expected hold\(\) inside the with block"):
        lock.hold(hours=1)
    with pytest.raises(LockLost, match=r"expected check\(\) inside the with block"):
        lock.check()


# ---- as a decorator -----------------------------------------------------------------------------


def test_a_decorated_function_runs_one_at_a_time(redis: Client) -> None:
    @exclusive("it", redis=redis)
    def double(number: int, *, again: bool = False) -> int:
        """Two times."""
        assert redis.exists(LOCK)
        return double(number) if again else 2 * number

    assert [double(2), double(3)] == [4, 6]
    assert (double.__name__, double.__doc__) == ("double", "Two times.")
    with pytest.raises(Busy):
        double(2, again=True)
    assert not redis.exists(LOCK)


def test_a_decorated_function_holds_after_success(redis: Client) -> None:
    @exclusive("it", hold=timedelta(hours=20), redis=redis)
    def work(fails: bool) -> None:
        if fails:
            raise KeyError

    with pytest.raises(KeyError):
        work(True)
    work(False)
    with pytest.raises(Busy):
        work(False)


def test_a_function_that_skips_returns_none_while_another_one_works_or_has_done_the_work(
    redis: Client, events: Events
) -> None:
    work = exclusive("it", skip=True, hold=timedelta(hours=1), redis=redis)(lambda: "done")
    with exclusive("it", redis=redis):
        assert work() is None
    assert work() == "done"
    assert work() is None
    assert [fields["lock"] for fields in events("lock.skipped")] == ["it", "it"]
    assert isinstance(events("lock.skipped")[1]["reason"], Busy)


def test_a_function_that_skips_raises_what_it_is_refused_inside(redis: Client) -> None:
    inner = exclusive("other", redis=redis)(lambda: None)
    with exclusive("other", redis=redis), pytest.raises(Busy, match="other"):
        exclusive("it", skip=True, redis=redis)(inner)()
    with pytest.raises(StoreUnavailable):
        exclusive("it", skip=True)(lambda: None)()


def test_a_with_block_cannot_be_skipped(redis: Client) -> None:
    with pytest.raises(RqClockError, match="skip=True for a decorated function"):
        once(redis, skip=True)
    assert not redis.keys()


def test_a_coroutine_or_a_generator_cannot_be_decorated() -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    for lazy in (coroutine, generator):
        with pytest.raises(RqClockError, match="it: expected a function that has done its work"):
            exclusive("it")(lazy)


def test_one_object_is_for_one_block_at_a_time(redis: Client) -> None:
    lock = exclusive("it", redis=redis)
    with lock:
        first = lock.token
        with pytest.raises(RqClockError, match="it: expected one block at a time"), lock:
            pass
        lock.check()
        lock.hold(seconds=0.1)
    wait_until(lambda: not redis.exists(LOCK), "the end of the hold")
    with lock:
        assert lock.token > first
    assert not redis.exists(LOCK)  # the first block's hold was the first block's


# ---- the contest --------------------------------------------------------------------------------

CONTESTANT = """
luck = random.Random(os.getpid())
say('ready')
while True:
    try:
        with exclusive('it', timeout=1, wait=0.3) as lock:
            for _ in range(luck.choice([1, 2, 2, 3, 3, 5, 5, 10, 400])):
                write(lock, os.getpid())
                pause(luck.uniform(0, 0.005))  # and never checks whether it still may
    except Busy:
        other.incr('busy')
    except LockLost as error:
        other.incr('lost')
"""


class Contest:
    """Eight processes that write under one lock. Its holder is killed, or stopped past the
    timeout and let go on."""

    def __init__(self, redis: Client, start: Start, luck: random.Random) -> None:
        self.redis = redis
        self.luck = luck
        self._start = start
        self._running: dict[int, Script] = {}
        self._asleep: dict[int, float] = {}
        self.kills = self.stops = 0
        for _ in range(8):
            self._begin()
        for script in self._running.values():
            script.wait_for_line("ready")

    def _begin(self) -> None:
        script = self._start(CONTESTANT)
        self._running[script.process.pid] = script

    def holder(self) -> int:
        """Return the process that holds the lock; 0 for none."""
        owner = (self.redis.hget(LOCK, "owner") or b"").decode()
        return int(owner.split(".")[-2]) if owner else 0

    def strike(self) -> bool:
        """Stop or kill the holder, in turn, if there is one and it runs."""
        pid = self.holder()
        if pid not in self._running or pid in self._asleep:
            return False
        if self.kills < self.stops:
            self._running.pop(pid).signal(signal.SIGKILL)
            self.kills += 1
            self._begin()
            return True
        self._running[pid].signal(signal.SIGSTOP)
        if any(self.holder() != pid for _ in range(3)):  # too late; its release was on its way
            self._running[pid].signal(signal.SIGCONT)
            return False
        self._asleep[pid] = time.monotonic() + self.luck.uniform(1.3, 2)
        self.stops += 1
        return True

    def wake(self, *, all: bool = False) -> bool:
        for pid, until in list(self._asleep.items()):
            if all or time.monotonic() > until:
                del self._asleep[pid]
                self._running[pid].signal(signal.SIGCONT)
        return not self._asleep

    def end(self) -> None:
        """Let the last ones wake after their time, and get their errors."""
        wait_until(self.wake, "the stopped ones wake")
        wait_until(lambda: self.number("lost") >= self.stops, "each gets its error")
        for script in self._running.values():
            script.signal(signal.SIGKILL)
            script.ended()

    def number(self, key: str) -> int:
        return int(self.redis.get(key) or 0)

    def writes(self, key: str) -> list[tuple[int, int]]:
        """Token and process of each write, in the order in which they came."""
        return [(int(t), int(pid)) for t, pid in map(bytes.split, self.redis.lrange(key, 0, -1))]


def contest(redis: Client, start: Start, seconds: float) -> None:
    seed, luck = chance()
    it = Contest(redis, start, luck)
    over = lasts(seconds)
    while not over() or len({pid for _, pid in it.writes("accepted")}) < 4:  # on a slow machine
        next_strike = lasts(luck.uniform(0.2, 1.2))
        wait_until(lambda due=next_strike: it.wake() is not None and due(), "the next one")  # type: ignore[misc]
        wait_until(lambda: it.wake() is not None and (it.strike() or over()), "a holder")
    it.end()
    attempts, accepted = it.writes("attempts"), it.writes("accepted")
    refused = len(attempts) - len(accepted)
    turns = [list(turn) for _, turn in groupby(accepted, key=lambda write: write[0])]
    print(
        f"seed={seed} seconds={seconds:g} holders={len(turns)} accepted={len(accepted)} "
        f"refused={refused} kills={it.kills} stops={it.stops} lost={it.number('lost')} "
        f"busy={it.number('busy')}"
    )
    tokens = [turn[0][0] for turn in turns]
    assert tokens == sorted(set(tokens)), "a holder came back between others"
    assert all(len(set(turn)) == 1 for turn in turns), "two holders had one token"
    assert it.kills >= seconds / 6
    assert len({pid for _, pid in accepted}) >= 4


def test_eight_processes_killed_and_stopped_never_write_in_each_others_turn(
    redis: Client, start: Start
) -> None:
    contest(redis, start, seconds=6)


@pytest.mark.soak
def test_eight_processes_killed_and_stopped_for_long_never_write_in_each_others_turn(
    redis: Client, start: Start
) -> None:
    contest(redis, start, seconds=20)
