"""A clock in a thread of a web app: real uvicorn and Werkzeug processes, killed and stopped."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from rq_clock import Clock, RqClockError, ScheduleError, every
from rq_clock.clock.background import BackgroundClock
from rq_clock.run import worker_code
from tests.clock.storm import TWENTY, Client, ClockProcess, account, add, catch_up
from tests.helpers import Events, wait_until
from tests.process import Process
from tests.server import Server

pytestmark = pytest.mark.process

LEASE = "rq-clock:default:lease"
LOGS = "import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
DECLARED = LOGS + "from rq_clock import Clock, cron, every\nclock = Clock()\n" + add(*TWENTY)
ASGI = """
from contextlib import asynccontextmanager

@asynccontextmanager
async def lifespan(app):
    with clock.start():
        yield

from fastapi import FastAPI
app = FastAPI(lifespan=lifespan)
"""
WSGI = """
background = clock.start()
from werkzeug.serving import run_simple
run_simple("127.0.0.1", 0, lambda environ, start: [], use_reloader=True)
"""


class App(Process):
    """A web app of some lines of code, with the processes that it starts."""

    def __init__(self, path: Path, url: str, code: str, *words: str, **env: str) -> None:
        number = len(list(path.glob("*.log")))
        (path / f"app{number}.py").write_text(code)
        settings = {"REDIS_URL": url, "RQ_CLOCK_HISTORY": "1000000"}
        words = tuple(word.format(app=f"app{number}") for word in words)
        super().__init__(path / f"{number}.log", *words, env=settings | env, new_session=True)

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


ENDED = (0, -signal.SIGTERM)
"""uvicorn sends itself the signal again when it has shut down."""
UVICORN = ("-m", "uvicorn", "{app}:app", "--port", "0")
Start = Callable[..., App]


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start an app; what still runs at the end of the test is killed."""
    with ExitStack() as stack:
        yield lambda code, *words, **env: stack.enter_context(
            App(tmp_path, env.pop("url", redis_url), code, *words, **env)
        )


def leader(redis: Client) -> int:
    """Return the process id of the leading clock, 0 when none leads."""
    instance = redis.hget(LEASE, "instance")
    found = re.search(rb"\.(\d+)\.[0-9a-f]{4}$", instance or b"")
    return int(found[1]) if found else 0


def test_of_four_web_workers_one_leads_and_after_its_end_another(
    start: Start, connection: Client
) -> None:
    app = start(DECLARED + ASGI, *UVICORN, "--workers", "4")
    wait_until(lambda: app.text().count("Application startup complete") == 4, "four web workers")
    led = [wait_until(lambda: leader(connection), "a leader")]
    for number in (signal.SIGKILL, signal.SIGTERM):
        catch_up(connection, TWENTY)
        os.kill(led[-1], number)
        led.append(wait_until(lambda: {leader(connection)} - {0, *led}, "another leader").pop())
    catch_up(connection, TWENTY)
    hows = [fields[b"how"] for _, fields in connection.xrange("rq-clock:default:handovers")]
    assert hows == [b"free"] * 3
    assert len(set(led)) == 3
    assert app.pid not in led
    assert app.end() in ENDED
    account(connection, TWENTY).check("web workers")
    assert not connection.exists(LEASE)
    assert "clock.stopped" in app.words()


def test_it_waits_for_a_clock_process_and_gives_way_to_one(
    start: Start, connection: Client, redis_url: str, tmp_path: Path
) -> None:
    with ClockProcess(tmp_path, redis_url, add(*TWENTY)) as clock:
        clock.wait_for("clock.leading")
        app = start(DECLARED + ASGI, *UVICORN)
        app.wait_for("clock.standby")
        assert clock.terminate() == 0
        app.wait_for("clock.leading")
        with ClockProcess(tmp_path, redis_url, add(*TWENTY)) as newer:
            newer.wait_for("clock.leading")
            app.wait_for("clock.deposed")
            catch_up(connection, TWENTY)
            assert app.end() in ENDED
            assert newer.terminate() == 0
    account(connection, TWENTY).check("two kinds of clock")


def test_of_a_reloader_only_the_serving_process_leads(start: Start, connection: Client) -> None:
    app = start(DECLARED + WSGI, "{app}.py")
    app.wait_for("clock.off")  # on a busy machine it may have led until its imports were done
    wait_until(lambda: leader(connection) not in (0, app.pid), "the serving process to lead")


def test_of_uvicorns_reloader_only_the_serving_process_leads(
    start: Start, connection: Client
) -> None:
    run = "import uvicorn\nif __name__ == '__main__':\n    uvicorn.run('app0:app', reload=True)\n"
    app = start(
        DECLARED + "clock.start()\n" + ASGI + run.replace("True", "True, port=0"), "app0.py"
    )
    app.wait_for("clock.off")
    wait_until(lambda: leader(connection) not in (0, app.pid), "the serving process to lead")


def test_a_frozen_redis_keeps_no_app_from_ending(
    start: Start, fresh_server: Callable[..., Server]
) -> None:
    server = fresh_server()
    app = start(DECLARED + ASGI, *UVICORN, url=server.url)
    app.wait_for("clock.leading")
    server.pause()
    try:
        assert app.end() in ENDED
    finally:
        server.resume()


def test_a_script_that_forgets_to_stop_it_ends_and_frees_the_lease(
    start: Start, connection: Client
) -> None:
    app = start(
        DECLARED
        + "import threading\nclock.start()\nled = threading.Event()\n"
        + "class Leads(logging.Handler):\n"
        + "    def emit(self, record):\n"
        + "        if record.getMessage().startswith('run.enqueued'): led.set()\n"
        + "logging.getLogger().addHandler(Leads())\nled.wait()\n",
        "{app}.py",
    )
    assert app.ended() == 0
    assert "clock.stopped" in app.words()
    assert not connection.exists(LEASE)


# ---- in this process ---------------------------------------------------------------------------


@pytest.fixture
def clock(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("REDIS_URL", redis_url)
    clock = Clock()
    clock.add("x", every(seconds=1), "tasks.x")
    return clock


def leads(connection: Client, background: BackgroundClock) -> None:
    wait_until(lambda: leader(connection) == os.getpid(), "this process to lead")
    assert background.running


def test_signals_the_collector_and_the_log_stay_the_apps(clock: Clock, connection: Client) -> None:
    def present() -> tuple[object, ...]:
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        logger = logging.getLogger("rq_clock")
        own = gc.isenabled(), gc.get_freeze_count(), logger.level, logger.propagate
        return wakeup, *handlers, *logger.handlers, *own

    before = present()
    with clock.start() as background:
        leads(connection, background)
        catch_up(connection, ["x"])
        assert present() == before
    assert present() == before
    assert not background.running
    assert not connection.exists(LEASE)


def test_a_second_start_changes_nothing_and_after_a_stop_it_begins_anew(
    clock: Clock, connection: Client
) -> None:
    with clock.start() as background:
        leads(connection, background)
        assert clock.start() is background
    with clock.start() as another:
        assert another is not background
        leads(connection, another)
    background.stop()
    another.stop()


def test_a_forked_child_has_no_clock_and_stops_none(clock: Clock, connection: Client) -> None:
    with clock.start() as background:
        leads(connection, background)
        child = os.fork()
        if not child:
            background.stop()
            os._exit(background.running)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        catch_up(connection, ["x"])
        leads(connection, background)


def test_it_is_off_where_it_would_be_one_too_many(
    clock: Clock, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker_code(), clock.start() as background:
        assert not background.running
    monkeypatch.setenv("RQ_CLOCK_DISABLED", "1")
    with clock.start() as background:
        assert not background.running
        background.stop()
    reasons = [fields["reason"] for fields in events("clock.off")]
    assert [reason.split()[:4] for reason in reasons] == [
        ["this", "is", "a", "worker;"],
        ["RQ_CLOCK_DISABLED", "is", "set;", "unset"],
    ]


def test_what_is_wrong_at_the_start_is_raised_there(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.add("y", every(seconds=1), "tasks.x", renamed_from="x")
    with pytest.raises(ScheduleError, match="renamed_from 'x' is still declared"):
        clock.start()
    monkeypatch.setenv("RQ_CLOCK_HISTORY", "many")
    with pytest.raises(RqClockError, match="RQ_CLOCK_HISTORY"):
        Clock().start()


def test_a_fault_is_logged_once_and_ends_no_thread(
    clock: Clock, connection: Client, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rq_clock.clock.background.SHORTEST_PAUSE", 0.01)
    connection.hset("rq-clock:default:meta", "version", "999")
    with clock.start() as background:
        wait_until(lambda: events("clock.failed"), "the fault of newer data")
        connection.delete("rq-clock:default:meta")
        leads(connection, background)
    assert len(events("clock.failed")) == 1
    assert "rq-clock" not in {thread.name for thread in threading.enumerate()}
