"""Clocks that hand over to each other: stopped, restarted, deployed, switched off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rq_clock.store.lease import LEASE_MS
from tests.clock.storm import Client, ClockProcess, account, add, catch_up, ledger
from tests.helpers import Pace, wait_until
from tests.server import Server

pytestmark = pytest.mark.process

Start = Callable[..., ClockProcess]
LEASE = "rq-clock:default:lease"
FENCE = "rq-clock:default:fence"
RARELY = "cron('0 0 1 1 *')"
OFTEN = add("often", when="every(milliseconds=50)")


@pytest.fixture
def server(fresh_server: Callable[..., Server]) -> Server:
    return fresh_server()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    """Start a clock: `start(script, *switches, **environment)`."""
    with ExitStack() as stack:

        def start(script: str, *switches: str, **env: str) -> ClockProcess:
            clock = ClockProcess(tmp_path, server.url, script, *switches, **env)
            return stack.enter_context(clock)

        yield start


def committed(redis: Client, clock: ClockProcess, number: int = 1) -> float:
    """When (seconds since the epoch) the server enqueued this clock's n-th run."""
    job = clock.wait_for("run.enqueued", times=number).fields["job"]
    return (int(job.rpartition("-")[2]) + ledger(redis, ["often"])[job]) / 1000


def test_sigterm_hands_over_to_the_standby_at_once(redis: Client, start: Start) -> None:
    standby = start(OFTEN)
    standby.wait_for("run.enqueued")
    leader = start(OFTEN)
    standby.wait_for("clock.standby")
    before = len(standby.events("run.enqueued"))
    wait_until(lambda: redis.pttl(LEASE) > LEASE_MS - 1000, "a renewal")
    with Pace() as pace:
        ended = time.time()
        assert leader.terminate() == 0
        standby.wait_for("clock.leading", times=2)
        took = committed(redis, standby, before + 1) - ended
    print(f"the standby's first commit came {took * 1000:.0f} ms after SIGTERM")
    assert took < pace.allows(3)  # the lease would have lasted much longer
    assert leader.words()[-1] == "clock.stopped"
    assert standby.terminate() == 0
    account(redis, ["often"]).check()


def test_a_restart_after_kill_9_waits_for_no_lease(redis: Client, start: Start) -> None:
    took = []
    for _ in range(5):
        clock = start(OFTEN)
        took.append(committed(redis, clock) - clock.started)
        assert clock.words()[0] == "clock.leading"  # it did not stand by first
        wait_until(lambda: redis.hget(LEASE, "proven") == b"1", "end of the first pass")
        clock.kill()
    print("first commit after start of process:", *(f"{t * 1000:.0f} ms" for t in took))
    assert redis.get(FENCE) == b"5"
    last = start(OFTEN)
    catch_up(redis, ["often"])
    assert last.terminate() == 0
    account(redis, ["often"]).check()


def test_two_dynos_with_the_same_name_and_pid_are_two_clocks(redis: Client, start: Start) -> None:
    """As at a deploy: the old clock.1 still runs, and in its container each has the same pid."""
    pid = "import os\nos.getpid = lambda: 4\n"
    old = start(pid + OFTEN, DYNO="clock.1")
    old.wait_for("run.enqueued")
    new = start(pid + OFTEN, DYNO="clock.1")
    new.wait_for("clock.leading", token="2")
    old.wait_for("clock.standby")
    assert old.terminate() == 0
    assert new.terminate() == 0
    assert new.words("clock.leading", "clock.deposed") == ["clock.leading"]
    account(redis, ["often"]).check()


# ---- deploys ----------------------------------------------------------------------------------


def defined(redis: Client) -> list[str]:
    return sorted(name.decode() for name in redis.hkeys("rq-clock:default:definitions"))


def test_an_older_release_never_undoes_a_newer_one(redis: Client, start: Start) -> None:
    newer = start(add("kept", "added", when=RARELY), HEROKU_RELEASE_VERSION="v2")
    newer.wait_for("reconcile.done", added="2")
    older = start(add("kept", "dropped", when=RARELY), HEROKU_RELEASE_VERSION="v1")
    older.wait_for("reconcile.older", release="1")
    assert older.words("clock.leading") == ["clock.leading"]
    newer.wait_for("clock.standby")
    assert defined(redis) == ["added", "kept"]
    assert older.terminate() == 0
    newer.wait_for("clock.leading", times=2)
    assert defined(redis) == ["added", "kept"]
    newest = start(add("kept", when=RARELY), HEROKU_RELEASE_VERSION="v3")
    newest.wait_for("reconcile.done", removed="1")
    assert defined(redis) == ["kept"]


def test_a_deploy_that_keeps_no_name_removes_nothing_without_the_switch(
    redis: Client, start: Start
) -> None:
    start(add("one", "two", when=RARELY)).wait_for("reconcile.done")
    empty = start("")
    assert "--remove-all" in empty.wait_for("reconcile.refused", stored="2").fields["reason"]
    wait_until(lambda: redis.hget(LEASE, "proven") == b"1", "end of the first pass")
    other = start(add("three", when=RARELY))
    reason = other.wait_for("reconcile.refused", declared="1", stored="2").fields["reason"]
    assert "RQ_CLOCK_NAMESPACE" in reason
    assert "renamed_from" in reason
    assert defined(redis) == ["one", "two"]
    wait_until(lambda: redis.hget(LEASE, "proven") == b"1", "end of the first pass")
    start("", "--remove-all").wait_for("reconcile.done", removed="2")
    assert defined(redis) == []


def test_a_disabled_clock_schedules_nothing_and_logs_it(redis: Client, start: Start) -> None:
    clock = start(add("one"), RQ_CLOCK_DISABLED="1")
    assert "RQ_CLOCK_DISABLED" in clock.wait_for("clock.disabled").fields["remedy"]
    clock.live(1.5)
    assert redis.keys() == []
    assert clock.terminate() == 0
    assert clock.words() == ["clock.disabled"]
