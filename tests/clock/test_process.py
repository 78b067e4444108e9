"""The promises of the design, kept while processes are killed: real clocks, signals and servers.

Each clock is a process of its own, each account is drawn up from what Redis holds at the end. The
seed of every chance is printed; STORM_SEED=… repeats it.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rq_clock.store.lease import LEASE_MS
from tests.beside import beside_others
from tests.clock.storm import (
    TWENTY,
    Client,
    ClockProcess,
    account,
    add,
    catch_up,
    chance,
    client,
    ledger,
    state,
)
from tests.helpers import Pace, wait_until
from tests.proxy import Proxy
from tests.server import Server, free_url

pytestmark = pytest.mark.process

Starter = Callable[[str], ClockProcess]
LEASE_SECONDS = LEASE_MS / 1000
LEASE = "rq-clock:default:lease"
FENCE = "rq-clock:default:fence"


@contextmanager
def served(path: Path, **directives: str) -> Iterator[tuple[Server, Client]]:
    server = Server(path / "server", free_url(), **directives)
    with server, client(server.url) as redis:
        yield server, redis


# ---- storms -----------------------------------------------------------------------------------


def storm(path: Path, *, clocks: int, seconds: float, kills: int) -> str:
    """Kill a clock again and again, the leader or the standby, and start another one at once."""
    seed, luck = chance()
    began, killed = time.monotonic(), 0
    with served(path) as (server, redis), ExitStack() as stack:

        def start() -> ClockProcess:
            return stack.enter_context(ClockProcess(path, server.url, add(*TWENTY)))

        running = [start() for _ in range(clocks)]
        while killed < kills or time.monotonic() - began < seconds:
            victim = running.pop(luck.randrange(clocks))
            victim.live(luck.uniform(0.5, 2))
            victim.kill()
            killed += 1
            running.append(start())
        catch_up(redis, TWENTY)
        for clock in running:
            assert clock.terminate() == 0, clock.text()
        found = account(redis, TWENTY)
    return found.check(f"seed={seed} clocks={clocks} kills={killed}")


@beside_others
def test_a_storm_of_kills_loses_and_doubles_nothing(path: Path) -> str:
    return storm(path, clocks=1, seconds=20, kills=14)


@beside_others
def test_two_clocks_killed_in_turn_lose_and_double_nothing(path: Path) -> str:
    return storm(path, clocks=2, seconds=20, kills=14)


@pytest.mark.soak
@beside_others
def test_a_long_storm_of_kills_loses_and_doubles_nothing(path: Path) -> str:
    return storm(path, clocks=1, seconds=300, kills=200)


@pytest.mark.soak
@beside_others
def test_two_clocks_killed_in_turn_for_long_lose_and_double_nothing(path: Path) -> str:
    return storm(path, clocks=2, seconds=300, kills=200)


def bad_network(path: Path, *, seconds: float) -> str:
    seed, luck = chance()
    often = add(*TWENTY, when="every(milliseconds=200)")
    began = time.monotonic()
    with (
        served(path) as (server, redis),
        Proxy(server.url, luck) as proxy,
        ClockProcess(path, proxy.url, often) as clock,
    ):
        while time.monotonic() - began < seconds:
            clock.live(luck.uniform(0.2, 2))
            proxy.strike()
        proxy.calm = True
        catch_up(redis, TWENTY)
        assert clock.terminate() == 0, clock.text()
        found = account(redis, TWENTY)
    faults = " ".join(f"{kind}={count}" for kind, count in sorted(proxy.faults.items()))
    assert proxy.faults.total() >= 3
    return found.check(f"seed={seed} {faults}")


@beside_others
def test_cut_connections_and_lost_replies_lose_and_double_nothing(path: Path) -> str:
    return bad_network(path, seconds=15)


@pytest.mark.soak
@beside_others
def test_a_long_time_of_bad_network_loses_and_doubles_nothing(path: Path) -> str:
    return bad_network(path, seconds=300)


@beside_others
def test_a_crowd_divided_by_a_kill_or_a_cut_is_enqueued_whole(path: Path) -> str:
    """A thousand schedules at one instant are ten messages; it strikes in the midst of them."""
    seed, luck = chance()
    names = [f"c{i:03}" for i in range(1000)]
    divided = 0
    with served(path) as (server, redis), Proxy(server.url, luck) as proxy, ExitStack() as stack:

        def start() -> ClockProcess:
            crowd = add(*names, when="every(seconds=3)")
            return stack.enter_context(ClockProcess(path, proxy.url, crowd))

        proxy.calm = True
        clock = start()
        for round in range(8):
            clock.wait_for("clock.leading")
            clock.live(3 - time.time() % 3 + luck.uniform(0, 0.1) * (round % 2))
            if round % 2:
                clock.kill()
                clock = start()
            else:
                proxy.strike(800_000)
            divided += redis.llen("rq:queue:default") % len(names) > 0
        catch_up(redis, names)
        assert clock.terminate() == 0, clock.text()[-4000:]
        found = account(redis, names)
    return found.check(f"seed={seed} divided={divided}")


class Chaos:
    """Three clocks behind a bad network before a server that comes and goes; `act` does one thing
    to one of them."""

    def __init__(self, server: Server, proxy: Proxy, luck: random.Random, start: Starter) -> None:
        self.server = server
        self.proxy = proxy
        self.luck = luck
        self.start = start
        self.clocks = [start(proxy.url) for _ in range(3)]
        self.ending: list[ClockProcess] = []
        self.done: Counter[str] = Counter()

    def act(self) -> None:
        deeds = [self.kill, self.kill, self.end, self.freeze, self.strike, self.restart, self.pause]
        deed = self.luck.choice(deeds)
        deed()
        self.done[deed.__name__] += 1

    def kill(self) -> None:
        self.clocks.pop(0).kill()
        self.clocks.append(self.start(self.proxy.url))

    def end(self) -> None:
        self.ending.append(self.clocks.pop(0))
        self.ending[-1].signal(signal.SIGTERM)
        self.ending[-1].signal(signal.SIGCONT)
        self.clocks.append(self.start(self.proxy.url))

    def freeze(self) -> None:
        """Stop one and let all others go on, who may have been stopped for long."""
        for clock in self.clocks:
            clock.signal(signal.SIGCONT)
        self.luck.choice(self.clocks).signal(signal.SIGSTOP)

    def strike(self) -> None:
        self.proxy.strike()

    def restart(self) -> None:
        self.server.kill()
        self.server.start()

    def pause(self) -> None:
        self.server.pause()
        self.clocks[-1].live(self.luck.uniform(0.1, 5))
        self.server.resume()


def everything_at_once(path: Path, *, seconds: float) -> str:
    seed, luck = chance()
    often = add(*TWENTY, when="every(milliseconds=200)")
    began = time.monotonic()
    with ExitStack() as stack:
        server, redis = stack.enter_context(served(path, appendfsync="always"))
        proxy = stack.enter_context(Proxy(server.url, luck))

        def start(url: str) -> ClockProcess:
            return stack.enter_context(ClockProcess(path, url, often))

        chaos = Chaos(server, proxy, luck, start)
        while time.monotonic() - began < seconds:
            chaos.clocks[-1].live(luck.uniform(0.1, 2))
            chaos.act()
        for clock in chaos.clocks + chaos.ending:
            clock.kill()
        with start(server.url) as last:
            catch_up(redis, TWENTY)
            assert last.terminate() == 0, last.text()
            found = account(redis, TWENTY)
    deeds = " ".join(f"{name}={count}" for name, count in sorted(chaos.done.items()))
    return found.check(f"seed={seed} {deeds} cuts={proxy.faults.total()}")


@beside_others
def test_everything_at_once_loses_and_doubles_nothing(path: Path) -> str:
    return everything_at_once(path, seconds=20)


@pytest.mark.soak
@beside_others
def test_everything_at_once_for_long_loses_and_doubles_nothing(path: Path) -> str:
    return everything_at_once(path, seconds=300)


# ---- who leads --------------------------------------------------------------------------------


@beside_others
def test_a_frozen_leader_that_wakes_after_its_lease_writes_nothing(path: Path) -> str:
    with (
        served(path) as (server, redis),
        ClockProcess(path, server.url, add(*TWENTY)) as other,
    ):
        other.wait_for("reconcile.done")
        with ClockProcess(path, server.url, add(*TWENTY)) as frozen:
            other.wait_for("clock.standby")
            frozen.wait_for("run.enqueued")
            frozen.signal(signal.SIGSTOP)
            stopped = time.time()
            other.wait_for("clock.leading", times=2)
            took = time.time() - stopped
            assert redis.get(FENCE) == b"3"
            catch_up(redis, TWENTY)
            frozen.signal(signal.SIGCONT)
            frozen.wait_for("clock.standby")
            assert frozen.words("clock.leading", "clock.deposed", "clock.standby") == [
                "clock.leading",
                "clock.deposed",
                "clock.standby",
            ]
            catch_up(redis, TWENTY)
            assert redis.get(FENCE) == b"3"
            assert b".%d." % other.pid in redis.hget(LEASE, "instance")
            last = max(e.fields["fire_time"] for e in frozen.events("run.enqueued"))
            assert last <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stopped))
            assert frozen.terminate() == 0
        assert other.terminate() == 0
        found = account(redis, TWENTY)
    return found.check(f"standby led after {took:.1f} s,")


@beside_others
def test_a_frozen_leader_that_wakes_with_a_run_at_hand_is_refused(path: Path) -> str:
    """Its message is packed, nobody has decided that fire time, only its token is old."""
    rare = add(*TWENTY, when="every(seconds=5)")
    with served(path) as (server, redis), ClockProcess(path, server.url, rare) as frozen:
        frozen.wait_for("run.enqueued")
        frozen.live(5.1 - time.time() % 5)  # from here on the next fire time is staged
        frozen.signal(signal.SIGSTOP)
        with ClockProcess(path, server.url, rare) as other:
            other.wait_for("reconcile.done")
            other.signal(signal.SIGSTOP)
            before = state(redis)
            frozen.live(5.2 - time.time() % 5)
            frozen.signal(signal.SIGCONT)
            frozen.wait_for("clock.standby")
            assert state(redis) == before
            other.signal(signal.SIGCONT)
            catch_up(redis, TWENTY, until=time.time() - 5)
            assert other.terminate() == 0
        assert frozen.terminate() == 0
        return account(redis, TWENTY).check()


@beside_others
def test_a_clock_that_dies_in_its_first_pass_again_and_again_starves_nobody(path: Path) -> str:
    """It is started at once when it died, and killed and started when it only stands by."""
    crash = "import os, rq_clock.clock.process\n"
    crash += "rq_clock.clock.process.ClockProcess._reconcile = lambda *_: os._exit(7)\n"
    died, began = 0, time.monotonic()
    with (
        served(path) as (server, redis),
        ClockProcess(path, server.url, add(*TWENTY)) as steady,
        Pace() as pace,
    ):
        steady.wait_for("run.enqueued")
        while time.monotonic() - began < (20 if died else 90):  # a busy machine starts few
            with ClockProcess(path, server.url, crash + add(*TWENTY)) as crashing:
                seconds = 2 if died else 8
                wait_until(lambda s=seconds: crashing.lived(s), "its end")  # type: ignore[misc]
                died += crashing.process.poll() == 7
        catch_up(redis, TWENTY)
        assert steady.terminate() == 0
        lag = max(ledger(redis, TWENTY).values())
        found = account(redis, TWENTY)
    deposed = len(steady.events("clock.deposed"))
    assert died >= 1
    assert deposed <= 1
    assert lag <= pace.allows(LEASE_SECONDS + 5) * 1000
    return found.check(f"died={died} deposed={deposed} longest lag={lag / 1000:.1f} s,")


@beside_others
def test_a_clock_of_another_owner_stands_by_and_changes_nothing(path: Path) -> str:
    rarely = add("yearly", when="cron('0 0 1 1 *')")
    with served(path) as (server, redis), ExitStack() as stack:

        def start(owner: str, *switches: str) -> ClockProcess:
            clock = ClockProcess(path, server.url, rarely, *switches, RQ_CLOCK_OWNER=owner)
            return stack.enter_context(clock)

        def look() -> None:
            """Let a laptop's clock look at the namespace, and compare all keys."""
            before = state(redis)
            laptop = start("laptop")
            laptop.wait_for("clock.foreign", owner="production", this="laptop")
            assert "--take-over" in laptop.events("clock.foreign")[0].fields["remedy"]
            called = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
            for number in range(1500):
                redis.publish("rq-clock:default:news", f"edited-{number}")
            laptop.live(0.5)
            assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] <= called + 1
            assert laptop.terminate() == 0
            assert laptop.words() == ["clock.foreign", "clock.stopped"]
            assert state(redis) == before

        production = start("production")
        production.wait_for("reconcile.done")
        wait_until(lambda: redis.hget(LEASE, "tick"), "first renewal")
        production.signal(signal.SIGSTOP)  # alive, and writes nothing while we compare
        redis.persist(LEASE)  # however long that takes
        look()
        redis.pexpire(LEASE, LEASE_MS)
        production.signal(signal.SIGCONT)
        production.kill()
        wait_until(lambda: not redis.exists(LEASE), "end of the lease")
        look()

        production = start("production")
        production.wait_for("clock.leading")
        laptop = start("laptop", "--take-over")
        laptop.wait_for("reconcile.done")
        production.wait_for("clock.foreign", owner="laptop")
        assert redis.hget("rq-clock:default:meta", "owner") == b"laptop"
        assert redis.hget(LEASE, "owner") == b"laptop"
    return "no key was changed"
