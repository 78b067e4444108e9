"""Workers that are restarted, killed, frozen and cut off while jobs run: a restart is no failure.

Each dyno is a process of its own with a worker and its work horse; each server is the test's own.
Every job tells Redis of its start and its end by a connection of its own, and the account compares
that with RQ's books. The seed of every chance is printed; STORM_SEED=… repeats it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from rq import Callback, Queue, Retry

from rq_clock.jobs.reaper import SILENCE
from tests.beside import beside_others, storm
from tests.clock.storm import Client, chance, client
from tests.helpers import PATIENCE, wait_until
from tests.proxy import Proxy
from tests.server import Server, free_url
from tests.worker.storm import (
    PLACES,
    QUEUES,
    STOCK,
    Books,
    Dyno,
    Feed,
    Fleet,
    Place,
    books,
    dead,
    family,
    held,
    reasons,
    spread,
    told,
    unfinished,
)
from tests.worker.storm_jobs import failed, note, work, work_until_open

pytestmark = pytest.mark.process

AT_ONCE = 4
"""Tests that run at the same time; more would starve each other."""
GRACE = {"RQ_CLOCK_GRACE_SECONDS": "2"}
OFTEN = (
    "clock.add('often', every(milliseconds=500), 'tests.worker.storm_jobs.work', args=[0.2], "
    "catch_up='all', overlap='allow', result_ttl=-1)\n"
)
SIX = tuple(f"queue{n}" for n in range(6))


@contextmanager
def place(path: Path, **directives: str) -> Iterator[Place]:
    server = Server(path / "server", free_url(), **directives)
    with server, client(server.url) as redis, ExitStack() as stack:
        yield Place(path, server, redis, stack)


def finish(redis: Client, fleet: Fleet, ids: list[str], seconds: float = PATIENCE) -> float:
    """Let the dynos work until every job is finished. How many seconds that took."""
    began = time.monotonic()

    def done() -> bool:
        fleet.tend()
        return not unfinished(redis, ids)

    try:
        wait_until(done, "the end of every job", timeout=seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; {books(redis, ids)}; {reasons(fleet)}") from None
    return time.monotonic() - began


# ---- deploys ----------------------------------------------------------------------------------


def deploys(
    path: Path,
    *,
    jobs: int,
    seconds: float,
    outages: int = 0,
    longest: float = 1,
    processes: int = 1,
) -> str:
    """Restart a dyno every half second while jobs come in; there are four workers, `processes` in
    a dyno. With `outages`, the server is killed so many times meanwhile; without, every worker
    has to end by itself."""
    seed, luck = chance()
    env = {"RQ_CLOCK_MAX_INTERRUPTIONS": "100", "WORKER_CONCURRENCY": str(processes)}
    with place(path) as here:
        feed = Feed(here.redis, luck, longest)
        fleet = Fleet(lambda: here.dyno(**GRACE, **env), 4 // processes, workers=4)
        fleet.kill_after = 3 if outages else 25
        steps = int(seconds * 2)
        strikes = {steps * (2 * n + 1) // (2 * outages) for n in range(outages)}
        for step in range(steps):
            feed.add(jobs * (step + 1) // steps - len(feed.ids))
            fleet.live(0.5)
            fleet.restart()
            if step in strikes:
                here.server.kill()
                fleet.hurry = True
                fleet.live(luck.uniform(0, 1.5))
                fleet.restart()
                fleet.live(luck.uniform(0, 1.5))
                fleet.hurry = False
                here.server.start()
        took = finish(here.redis, fleet, feed.ids)
        fleet.end(here.redis)
        found = books(here.redis, feed.ids)
    figures = f"restarts={fleet.restarts} killed={fleet.killed} outages={outages}"
    assert outages or not fleet.killed, figures
    why = reasons(fleet)
    return found.check(f"seed={seed} {figures} drained in {took:.1f} s,") + f"\n  why: {why}"


def bad_network(path: Path, *, jobs: int, seconds: float) -> str:
    """Deploys while connections are cut, replies get lost and requests arrive late."""
    seed, luck = chance()
    with place(path) as here, Proxy(here.server.url, luck) as proxy:
        feed = Feed(here.redis, luck)
        fleet = Fleet(lambda: here.dyno(REDIS_URL=proxy.url, **GRACE), 4, workers=4)
        for step in range(int(seconds * 2)):
            feed.add(jobs * (step + 1) // int(seconds * 2) - len(feed.ids))
            fleet.live(0.25)
            proxy.strike()
            fleet.live(0.25)
            fleet.restart()
        proxy.calm = True
        took = finish(here.redis, fleet, feed.ids)
        fleet.end(here.redis)
        found = books(here.redis, feed.ids)
        # a registration that came late, after its worker's end: RQ forgets it after some minutes,
        # the reaper of another worker after some seconds
        found.left = [key for key in found.left if not key.startswith(("rq:workers", PLACES))]
    faults = " ".join(f"{kind}={count}" for kind, count in sorted(proxy.faults.items()))
    figures = f"seed={seed} restarts={fleet.restarts} killed={fleet.killed} {faults}"
    why = reasons(fleet)
    return found.check(f"{figures} drained in {took:.1f} s,") + f"\n  why: {why}"


def deploys_of_stock(path: Path, *, jobs: int, seconds: float) -> str:
    """The same with RQ's own worker. It promises nothing, so nothing is checked."""
    seed, luck = chance()
    with place(path) as here:
        feed = Feed(here.redis, luck)
        fleet = Fleet(lambda: here.dyno(script=STOCK), 4, workers=4)
        steps = int(seconds * 2)
        for step in range(steps):
            feed.add(jobs * (step + 1) // steps - len(feed.ids))
            fleet.live(0.5)
            fleet.restart()
        queues = [f"rq:queue:{name}" for name in QUEUES] + [f"rq:wip:{name}" for name in QUEUES]
        wait_until(lambda: fleet.tend() and not here.redis.exists(*queues), "no more jobs")
        found: Books = books(here.redis, feed.ids)
    return f"stock rq.Worker: seed={seed} restarts={fleet.restarts} killed={fleet.killed} {found}"


@storm
def test_a_storm_of_deploys_fails_loses_and_repeats_no_job(path: Path) -> str:
    return deploys(path, jobs=60, seconds=5)


@storm
def test_deploys_while_jobs_outlast_the_grace_finish_every_job(path: Path) -> str:
    return deploys(path, jobs=25, seconds=6, longest=3.5)


@beside_others
def test_workers_whose_jobs_outlast_the_grace_end_by_themselves(path: Path) -> str:
    queues = [f"queue{n}" for n in range(8)]
    with place(path) as here:
        dynos = [dyno for dyno, _ in held_jobs(here, *queues, RQ_CLOCK_GRACE_SECONDS="1")]
        began = time.monotonic()
        for dyno in dynos:
            dyno.signal_all(signal.SIGTERM)
        keys = [f"rq:queue:{queue}" for queue in queues]
        wait_until(lambda: here.redis.exists(*keys) == len(keys), "the jobs on a queue")
        back = time.monotonic() - began
        for dyno in dynos:
            assert dyno.ended(max(0.1, began + 10 - time.monotonic())) == 0
        took = time.monotonic() - began
        assert not here.redis.exists(PLACES)
    return f"after SIGTERM, grace 1 s: jobs on their queues {back:.1f} s, all ended {took:.1f} s"


@storm
def test_deploys_of_dynos_with_two_workers_lose_no_job(path: Path) -> str:
    return deploys(path, jobs=25, seconds=5, longest=2.5, processes=2)


@storm
def test_deploys_while_redis_is_restarted_lose_no_job(path: Path) -> str:
    return deploys(path, jobs=50, seconds=5, outages=2)


@storm
def test_deploys_on_a_bad_network_lose_no_job(path: Path) -> str:
    return bad_network(path, jobs=50, seconds=5)


@pytest.mark.soak
@storm
def test_long_deploys_on_a_bad_network_lose_no_job(path: Path) -> str:
    return bad_network(path, jobs=600, seconds=60)


@pytest.mark.soak
@storm
def test_a_long_storm_of_deploys_fails_loses_and_repeats_no_job(path: Path) -> str:
    ours = deploys(path / "ours", jobs=960, seconds=60)
    return f"{ours}\n{deploys_of_stock(path / 'stock', jobs=960, seconds=60)}"


@pytest.mark.soak
@storm
def test_long_deploys_while_jobs_outlast_the_grace_finish_every_job(path: Path) -> str:
    return deploys(path, jobs=180, seconds=60, longest=3.5)


@pytest.mark.soak
@storm
def test_long_deploys_while_redis_is_restarted_lose_no_job(path: Path) -> str:
    return deploys(path, jobs=600, seconds=60, outages=9)


class Chaos:
    """Four dynos behind a bad network before a server that comes and goes; `act` does one thing to
    one of them, or to all."""

    def __init__(self, here: Place, proxy: Proxy, luck: random.Random) -> None:
        self.here = here
        self.proxy = proxy
        self.luck = luck
        self.done: Counter[str] = Counter()
        env = {**GRACE, "RQ_CLOCK_MAX_INTERRUPTIONS": "1000"}
        self.fleet = Fleet(lambda: here.dyno(REDIS_URL=proxy.url, **env), 4, workers=4, hurry=True)

    def act(self) -> None:
        deeds = [self.deploy, self.deploy, self.crash, self.freeze, self.strike, self.strike]
        deed = self.luck.choice([*deeds, self.restart, self.pause])
        deed()
        self.done[deed.__name__] += 1

    def deploy(self) -> None:
        self.fleet.restart()

    def crash(self) -> None:
        self.fleet.crash(self.luck)

    def freeze(self) -> None:
        """Stop the worker of one dyno or all its processes, and let all others go on, who may
        have been stopped for long."""
        self.thaw()
        dyno = self.luck.choice(self.fleet.running)
        for pid in family(dyno.pid)[: self.luck.choice([1, None])]:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for dyno in self.fleet.running:
            dyno.signal_all(signal.SIGCONT)

    def strike(self) -> None:
        self.proxy.strike()

    def restart(self) -> None:
        self.here.server.kill()
        self.fleet.live(self.luck.uniform(0, 2))
        self.here.server.start()

    def pause(self) -> None:
        self.here.server.pause()
        self.fleet.live(self.luck.uniform(0.1, 5))
        self.here.server.resume()


def everything_at_once(path: Path, *, jobs: int, seconds: float) -> str:
    seed, luck = chance()
    with place(path) as here, Proxy(here.server.url, luck) as proxy:
        feed = Feed(here.redis, luck)
        chaos = Chaos(here, proxy, luck)
        began = time.monotonic()
        while (past := time.monotonic() - began) < seconds:
            feed.add(int(jobs * past / seconds) - len(feed.ids))
            chaos.fleet.live(luck.uniform(0.1, 1.5))
            chaos.act()
        chaos.thaw()
        proxy.calm = True
        took = finish(here.redis, chaos.fleet, feed.ids)
        chaos.fleet.end(here.redis)
        found = books(here.redis, feed.ids)
        found.left = [key for key in found.left if not key.startswith("rq:workers")]
    deeds = " ".join(f"{name}={count}" for name, count in sorted(chaos.done.items()))
    figures = f"seed={seed} {deeds} cuts={proxy.faults.total()} drained in {took:.1f} s,"
    return found.check(figures) + f"\n  why: {reasons(chaos.fleet)}"


@pytest.mark.soak
@storm
def test_everything_at_once_for_long_loses_no_job(path: Path) -> str:
    return everything_at_once(path, jobs=500, seconds=120)


# ---- deaths -----------------------------------------------------------------------------------


def crashes(path: Path, *, jobs: int, seconds: float, clock: bool) -> str:
    """SIGKILL one of four dynos, or only its worker, every second while jobs come in."""
    seed, luck = chance()
    with place(path) as here:
        clocks = [here.clock(OFTEN)] if clock else []
        feed = Feed(here.redis, luck)
        env = {**GRACE, "RQ_CLOCK_MAX_DEATHS": "100"}  # chance may meet one job three times
        fleet = Fleet(lambda: here.dyno(**env), 4, workers=4)
        for step in range(int(seconds)):
            feed.add(jobs * (step + 1) // int(seconds) - len(feed.ids))
            fleet.live(luck.uniform(0.5, 1.5))
            fleet.crash(luck)
        took = finish(here.redis, fleet, feed.ids + runs_of(here.redis, "often"))
        for each in clocks:
            assert each.terminate() == 0, each.text()[-4000:]
        ids = feed.ids + runs_of(here.redis, "often")
        finish(here.redis, fleet, ids)
        fleet.end(here.redis)
        found = books(here.redis, ids)
        recorded = ledger_agrees(here.redis, "often") if clock else ""
    figures = f"seed={seed} crashes={fleet.killed} all finished {took:.1f} s after the last one,"
    return found.check(figures) + f"\n  why: {reasons(fleet, *clocks)}{recorded}"


def runs_of(redis: Client, schedule: str) -> list[str]:
    """The job ids of a schedule's runs."""
    keys = redis.scan_iter(f"rq:job:default-{schedule}-*", 10_000, "hash")
    return sorted(key.decode().removeprefix("rq:job:") for key in keys)


def attempts(redis: Client, schedule: str) -> dict[str, list[str]]:
    """Job id → how each of its executions ended, oldest first, as the stream of runs has it."""
    found: dict[str, list[str]] = {}
    for _, entry in redis.xrange("rq-clock:default:runs"):
        if entry[b"schedule"].decode() == schedule:
            _, _, _, state, *_ = entry[b"entry"].decode().split(" ")
            found.setdefault(entry[b"job"].decode(), []).append(state)
    return found


def ledger_agrees(redis: Client, schedule: str) -> str:
    """Fails unless each run stands in the ledger as a success, at the attempt that the stream of
    runs and the job's own count of interruptions tell."""
    streamed = attempts(redis, schedule)
    ids = runs_of(redis, schedule)
    assert sorted(streamed) == ids
    entries = [
        e.decode().split(" ") for e in redis.lrange(f"rq-clock:default:ledger:{schedule}", 0, -1)
    ]
    booked = {f"default-{schedule}-{e[1]}": (e[3], int(e[4])) for e in entries}
    for id in ids:
        counts = redis.hmget(f"rq:job:{id}", "rq_clock_interruptions", "rq_clock_deaths")
        interruptions = sum(int(count or 0) for count in counts)
        assert booked[id] == ("ok", 1 + interruptions), id
        assert len(streamed[id]) == 1 + interruptions, streamed[id]
        assert set(streamed[id][:-1]) <= {"interrupted", "lost"}, streamed[id]
    again = sum(len(states) > 1 for states in streamed.values())
    return f"\n  runs={len(ids)} of them interrupted={again}"


@storm
def test_kills_while_no_clock_runs_lose_no_job(path: Path) -> str:
    return crashes(path, jobs=60, seconds=10, clock=False)


@storm
def test_kills_while_a_clock_leads_lose_no_job(path: Path) -> str:
    return crashes(path, jobs=60, seconds=10, clock=True)


@pytest.mark.soak
@storm
def test_a_long_storm_of_kills_while_no_clock_runs_loses_no_job(path: Path) -> str:
    return crashes(path, jobs=300, seconds=60, clock=False)


@pytest.mark.soak
@storm
def test_a_long_storm_of_kills_while_a_clock_leads_loses_no_job(path: Path) -> str:
    return crashes(path, jobs=300, seconds=60, clock=True)


@beside_others
def test_a_job_deleted_under_a_worker_that_dies_stops_nobody(path: Path) -> str:
    with place(path) as here:
        other = here.dyno("default")
        wait_until(lambda: caretaker(here.redis) == other.name, "a caretaker")
        [(dyno, id)] = held_jobs(here, "deleted")
        name = dyno.name
        here.redis.delete(f"rq:job:{id}")
        dyno.kill_all()
        other.wait_for("worker.dead", worker=name)
        job = Queue("default", connection=here.redis).enqueue(work, 0, job_id="job", result_ttl=-1)
        other.wait_for("job.ended", job=job.id, state="ok")
        assert other.terminate() == 0
        assert not other.events("store.waiting")
        return books(here.redis, [job.id]).check()


def held_jobs(here: Place, *queues: str, **env: str) -> list[tuple[Dyno, str]]:
    """Dynos that run a job each, of a queue that nobody else serves."""
    found = []
    for queue in queues:
        dyno = here.dyno(queue, **env)
        Queue(queue, connection=here.redis).enqueue(work_until_open, job_id=queue)
        wait_until(lambda dyno=dyno: held(here.redis, dyno), f"a job of {dyno.name}")  # type: ignore[misc]
        found.append((dyno, queue))
    return found


def back_on_queue(here: Place, victims: list[tuple[Dyno, str]]) -> list[float]:
    """Kill these dynos one after another. How many seconds it took until each one's job was back
    on its queue."""
    killed: dict[str, float] = {}
    back: dict[str, float] = {}

    def look() -> bool:
        for _, queue in victims:
            if queue in killed and queue not in back and here.redis.llen(f"rq:queue:{queue}"):
                back[queue] = time.monotonic() - killed[queue]
        due = began + 0.73 * len(killed)
        if len(killed) < len(victims) and time.monotonic() >= due:
            dyno, queue = victims[len(killed)]
            dyno.kill_all()
            killed[queue] = time.monotonic()
        return len(back) == len(victims)

    began = time.monotonic()
    wait_until(look, "every job back on its queue")
    return list(back.values())


@beside_others
def test_the_job_of_a_killed_worker_is_back_on_its_queue_soon(path: Path) -> str:
    figures = []
    with place(path) as here:
        carer = here.dyno("none")
        wait_until(lambda: caretaker(here.redis) == carer.name, "a caretaker")
        took = back_on_queue(here, held_jobs(here, *SIX))
        figures.append(f"another worker takes care: {spread(took)}")
        assert max(took) < SILENCE + 10
        [(dyno, queue)] = held_jobs(here, "seventh")
        carer.terminate()
        wait_until(lambda: caretaker(here.redis) == dyno.name, "a caretaker")
        here.dyno("none").wait_for("worker.serving")
        took = back_on_queue(here, [(dyno, queue)])
        figures.append(f"the caretaker was killed: {spread(took)}")
        assert max(took) < SILENCE + 16
    with place(path / "clock") as here:
        here.clock(OFTEN).wait_for("run.enqueued")
        took = back_on_queue(here, held_jobs(here, *SIX))
        figures.append(f"a clock takes care: {spread(took)}")
        assert max(took) < SILENCE + 10
    return "from SIGKILL to the queue:\n  " + "\n  ".join(figures)


def caretaker(redis: Client) -> str:
    return (redis.get("rq-clock:default:reaper") or b"").decode()


# ---- one job ----------------------------------------------------------------------------------


def three_restarts(path: Path, *, seconds: float, pause: float) -> str:
    """Two jobs that take `seconds`, one of a schedule and one of nobody's, under three restarts
    that come `pause` after each start and leave them a second."""
    with place(path) as here:
        clock = here.clock(  # it must lead 10 s after it has read this, or the instant is past
            "from datetime import UTC, datetime, timedelta\nfrom rq_clock import once\n"
            "clock.add('long', once(datetime.now(UTC) + timedelta(seconds=10)), "
            f"'tests.worker.storm_jobs.work', args=[{seconds}], retries=2, timeout=600)\n"
        )
        fleet = Fleet(lambda: here.dyno(RQ_CLOCK_GRACE_SECONDS="1"), 2, workers=2)
        [run] = wait_until(lambda: runs_of(here.redis, "long"), "the run")
        mine = Queue("default", connection=here.redis).enqueue(
            work,
            seconds,
            job_id="mine",
            retry=Retry(max=2, interval=60),
            on_failure=Callback(failed),
            job_timeout=600,
            result_ttl=-1,
        )
        ids = [mine.id, run]
        for restart in (1, 2, 3):
            wait_until(
                lambda n=restart: all(told(here.redis, id, "start") == n for id in ids),  # type: ignore[misc]
                f"start {restart} of both",
            )
            fleet.live(pause)
            fleet.restart()
            fleet.restart()
        took = finish(here.redis, fleet, ids, PATIENCE + seconds)
        fleet.end(here.redis)
        assert clock.terminate() == 0
        for id in ids:
            fields = here.redis.hgetall(f"rq:job:{id}")
            assert fields[b"rq_clock_interruptions"] == b"3"
            assert fields[b"rq_clock_attempt"] == b"4"
            assert fields[b"retries_left"] == b"2"
            assert told(here.redis, id, "start") == 4
            assert told(here.redis, id, "end") == 1
        assert not here.redis.exists("callbacks")
        assert attempts(here.redis, "long") == {run: ["interrupted"] * 3 + ["ok"]}
        ledger_agrees(here.redis, "long")
        found = books(here.redis, ids)
    return found.check(f"restarts=3, finished {took:.1f} s after the last one,")


@beside_others
def test_a_job_under_three_restarts_finishes_with_its_retries_untouched(path: Path) -> str:
    return three_restarts(path, seconds=6, pause=1)


@pytest.mark.soak
@beside_others
def test_a_long_job_under_three_restarts_finishes_with_its_retries_untouched(path: Path) -> str:
    return three_restarts(path, seconds=60, pause=20)


def frozen(path: Path, *, ends_while_frozen: bool, whole: bool = False) -> str:
    """Freeze a worker while its job runs until the job is another's, and let it go on."""
    with place(path) as here:
        first = here.dyno("default", "first")
        job = Queue("default", connection=here.redis).enqueue(
            work_until_open, job_id="frozen", result_ttl=-1
        )
        wait_until(lambda: told(here.redis, job.id, "start"), "its start")
        second = here.dyno("default")
        second.wait_for("worker.serving")
        members = family(first.pid) if whole else [first.pid]
        horse = family(first.pid)[1]
        for pid in members:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        if ends_while_frozen:
            here.redis.set("gate", 1)
        wait_until(lambda: told(here.redis, job.id, "start") == 2, "its second start")
        took = time.monotonic() - began
        if ends_while_frozen:
            second.wait_for("job.ended", state="ok")
        for pid in reversed(members):  # the worker last: it kills its work horse
            os.kill(pid, signal.SIGCONT)
        first.wait_for("worker.gone", job=job.id)
        wait_until(lambda: dead(horse), "the end of its work horse")
        here.redis.set("gate", 1)
        second.wait_for("job.ended", state="ok")
        other = Queue("first", connection=here.redis).enqueue(
            work, 0.1, job_id="other", result_ttl=-1
        )
        first.wait_for("job.ended", job=other.id, state="ok")
        assert not [e for e in first.events("job.ended") if e.fields["job"] == job.id]
        ((_, result),) = here.redis.xrange(f"rq:results:{job.id}")
        assert result[b"worker_name"].decode() == second.name
        assert here.redis.hget(f"rq:job:{job.id}", "worker_name").decode() == second.name
        assert told(here.redis, job.id, "end") == (2 if ends_while_frozen and not whole else 1)
        for dyno in (first, second):
            assert dyno.terminate() == 0
        found = books(here.redis, [job.id, other.id])
    return found.check(f"begun anew {took:.1f} s after the freeze,")


@beside_others
def test_a_frozen_workers_result_is_discarded_when_another_took_its_job(path: Path) -> str:
    return frozen(path, ends_while_frozen=True)


@beside_others
def test_a_frozen_worker_ends_its_job_when_that_runs_elsewhere(path: Path) -> str:
    return frozen(path, ends_while_frozen=False)


@beside_others
def test_a_frozen_dyno_ends_its_job_when_that_runs_elsewhere(path: Path) -> str:
    return frozen(path, ends_while_frozen=False, whole=True)


# ---- Redis is away ------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """What a process has used of the CPU."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def outage(path: Path, *, seconds: float, sigterm: bool = False) -> str:
    """Let a job end while Redis is away for so long."""
    lines = path / "lines"
    with place(path) as here:
        dyno = here.dyno(RQ_CLOCK_GRACE_SECONDS="4")
        job = Queue("default", connection=here.redis).enqueue(
            note, str(lines), 1.5, job_id="job", result_ttl=-1, job_timeout=2
        )
        wait_until(lines.exists, "its start")
        here.server.kill()
        began, used = time.monotonic(), cpu_seconds(dyno.pid)
        if sigterm:
            dyno.signal_all(signal.SIGTERM)
        wait_until(lambda: lines.read_text() == "start\nend\n", "its end")
        assert time.monotonic() - began < seconds
        wait_until(lambda: time.monotonic() - began >= seconds, f"{seconds} s")
        used = cpu_seconds(dyno.pid) - used
        assert used < 0.5, used
        here.server.start()
        back = time.monotonic()
        wait_until(lambda: not unfinished(here.redis, [job.id]), "its end in the books")
        took = time.monotonic() - back
        if not sigterm:  # else it may be over before it counts on Redis again
            dyno.wait_for("store.back")
        assert (dyno.ended() if sigterm else dyno.terminate()) == 0
        said = dyno.words("store.waiting", "store.back")
        assert said[:1] == ["store.waiting"]
        assert said[1:] in ([["store.back"], []] if sigterm else [["store.back"]])
        assert lines.read_text() == "start\nend\n"
        assert here.redis.xlen(f"rq:results:{job.id}") == 1
        assert not books(here.redis, [job.id]).left
    return f"stored {took:.1f} s after Redis was back, CPU meanwhile {used:.2f} s"


@beside_others
def test_what_ends_during_an_outage_is_stored_when_redis_is_back(path: Path) -> str:
    return outage(path, seconds=5)


@beside_others
def test_what_ends_during_an_outage_longer_than_its_timeout_is_stored(path: Path) -> str:
    return outage(path, seconds=9)


@beside_others
def test_a_stopping_worker_stores_the_end_of_a_job_during_an_outage(path: Path) -> str:
    return outage(path, seconds=5, sigterm=True)
