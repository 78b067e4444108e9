"""docs/locks.md: its code runs, and each row of its table is walked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from rq_clock import Busy, Clock, LockLost, cron, every, exclusive
from rq_clock.cli import main
from rq_clock.model.ledger import Enqueued
from rq_clock.schedules.service import Schedules
from rq_clock.store.store import Store
from tests.helpers import wait_until
from tests.process import ROOT, Process

PAGE = (ROOT / "docs" / "locks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| (.+?) \| .+ \|$", PAGE.partition("## You used")[2], re.MULTILINE)[1:]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class World:
    """What the rows of the table are walked with."""

    def __init__(
        self, connection: Redis, schedules: Schedules, store: Store, work: Callable[..., bool]
    ) -> None:
        self.redis, self.schedules, self.store, self.work = connection, schedules, store, work
        self.clock: Clock = page_code(0)["clock"]
        self.declared = self.clock.declared

    def runs(self, name: str) -> list[str]:
        """Run what is queued. Return the states of the ended runs of a schedule."""
        self.work()
        entries = self.store.ledger(name)
        return [e.attempt.state for e in entries if isinstance(e, Enqueued) and e.attempt]

    def cli(self, *words: str) -> str:
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output


@pytest.fixture
def world(
    connection: Redis, schedules: Schedules, store: Store, work: Callable[..., bool],
    redis_url: str, monkeypatch: pytest.MonkeyPatch,
) -> World:  # fmt: skip
    monkeypatch.setenv("REDIS_URL", redis_url)
    return World(connection, schedules, store, work)


def page_code(*numbers: int, **names: Any) -> dict[str, Any]:
    """Run these blocks of the page. Return the names that they leave."""
    for number in numbers:
        exec(compile(BLOCKS[number], "docs/locks.md", "exec"), names)
    return names


def fail(*_: object) -> None:
    raise RuntimeError("the task failed")


def task(**_: object) -> None:
    pass


# ---- the code ----------------------------------------------------------------------------------


def test_the_code_of_the_page_works(world: World) -> None:
    sent: list[int] = []
    page_code(1, send_emails=lambda: sent.append(1))
    page_code(1, send_emails=lambda: sent.append(1))
    assert sent == [1]
    assert "app" in page_code(2, clock=world.clock)
    page_code(3, clock=world.clock)


@pytest.mark.process
def test_the_test_of_the_page_passes_with_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(BLOCKS[0])
    (tmp_path / "test_app.py").write_text(
        BLOCKS[4]
        + "import os\n"
        + "def test_off():\n    assert os.environ['RQ_CLOCK_DISABLED'] == '1'\n"
        + "def test_on(rq_clock_enabled):\n    assert 'RQ_CLOCK_DISABLED' not in os.environ\n"
    )
    words = ("-m", "pytest", "-q", "-p", "no:valkey", "test_app.py")
    with Process(tmp_path / "on.log", *words, env={}) as tests:
        assert tests.ended() == 0, tests.text()
        assert "3 passed" in tests.text()
    (tmp_path / "pytest.ini").write_text("[pytest]\nrq_clock_enabled = true\n")
    (tmp_path / "test_app.py").write_text(
        "import os\ndef test_on():\n    assert 'RQ_CLOCK_DISABLED' not in os.environ\n"
    )
    with Process(tmp_path / "off.log", *words, env={}) as tests:
        assert tests.ended() == 0, tests.text()


# ---- the table ---------------------------------------------------------------------------------


def period(world: World) -> None:
    trigger = every(hours=20)
    first = trigger.next_after(NOON)
    assert first
    assert trigger.next_after(first) == first + timedelta(hours=20)
    assert trigger.next_after(first - timedelta(hours=3)) == first


def cron_style(world: World) -> None:
    trigger = cron("0 * * * *", tz="Europe/Berlin")
    assert trigger.next_after(NOON) == NOON + timedelta(hours=1)


def task_with_error_handler(world: World) -> None:
    world.schedules.add("x", every(hours=1), fail, retries=1)
    world.schedules.trigger("x")
    assert world.runs("x") == ["failed"]


def job_class(world: World) -> None:
    assert world.declared["vacuum"].call()["func"] == "tasks.housekeeping.Vacuum.run"
    from rq.utils import import_attribute

    assert import_attribute("tasks.housekeeping.Vacuum.run").__name__ == "run"


def registered_once(world: World) -> None:
    with pytest.raises(Exception, match="declared twice"):
        world.clock.add("vacuum", every(hours=1), task)


def no_overrun(world: World) -> None:
    assert {schedule.overlap for schedule in world.declared.values()} == {"skip"}


def run_immediately(world: World) -> None:
    world.schedules.add("x", every(hours=1), task)
    world.cli("run", "x")
    assert world.runs("x") == ["ok"]


def stop_by_id(world: World) -> None:
    world.schedules.add("x", every(hours=1), task)
    assert "paused" in world.cli("pause", "x")
    world.cli("resume", "x")
    assert "paused" not in world.cli("list")


def beside_the_web_server(world: World) -> None:
    with world.clock.start():
        wait_until(lambda: world.redis.exists("rq-clock:default:lease"), "the thread to lead")
    assert not world.redis.exists("rq-clock:default:lease")


def try_lock(world: World) -> None:
    with exclusive("x", timeout=60):
        assert 0 < world.redis.pttl("rq-clock:default:locks:x") <= 60_000


def refreshed(world: World) -> None:
    with exclusive("x", timeout=1):
        world.redis.pexpire("rq-clock:default:locks:x", 700)
        wait_until(lambda: world.redis.pttl("rq-clock:default:locks:x") > 800, "a refresh")


def early_return(world: World) -> None:
    done: list[int] = []
    with exclusive("x"):
        assert exclusive("x", skip=True)(lambda: done.append(1))() is None
        with pytest.raises(Busy):
            exclusive("x")(lambda: done.append(1))()
    exclusive("x", skip=True)(lambda: done.append(2))()
    assert done == [2]


def released(world: World) -> None:
    with pytest.raises(KeyError), exclusive("x"):
        raise KeyError
    assert not world.redis.exists("rq-clock:default:locks:x")


def kept_after_success(world: World) -> None:
    with exclusive("x") as lock:
        lock.hold(hours=20)
    assert world.redis.ttl("rq-clock:default:locks:x") > 19 * 3600


def waits(world: World) -> None:
    with exclusive("x"):
        waiting = threading.Thread(target=exclusive("x", wait=60)(task))
        waiting.start()
    waiting.join()


def lost(world: World) -> None:
    def hang() -> None:
        world.redis.delete("rq-clock:default:locks:x")
        threading.Event().wait(60)

    with pytest.raises(LockLost):
        exclusive("x", timeout=1)(hang)()


def semaphore(world: World) -> None:
    world.clock.add("x", every(hours=1), task, group="mail", group_limit=3)
    assert world.declared["x"].group_limit == 3


def off_in_tests(world: World) -> None:
    assert "RQ_CLOCK_DISABLED=1" in PAGE  # test_the_test_of_the_page_passes_with_the_plugin


WALKS: list[Callable[[World], None]] = [
    period, cron_style, task_with_error_handler, job_class, registered_once, no_overrun,
    run_immediately, stop_by_id, beside_the_web_server, beside_the_web_server, try_lock, refreshed,
    early_return, released, kept_after_success, waits, lost, semaphore, off_in_tests,
]  # fmt: skip


def test_every_row_is_walked() -> None:
    assert len(ROWS) == len(WALKS)


@pytest.mark.parametrize(("row", "walk"), list(zip(ROWS, WALKS, strict=False)))
def test_what_people_used_is_here(row: str, walk: Callable[[World], None], world: World) -> None:
    walk(world)
