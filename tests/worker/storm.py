"""Dynos with a worker to kill, the jobs that they run, and the account of what became of these.

The account reads RQ's raw keys and what the jobs themselves have told; nothing of the code that is
judged here helps to judge it.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rq import Queue

from tests.clock.storm import Client, ClockProcess
from tests.helpers import PATIENCE, wait_until
from tests.process import Event, Process
from tests.server import Server
from tests.worker.storm_jobs import work

QUEUES = ("high", "default")
PLACES = "rq-clock:default:workers"
WORKER = "import tests.worker.storm_jobs\nfrom rq_clock import run_worker\nrun_worker()\n"
STOCK = """\
import os
import tests.worker.storm_jobs
from redis import Redis
from rq import Worker
redis = Redis.from_url(os.environ["REDIS_URL"])
Worker(os.environ["WORKER_QUEUES"].split(","), connection=redis).work()
"""


# ---- dynos -------------------------------------------------------------------------------------


def told(redis: Client, job_id: str, word: str) -> int:
    """How many executions of a job have told of their start, or of their end."""
    return sum(
        line.startswith(word.encode()) for line in set(redis.lrange(f"told:{job_id}", 0, -1))
    )


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents before children."""
    children = defaultdict[int, list[int]](list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))
    found, generation = [pid], [pid]
    while generation := [child for parent in generation for child in children[parent]]:
        found += generation
    return found


def dead(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Dyno(Process):
    """A worker in a process and session of its own, with nothing in its environment but `env`."""

    def __init__(self, path: Path, *queues: str, script: str = WORKER, **env: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        number = len(list(path.glob("worker-*.log")))
        source = path / f"worker-{number}.py"
        source.write_text(script)
        env = {"WORKER_QUEUES": ",".join(queues or QUEUES), **env}
        super().__init__(path / f"worker-{number}.log", str(source), env=env, new_session=True)

    @property
    def up(self) -> bool:
        """Whether it serves its queues, or has. A worker that starts during an outage says only
        that Redis is back; the last word is a stock one's."""
        text = self.text()
        return any(word in text for word in ("worker.serving", "store.back", "Listening on"))

    @property
    def name(self) -> str:
        """The worker's, awaited."""
        return self.wait_for("worker.serving").fields["name"]

    def signal_all(self, number: signal.Signals) -> list[int]:
        """Send a signal to every process of the dyno, as a platform does. Who they were."""
        members = family(self.pid)
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return members

    def kill_all(self) -> None:
        """The end that no process of it can delay."""
        self.signal_all(signal.SIGKILL)
        self.process.wait()

    def kill_worker(self) -> None:
        """SIGKILL to the worker alone, and wait for the end of its work horse."""
        members = family(self.pid)
        self.kill()
        wait_until(lambda: all(map(dead, members)), f"the end of {members}")

    def kill(self) -> None:
        """End it, the work horse of a stock worker too."""
        if self.process.poll() is None:
            members = family(self.pid)
            self.process.kill()
            for pid in members[1:] if "Worker(" in self.source_text() else []:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def source_text(self) -> str:
        return self.log.with_suffix(".py").read_text()


@dataclass
class Fleet:
    """Some dynos, restarted as a deploy does it: all processes of the old one get SIGTERM and,
    `kill_after` seconds later, SIGKILL; the new one starts at once."""

    start: Callable[[], Dyno]
    size: int
    workers: int
    """In all of them together."""
    kill_after: float = 3.0
    hurry: bool = False
    """Whether to restart also those that have not started yet."""
    restarts: int = 0
    killed: int = 0
    """How many had to be, because they outlived the grace."""
    running: list[Dyno] = field(default_factory=list)
    ending: list[tuple[Dyno, float]] = field(default_factory=list)
    ended: list[Dyno] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running += [self.start() for _ in range(self.size)]

    @property
    def all(self) -> list[Dyno]:
        return [*self.running, *(dyno for dyno, _ in self.ending), *self.ended]

    def restart(self) -> None:
        """Restart the one that has lived longest."""
        self._let_start(self.running[0])
        old = self.running.pop(0)
        old.signal_all(signal.SIGTERM)
        self.ending.append((old, time.monotonic() + self.kill_after))
        self.running.append(self.start())
        self.restarts += 1

    def crash(self, luck: random.Random) -> None:
        """SIGKILL any of them: all its processes, or only its worker; the new one starts at
        once."""
        victim = self.running.pop(luck.randrange(self.size))
        self._let_start(victim)
        victim.kill_all() if luck.randrange(2) else victim.kill_worker()
        self.ended.append(victim)
        self.running.append(self.start())
        self.restarts += 1
        self.killed += 1

    def _let_start(self, dyno: Dyno) -> None:
        """A machine that starts dynos slower than they are restarted would do nothing else. Some
        have to bear it while they start."""
        if not self.hurry and self.restarts % 8:
            self._await(dyno)

    def _await(self, dyno: Dyno) -> None:
        def up() -> bool:
            self.tend()
            assert dyno.up or dyno.process.poll() is None, dyno.text()[-2000:]
            return dyno.up

        wait_until(up, "a dyno to start", timeout=3 * PATIENCE)

    def tend(self) -> bool:
        """SIGKILL those whose time is over. Whether none is left to wait for."""
        for entry in list(self.ending):
            dyno, deadline = entry
            if dyno.process.poll() is None and time.monotonic() >= deadline:
                dyno.kill_all()
                self.killed += 1
            if dyno.process.poll() is not None:
                self.ending.remove(entry)
                self.ended.append(dyno)
        return not self.ending

    def live(self, seconds: float) -> None:
        """Let them work for so long."""
        until = time.monotonic() + seconds

        def over() -> bool:
            self.tend()
            return time.monotonic() >= until

        wait_until(over, "time", timeout=seconds + PATIENCE)

    def end(self, redis: Client) -> None:
        """Tell all to end, when those that died are forgotten, and see that they do so by
        themselves."""
        wait_until(self.tend, "the end of those that were restarted", timeout=2 * PATIENCE)
        for dyno in self.running:
            self._await(dyno)
        wait_until(lambda: redis.hlen(PLACES) == self.workers, "the end of the dead")
        for dyno in self.running:
            dyno.signal_all(signal.SIGTERM)
        for dyno in self.running:
            assert dyno.ended() == 0, dyno.text()[-4000:]
        for dyno in self.ended:
            early = dyno.process.returncode == -signal.SIGTERM and not dyno.up
            assert dyno.process.returncode in (0, -signal.SIGKILL) or early, dyno.text()[-4000:]

    def events(self, *words: str) -> list[Event]:
        return [event for dyno in self.all for event in dyno.events() if event.word in words]


# ---- jobs and their account ---------------------------------------------------------------------


class Feed:
    """Jobs of 0 to `longest` seconds, most of them short, on the two queues by chance."""

    def __init__(self, redis: Client, luck: random.Random, longest: float = 1.0) -> None:
        self.ids: list[str] = []
        self._redis = redis
        self._luck = luck
        self._longest = longest
        self._queues = [Queue(name, connection=redis) for name in QUEUES]

    def add(self, count: int) -> None:
        for _ in range(count):
            queue, seconds = self._luck.choice(self._queues), self._luck.random() ** 2
            job = queue.enqueue(
                work, seconds * self._longest, job_id=f"job{len(self.ids):04}", result_ttl=-1
            )
            self.ids.append(job.id)


def unfinished(redis: Client, ids: list[str]) -> int:
    """How many of these jobs have neither finished nor failed."""
    pipe = redis.pipeline(transaction=False)
    for id in ids:
        pipe.hget(f"rq:job:{id}", "status")
    return sum(status not in (b"finished", b"failed") for status in pipe.execute())


@dataclass
class Books:
    """What became of some jobs, by RQ's books and by what they have told."""

    jobs: int = 0
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Not finished, and nowhere from where they could still be run."""
    stuck: list[str] = field(default_factory=list)
    """Not finished, and somewhere."""
    undone: list[str] = field(default_factory=list)
    """None of their executions has come to its end."""
    unreasoned: list[str] = field(default_factory=list)
    """Started more often than they were interrupted, and once."""
    miscounted: list[str] = field(default_factory=list)
    """Finished with not exactly one result."""
    left: list[str] = field(default_factory=list)
    """Keys of queues, registries and workers that should be empty and gone."""
    started_twice: int = 0
    done_twice: int = 0
    interruptions: int = 0

    def __str__(self) -> str:
        finished = self.jobs - len(self.failed) - len(self.lost) - len(self.stuck)
        return (
            f"jobs={self.jobs} finished={finished} failed={len(self.failed)} "
            f"lost={len(self.lost)} stuck={len(self.stuck)} never_done={len(self.undone)} "
            f"left={len(self.left)} "
            f"interruptions={self.interruptions} started_twice={self.started_twice} "
            f"done_twice={self.done_twice}"
        )

    def check(self, note: str = "") -> str:
        """Fails unless every job is finished, done, and gone from everywhere; else the figures,
        after `note`."""
        faults = {k: v[:5] for k, v in vars(self).items() if isinstance(v, list) and v}
        assert not faults, f"{note} {self}: {faults}"
        assert self.jobs, f"{note} there were no jobs"
        return f"{note} {self}"


def books(redis: Client, ids: list[str]) -> Books:
    found = Books(jobs=len(ids))
    reachable = _reachable(redis)
    for id in ids:
        fields = ("status", "rq_clock_interruptions", "rq_clock_deaths")
        status, *counts = redis.hmget(f"rq:job:{id}", fields)
        starts, ends = told(redis, id, "start"), told(redis, id, "end")
        results = redis.xlen(f"rq:results:{id}")
        interruptions = sum(int(count or 0) for count in counts)
        kinds = {
            "failed": status == b"failed",
            "lost": status not in (b"finished", b"failed") and id not in reachable,
            "stuck": status not in (b"finished", b"failed") and id in reachable,
            "undone": not ends,
            "unreasoned": starts > 1 + interruptions,
            "miscounted": status == b"finished" and results != 1,
        }
        for kind in (kind for kind, applies in kinds.items() if applies):
            getattr(found, kind).append(id)
        found.interruptions += interruptions
        found.started_twice += starts > 1
        found.done_twice += ends > 1
    found.left = [key.decode() for key in _leftovers(redis)]
    return found


def _reachable(redis: Client) -> set[str]:
    """Jobs that some worker, scheduler or cleaning could still come upon."""
    found: set[bytes] = set()
    for key in redis.scan_iter("rq:queue:*", 10_000, "list"):
        found |= set(redis.lrange(key, 0, -1))
    for pattern in ("rq:wip:*", "rq:scheduled:*", "rq:deferred:*"):
        for key in redis.scan_iter(pattern, 10_000, "zset"):
            found |= {member.partition(b":")[0] for member in redis.zrange(key, 0, -1)}
    return {id.decode() for id in found}


def _leftovers(redis: Client) -> Iterator[bytes]:
    lists = ("rq:queue:*", "rq:wip:*", "rq:execution:*", "rq:executions:*")
    registries = ("rq:failed:*", "rq:scheduled:*", "rq:deferred:*", "rq:canceled:*")
    for pattern in (*lists, *registries, "rq:workers*", PLACES):
        yield from redis.scan_iter(pattern, 10_000)


def reasons(fleet: Fleet, *others: Process) -> str:
    """How often the logs say that an execution ended before its job did, and why."""
    events = fleet.events("job.ended", "run.ended", "worker.dead", "worker.gone")
    events += [event for other in others for event in other.events("worker.dead")]
    why: Counter[str] = Counter()
    for event in events:
        if event.word in ("job.ended", "run.ended"):
            if event.fields["state"] != "ok":
                error = event.fields.get("error", "")
                why[f"{event.fields['state']} ({error})"] += 1
        elif event.fields.get("job", "none") != "none":
            why[event.word] += 1
    return ", ".join(f"{count} × {text}" for text, count in why.most_common()) or "none"


def held(redis: Client, dyno: Dyno) -> str:
    """The job that a dyno's worker holds, or "": by what Redis has of its place."""
    words: list[str] = redis.hget(PLACES, dyno.name).decode().split(" ")
    return words[2] if len(words) > 2 else ""


def spread(seconds: list[float]) -> str:
    return (
        f"n={len(seconds)} min={min(seconds):.1f} s median={statistics.median(seconds):.1f} s "
        f"max={max(seconds):.1f} s"
    )


# ---- where it happens ---------------------------------------------------------------------------


@dataclass
class Place:
    """A server of the test's own, and what is started beside it; all of it ends with the block."""

    path: Path
    server: Server
    redis: Client
    stack: ExitStack

    def dyno(self, *queues: str, script: str = WORKER, **env: str) -> Dyno:
        env = {"REDIS_URL": self.server.url, "STORM_REDIS_URL": self.server.url, **env}
        return self.stack.enter_context(Dyno(self.path, *queues, script=script, **env))

    def clock(self, script: str) -> ClockProcess:
        return self.stack.enter_context(ClockProcess(self.path, self.server.url, script))
