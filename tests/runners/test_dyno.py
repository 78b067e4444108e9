"""One-off dynos as a worker runs them: real workers and dynos, and a Platform API that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError
from rq import Retry
from rq.command import send_stop_job_command
from rq.job import Job

from rq_clock.model.ledger import Enqueued
from rq_clock.model.targets import Dyno, dyno, from_spec
from rq_clock.runners import dyno as runner
from rq_clock.store.store import Store
from rq_clock.timing.instants import iso
from tests.clock.storm import ClockProcess, catch_up, chance
from tests.helpers import Events, wait_until
from tests.process import Process
from tests.runners.lab import JOB_ID, enqueue, lines, work
from tests.runners.platform_api import KEY, LOST, Platform
from tests.server import Server

pytestmark = pytest.mark.process

RUN = f"{JOB_ID}.r0"
Start = Callable[..., Process]
RECORD = f"rq-clock:default:dyno:{RUN}"


@pytest.fixture
def platform(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr(runner, "SHORTEST_PAUSE", 0.05)
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.2)
    with Platform(tmp_path, {"REDIS_URL": redis_url}) as platform:
        for name, value in {"REDIS_URL": redis_url, **platform.settings}.items():
            monkeypatch.setenv(name, value)
        yield platform


def ended(connection: Redis, target: Dyno, **options: Any) -> Job:
    job: Job = enqueue(connection, target, **options)
    work(connection)
    job.refresh()  # type: ignore[no-untyped-call]
    return job


def error_of(job: Job) -> str:
    result = job.latest_result()
    assert result
    assert result.exc_string
    return result.exc_string.strip().splitlines()[-1]


class TestDeclaration:
    def test_it_is_stored_and_read_without_its_defaults(self) -> None:
        target = dyno("python report.py", size="standard-2x", timeout=60, env={"A": "1"})
        assert from_spec("dyno", target.spec()) == target
        assert dyno("x").spec() == {"shell": "x"}
        assert target.describe() == "standard-2x $ python report.py"
        assert dyno("x", env={"API_KEY": "hush"}).shown()["env"] == {"API_KEY": "****"}
        assert "hush" not in repr(dyno("x", env={"API_KEY": "hush"}))

    def test_the_timeout_of_its_job_leaves_time_to_start_and_to_stop_it(self) -> None:
        assert dyno("x", timeout=60).call(None)["timeout"] == 60 + 10 + 300 + 60
        assert dyno("x").call(None)["kwargs"]["timeout"] == 3600
        assert dyno("x").call(-1)["timeout"] == -1

    @pytest.mark.parametrize(
        ("target", "text"),
        [
            (dyno(" "), "dyno.shell: expected a command line, as 'df -h /', got ' '"),
            (dyno("x", size="huge one"), "dyno.size: expected a size such as 'standard-2x'"),
            (dyno("x", timeout=-1), "dyno.timeout: expected a dyno's timeout in seconds, above 0"),
            (dyno("x", env={"1": "x"}), "dyno.env: expected a name as a key in env"),
        ],
    )
    def test_each_fault_names_its_field(self, target: Dyno, text: str) -> None:
        [fault] = target.faults()
        assert f"{fault.field}: {fault.text}".startswith(text)


class TestEnd:
    def test_exit_code_zero_is_success_with_what_it_printed(
        self, platform: Platform, connection: Redis, capfd: pytest.CaptureFixture[str],
        events: Events,
    ) -> None:  # fmt: skip
        line = 'echo "one $A $RQ_CLOCK_SCHEDULE"; echo two >&2'
        job = ended(connection, dyno(line, size="standard-2x", timeout=60, env={"A": "1"}))
        assert job.is_finished, job.latest_result()
        assert capfd.readouterr().out.splitlines()[:1] == ["one 1 nightly"]
        [started] = platform.dynos
        body = started.body
        assert (body["size"], body["time_to_live"], body["attach"]) == ("standard-2x", 420, False)
        assert body["env"]["A"] == "1"
        assert body["command"].startswith(f"python -m rq_clock exec {RUN} -- ")
        assert events("dyno.ended")[0]["exit"] == 0

    def test_another_exit_code_is_a_failure_with_its_last_words(
        self, platform: Platform, connection: Redis
    ) -> None:
        job = ended(connection, dyno("echo no disk >&2; exit 3"))
        assert job.is_failed
        assert error_of(job).endswith("CommandFailed: exit code 3; last line: no disk")

    def test_after_its_time_it_is_stopped(self, platform: Platform, connection: Redis) -> None:
        job = ended(connection, dyno("echo begun; sleep 600", timeout=0.5))
        assert "CommandTimedOut: ended by SIGTERM after 0.5 s, its timeout" in error_of(job)
        assert platform.count(r"POST .*/run.1/actions/stop") == 1
        wait_until(lambda: not platform.dynos[0].lives, "the end of the dyno")

    def test_one_that_never_begins_is_stopped(
        self, platform: Platform, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "DYNO_START_SECONDS", 0.5)
        platform.hidden = True
        job = ended(connection, dyno("true"))
        assert "lost: run.1 vanished before it began" in error_of(job)
        assert not platform.dynos[0].lives

    def test_one_that_ignores_the_stop_ends_the_wait(
        self, platform: Platform, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "DYNO_STOP_SECONDS", 0.5)
        for _ in range(3):
            platform.fail("POST", "/actions/stop", 503)
        job = ended(connection, dyno("sleep 600", timeout=0.3))
        assert "CommandTimedOut: run.1 was stopped after its time" in error_of(job)

    def test_one_that_vanishes_is_lost_and_the_platforms_log_says_why(
        self, platform: Platform, connection: Redis, events: Events
    ) -> None:
        enqueue(connection, dyno("echo begun; sleep 600"))
        job = Job.fetch(JOB_ID, connection=connection)
        wait_for_begin = _Vanishing(platform, connection)
        wait_for_begin.start()
        work(connection)
        job.refresh()  # type: ignore[no-untyped-call]
        assert "lost: run.1 vanished after it had begun" in error_of(job)
        assert "command not found" in error_of(job)
        assert events("dyno.lost")

    def test_much_output_is_cut_and_never_delays_the_command(
        self, platform: Platform, connection: Redis, capfd: pytest.CaptureFixture[str]
    ) -> None:
        job = ended(connection, dyno("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo end"))
        assert job.is_finished
        assert lines(capfd)[-1:] == ["end"]

    def test_secrets_of_the_app_are_masked(
        self, tmp_path: Path, redis_url: str, platform: Platform, connection: Redis,
        capfd: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        platform._env["SHOP_API_KEY"] = "hush-hush-hush"
        assert ended(connection, dyno('echo "key $SHOP_API_KEY"')).is_finished
        assert "key ****" in lines(capfd)


class TestDeaths:
    """Real workers, killed and stopped while a dyno runs."""

    @pytest.fixture
    def start(self, platform: Platform, tmp_path: Path, redis_url: str) -> Iterator[Start]:
        with ExitStack() as stack:

            def begin(**env: str) -> Process:
                number = len(list(tmp_path.glob("worker*.log")))
                settings = {"REDIS_URL": redis_url, "RQ_CLOCK_WORKER_SILENCE": "2"}
                return stack.enter_context(
                    Process(
                        tmp_path / f"worker{number}.log", "-m", "rq_clock", "worker",
                        env={**settings, **platform.settings, **env},
                    )
                )  # fmt: skip

            yield begin

    def test_a_killed_worker_leaves_the_dyno_to_the_next_one(
        self, start: Start, platform: Platform, connection: Redis, tmp_path: Path
    ) -> None:
        job = enqueue(connection, dyno("echo begun; until [ -e go ]; do sleep 0.1; done; echo end"))
        first = start()
        first.wait_for("run.output", line="begun")
        first.kill()
        second = start()
        second.wait_for("dyno.following")
        second.wait_for("run.output", line="begun")
        (tmp_path / "go").touch()
        second.wait_for("run.output", line="end")
        wait_until(lambda: job.get_status() == "finished", "the end of the job")
        assert len(platform.dynos) == 1

    def test_workers_killed_at_any_step_start_one_dyno_and_lose_none(
        self, start: Start, platform: Platform, connection: Redis, tmp_path: Path
    ) -> None:
        seed, luck = chance()
        job = enqueue(connection, dyno("echo x >>runs; until [ -e go ]; do sleep 0.1; done"))
        for _ in range(5):
            worker = start(RQ_CLOCK_MAX_DEATHS="100")
            worker.live(luck.uniform(0.8, 3))
            worker.kill()
        (tmp_path / "go").touch()
        start(RQ_CLOCK_MAX_DEATHS="100")
        wait_until(lambda: job.get_status() == "finished", f"the end of the job, seed={seed}")
        assert (tmp_path / "runs").read_text() == "x\n", seed

    def test_end_to_end_with_kills_each_fire_time_has_one_dyno(
        self, start: Start, platform: Platform, connection: Redis, tmp_path: Path, redis_url: str
    ) -> None:
        seed, luck = chance()
        options = "queue='default', catch_up='all', overlap='allow', timeout=600"
        line = "echo $RQ_CLOCK_FIRE_TIME >>runs; sleep 2"
        script = (
            "from rq_clock import dyno\n"
            f"clock.add('x', every(seconds=4), dyno({line!r}), {options})\n"
        )
        env = {"RQ_CLOCK_MAX_DEATHS": "100"}
        with ExitStack() as stack:
            for _ in range(3):
                clock = stack.enter_context(ClockProcess(tmp_path / "clock", redis_url, script))
                workers = [start(**env), start(**env)]
                for process in (*workers, clock):
                    process.live(luck.uniform(1.5, 3))
                    process.kill()
            last = ClockProcess(tmp_path / "clock", redis_url, script)
            stack.enter_context(last).wait_for("clock.leading")
            catch_up(connection, ["x"])
            assert last.terminate() == 0
        start(**env)
        start(**env)
        store = Store(connection, "default")

        def done() -> bool:
            entries = store.ledger("x")
            return all(isinstance(e, Enqueued) and e.attempt and e.attempt.state == "ok"
                       for e in entries)  # fmt: skip

        wait_until(done, f"all runs to succeed, seed={seed}", timeout=300)
        fired = [iso(e.fire_time) for e in store.ledger("x") if isinstance(e, Enqueued)]
        assert sorted((tmp_path / "runs").read_text().split()) == sorted(fired), seed

    def test_a_shutdown_leaves_at_once_and_the_dyno_goes_on(
        self, start: Start, platform: Platform, connection: Redis, tmp_path: Path
    ) -> None:
        job = enqueue(connection, dyno("echo begun; until [ -e go ]; do sleep 0.1; done"))
        first = start()
        first.wait_for("run.output", line="begun")
        assert first.end() == 0
        first.wait_for("dyno.left")
        assert platform.dynos[0].lives
        start().wait_for("run.output", line="begun")
        (tmp_path / "go").touch()
        wait_until(lambda: job.get_status() == "finished", "the end of the job")
        assert len(platform.dynos) == 1

    def test_a_retry_has_a_dyno_of_its_own_and_stops_one_that_was_left(
        self, start: Start, platform: Platform, connection: Redis, tmp_path: Path
    ) -> None:
        left = f"python -m rq_clock exec {JOB_ID}.r7 -- 'true'"
        platform.hidden = True
        platform._start({"command": left})
        platform.hidden = False
        job = enqueue(connection, dyno("[ -e tried ] || { touch tried; exit 3; }"), retry=Retry(1))
        start()
        wait_until(lambda: job.get_status() == "finished", "the end of the job")
        assert [d.body["command"].split()[4] for d in platform.dynos] == [
            f"{JOB_ID}.r7", f"{JOB_ID}.r1", f"{JOB_ID}.r0",
        ]  # fmt: skip
        wait_until(lambda: not platform.dynos[0].lives, "the end of the dyno that was left")

    def test_a_job_that_is_stopped_ends_its_dyno(
        self, start: Start, platform: Platform, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        enqueue(connection, dyno("echo begun; sleep 600"))
        start().wait_for("run.output", line="begun")
        send_stop_job_command(connection, JOB_ID)
        wait_until(lambda: not platform.dynos[0].lives, "the end of the dyno")
        assert connection.hget(RECORD, "because") == b"the end of its job"

    def test_a_frozen_redis_costs_time_and_nothing_else(
        self, tmp_path: Path, fresh_server: Callable[..., Server]
    ) -> None:
        server = fresh_server()
        with Platform(tmp_path, {"REDIS_URL": server.url}) as platform:
            redis = Redis.from_url(server.url)
            enqueue(redis, dyno("echo x >>runs; until [ -e go ]; do sleep 0.1; done; echo end"))
            env = {"REDIS_URL": server.url, **platform.settings}
            with Process(tmp_path / "w.log", "-m", "rq_clock", "worker", env=env) as worker:
                wait_until(lambda: (tmp_path / "runs").exists(), "the command to run")
                server.pause()
                (tmp_path / "go").touch()
                worker.live(5)
                server.resume()
                worker.wait_for("run.output", line="end")
                worker.wait_for("run.ended", state="ok")
            assert (tmp_path / "runs").read_text() == "x\n"
            assert len(platform.dynos) == 1
            redis.close()

    def test_a_redis_that_is_away_at_the_beginning_costs_time_and_nothing_else(
        self, platform: Platform, connection: Redis, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send: Any = AbstractConnection.send_packed_command
        outages = [b"HSETNX", b"HGETALL"]  # the intent, and the first look at the record

        def away(self: AbstractConnection, command: Any, *args: Any, **options: Any) -> None:
            sent = command if isinstance(command, bytes) else b"".join(command)
            over = len(events("dyno.waiting"))
            if RECORD.encode() in sent and any(word in sent for word in outages[over:][:1]):
                raise ConnectionError("Redis is away")
            send(self, command, *args, **options)

        monkeypatch.setattr(AbstractConnection, "send_packed_command", away)
        assert ended(connection, dyno("echo x >>runs")).is_finished
        assert len(events("dyno.waiting")) == 2
        assert len(platform.dynos) == 1


class _Vanishing:
    """Kills the dyno as soon as its command has begun."""

    def __init__(self, platform: Platform, connection: Redis) -> None:
        import threading

        def kill() -> None:
            wait_until(lambda: connection.hget(RECORD, "began"), "the dyno to begin")
            platform.kill(platform.dynos[0])

        self.start = threading.Thread(target=kill, daemon=True).start


class TestPlatform:
    @pytest.mark.parametrize(
        ("status", "id", "remedy"),
        [
            (401, "unauthorized", "set HEROKU_API_KEY to a valid key"),
            (403, "forbidden", "scope write-protected"),
            (404, "not_found", "check HEROKU_APP_NAME"),
            (422, "cannot_run_above_limit", "Cannot run more than 50 dynos"),
        ],
    )
    def test_a_refusal_fails_the_run_at_once_with_the_platforms_words(
        self, platform: Platform, connection: Redis, status: int, id: str, remedy: str
    ) -> None:
        platform.fail("POST", "/dynos$", status, id=id, message="Cannot run more than 50 dynos")
        job = ended(connection, dyno("true"))
        assert f"answered {status}" in error_of(job)
        assert id in error_of(job)
        assert remedy in error_of(job)
        assert platform.count("POST .*/dynos$") == 1
        assert KEY not in str(job.latest_result())

    @pytest.mark.parametrize("status", [429, 500])
    def test_a_limit_of_calls_is_waited_for_as_it_asks(
        self, platform: Platform, connection: Redis, events: Events, status: int
    ) -> None:
        how = {"Retry-After": "1", "RateLimit-Remaining": "0"}
        platform.fail("POST", "/dynos$", status, id="rate_limit", message="wait", headers=how)
        assert ended(connection, dyno("true")).is_finished
        [waited] = events("dyno.waiting")
        assert waited["seconds"] == "1"
        assert "RateLimit-Remaining is 0" in str(waited["reason"])
        assert len(platform.dynos) == 1

    def test_errors_of_the_platform_are_tried_again(
        self, platform: Platform, connection: Redis
    ) -> None:
        for status in (500, 503):
            platform.fail("GET", "/dynos$", status)
            platform.fail("POST", "/dynos$", status)
        platform.fail("GET", "/dynos/run", 503)
        assert ended(connection, dyno("sleep 1")).is_finished
        assert len(platform.dynos) == 1

    def test_a_platform_that_stays_away_fails_the_run(
        self, platform: Platform, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "DYNO_START_SECONDS", 0.5)
        for _ in range(20):
            platform.fail("POST", "/dynos$", 503)
        assert "answered 503" in error_of(ended(connection, dyno("true")))

    def test_a_dyno_may_have_a_day(self, platform: Platform, connection: Redis) -> None:
        assert ended(connection, dyno("true", timeout=86_400)).is_finished
        assert platform.dynos[0].body["time_to_live"] == 86_400

    def test_dynos_of_others_are_left_alone(self, platform: Platform, connection: Redis) -> None:
        others = ["exec 'a -- b", "rake x", f"python -m rq_clock exec {JOB_ID}0.r0 -- 'sleep 600'"]
        platform.hidden = True
        for line in others:
            platform._start({"command": line})
        platform.hidden = False
        assert ended(connection, dyno("true")).is_finished
        assert all(other.lives for other in platform.dynos[:3])
        assert platform.count("actions/stop") == 0

    def test_a_lost_reply_starts_no_second_dyno(
        self, platform: Platform, connection: Redis
    ) -> None:
        platform.fail("POST", "/dynos$", LOST)
        assert ended(connection, dyno("sleep 1; echo done >>done")).is_finished
        assert len(platform.dynos) == 1

    def test_a_second_dyno_of_the_same_run_runs_nothing(
        self, platform: Platform, connection: Redis, tmp_path: Path
    ) -> None:
        enqueue(connection, dyno("echo done >>done; sleep 1"))
        platform.fail("POST", "/dynos$", LOST)
        platform.fail("GET", "/dynos$", 200)  # a list that is late: no dyno in it
        platform.faults.reverse()
        body = {"command": f"python -m rq_clock exec {RUN} -- 'echo done >>done'", "env": {}}
        connection.hset(RECORD, mapping={"job": JOB_ID})
        platform._start(body)
        platform._start(body)
        for started in platform.dynos:
            assert started.process
            assert started.process.wait(60) == 0
        assert (tmp_path / "done").read_text() == "done\n"

    def test_a_wrong_environment_is_one_clear_error_without_the_key(
        self, platform: Platform, connection: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HEROKU_API_KEY", "key\nwith a line")
        text = error_of(ended(connection, dyno("true")))
        assert "needs HEROKU_API_KEY in the worker's environment" in text
        assert "with a line" not in text
        monkeypatch.delenv("HEROKU_APP_NAME")
        monkeypatch.setenv("HEROKU_API_KEY", KEY)
        text = error_of(ended(connection, dyno("true"), job_id=f"{JOB_ID}-m1"))
        assert "needs HEROKU_APP_NAME" in text
        assert not platform.calls
