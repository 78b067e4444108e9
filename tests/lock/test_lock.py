"""Locks for tasks: one at a time, for how long, in which order, with a hold, as a decorator."""

from __future__ import annotations

import pickle
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from rq_clock.errors import Busy, LockLost, RqClockError, StoreUnavailable
from rq_clock.lock import exclusive
from tests.clock.storm import Client
from tests.helpers import LUA, PATIENCE, Events, Pace, wait_until
from tests.lock.lab import LOCK, TOKEN, Start, fail, lasts, lose, once, take_away

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
