"""Servers that die, freeze, fill up, refuse, forget: a clock lives through it and says so.

Servers are the embedded Valkey, for TLS Debian's redis-server. Accounts as in test_process.py.
"""

from __future__ import annotations

import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError

from rq_clock.settings import Settings
from rq_clock.store.client import connect
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
    marker_of,
    state,
)
from tests.helpers import PATIENCE, Pace, make_certificate, require, wait_until
from tests.server import Server, free_url

pytestmark = pytest.mark.process

Start = Callable[..., ClockProcess]
OFTEN = add(*TWENTY, when="every(milliseconds=200)")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a clock: `start(url, script, *switches, **environment)`."""
    with ExitStack() as stack:

        def start(url: str, script: str, *switches: str, **env: str) -> ClockProcess:
            return stack.enter_context(ClockProcess(tmp_path, url, script, *switches, **env))

        yield start


@pytest.fixture
def server(fresh_server: Callable[..., Server]) -> Server:
    return fresh_server()


@pytest.fixture
def clock(server: Server, start: Start) -> ClockProcess:
    """A clock that has enqueued runs of the twenty schedules."""
    clock = start(server.url, OFTEN)
    clock.wait_for("run.enqueued")
    return clock


def settle(redis: Client, *clocks: ClockProcess, note: str = "") -> None:
    """Let the twenty catch up, end the clocks, and check the account."""
    catch_up(redis, TWENTY)
    for clock in clocks:
        assert clock.terminate() == 0, clock.text()[-4000:]
    print(account(redis, TWENTY).check(note))


# ---- a server that dies -----------------------------------------------------------------------


def acknowledged(clock: ClockProcess) -> set[str]:
    """The jobs of whose enqueueing the server told the clock."""
    return {event.fields["job"] for event in clock.events("run.enqueued")}


def test_acknowledged_jobs_survive_a_killed_server(
    fresh_server: Callable[..., Server], start: Start
) -> None:
    seed, luck = chance()
    server = fresh_server(appendfsync="always")
    with client(server.url) as redis:
        clocks = [start(server.url, OFTEN)]
        clocks[0].wait_for("run.enqueued")
        clocks.append(start(server.url, OFTEN))
        clocks[1].wait_for("run.enqueued")
        for outage in range(1, 6):
            clocks[0].live(luck.uniform(0.5, 1.5))
            server.kill()
            for clock in clocks:
                clock.wait_for("store.waiting", times=outage)
            server.start()
            for clock in clocks:
                clock.wait_for("store.back", times=outage)
        settle(redis, *clocks, note=f"seed={seed} outages={outage}")
        queued = {job.decode() for job in redis.lrange("rq:queue:default", 0, -1)}
    for clock in clocks:
        assert acknowledged(clock) <= queued
        assert clock.words("store.waiting", "store.back") == ["store.waiting", "store.back"] * 5


def rewriting(redis: Client) -> bool:
    info = redis.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def test_lost_writes_lose_job_and_marker_together(
    fresh_server: Callable[..., Server], start: Start
) -> None:
    """As after a power cut: the end of its append-only file is missing, up to a second of it.

    The file is written anew after each: Redis 7.0 leaves the head of a torn transaction in it and,
    started once more, joins it with the next one. Valkey 9 does not.
    """
    seed, luck = chance()
    server = fresh_server(appendfsync="everysec")
    lost = 0
    with client(server.url) as redis:
        clock = start(server.url, OFTEN)
        clock.wait_for("run.enqueued")
        for outage in range(1, 6):
            [file] = (server.data_dir / "appendonlydir").glob("*.incr.aof")
            before = file.stat().st_size
            clock.live(luck.uniform(1.0, 2.0))
            server.kill()
            size = file.stat().st_size
            kept = luck.randrange((before + size) // 2, size)
            with file.open("r+b") as cut:
                cut.truncate(kept)
            lost += size - kept
            server.start()
            redis.bgrewriteaof()
            wait_until(lambda: not rewriting(redis), "a new append-only file")
            clock.wait_for("store.back", times=outage)
        settle(redis, clock, note=f"seed={seed} outages={outage} bytes lost={lost}")
        assert lost


def test_a_frozen_server_costs_lateness_only(
    server: Server, redis: Client, clock: ClockProcess
) -> None:
    server.pause()
    reason = clock.wait_for("store.waiting").fields["reason"]
    assert reason.endswith("does not answer in time")
    clock.live(3)
    server.resume()
    clock.wait_for("store.back")
    settle(redis, clock)
    assert clock.words("store.waiting", "store.back") == ["store.waiting", "store.back"]


def test_sigterm_ends_a_clock_whose_server_is_frozen(server: Server, clock: ClockProcess) -> None:
    server.pause()
    with Pace() as pace:
        began = time.monotonic()
        assert clock.terminate(PATIENCE) == 0
        took = time.monotonic() - began
    print(f"it ended {took:.1f} s after SIGTERM")
    assert took < pace.allows(10)  # Heroku's patience is 30 s
    server.resume()


def test_a_server_that_lost_its_data_gets_the_schedules_again(
    redis: Client, clock: ClockProcess
) -> None:
    redis.flushall()
    clock.wait_for("reconcile.done", times=2)
    settle(redis, clock)


def test_lost_markers_and_a_lost_index_are_repaired_while_the_clock_runs(
    redis: Client, clock: ClockProcess
) -> None:
    redis.delete("rq-clock:default:due", "rq-clock:default:markers")
    clock.wait_for("marker.lost", times=20)
    catch_up(redis, TWENTY)
    assert clock.terminate() == 0


# ---- a server that refuses --------------------------------------------------------------------


def test_a_full_server_gets_nothing_by_halves(redis: Client, clock: ClockProcess) -> None:
    redis.config_set("maxmemory", 1)
    refused = clock.wait_for("commit.refused", schedules="20")
    assert "OOM" in refused.fields["error"]
    beside = [f"rq-clock:default:{key}" for key in ("lease", "meta", "alerts")]
    full = state(redis, *beside)
    clock.wait_for("commit.refused", times=3)
    assert state(redis, *beside) == full
    assert not clock.events("store.waiting")  # it leads on, also where a duty could not write
    redis.config_set("maxmemory", 0)
    clock.wait_for("commit.accepted")
    settle(redis, clock)


def test_a_queue_of_another_type_stops_one_schedule(
    server: Server, redis: Client, start: Start
) -> None:
    bad = add("bad", options="catch_up='all', catch_up_limit=10_000, queue='bad'")
    redis.set("rq:queue:bad", "x")
    clock = start(server.url, bad + OFTEN)
    error = clock.wait_for("run.undecided", schedule="bad").fields["error"]
    assert "rq:queue:bad" in error
    clock.wait_for("run.undecided", schedule="bad", times=3)
    assert marker_of(redis, "bad")[0] == 0
    assert not redis.exists("rq-clock:default:ledger:bad")
    assert not list(redis.scan_iter("rq:job:default-bad-*"))
    assert {event.fields["schedule"] for event in clock.events("run.undecided")} == {"bad"}
    catch_up(redis, TWENTY)
    assert max(ledger(redis, TWENTY).values()) < 5000  # and made none of the others late
    redis.delete("rq:queue:bad")
    clock.wait_for("run.enqueued", schedule="bad")
    catch_up(redis, ["bad"])
    settle(redis, clock)
    account(redis, ["bad"]).check()


def test_a_server_that_takes_no_writes_is_an_outage(redis: Client, clock: ClockProcess) -> None:
    """As after a failover, when the old primary has become a replica."""
    redis.replicaof("127.0.0.1", urlsplit(free_url()).port)
    assert "is a replica" in clock.wait_for("store.waiting").fields["reason"]
    clock.live(2)
    redis.replicaof("no", "one")
    clock.wait_for("store.back")
    settle(redis, clock)
    assert clock.words("store.waiting", "store.back") == ["store.waiting", "store.back"]


def test_an_evicting_policy_is_reported_once(
    fresh_server: Callable[..., Server], start: Start
) -> None:
    server = fresh_server(maxmemory_policy="allkeys-lru")
    clock = start(server.url, OFTEN)
    clock.wait_for("run.enqueued")
    [warning] = clock.events("store.warning")
    assert "allkeys-lru" in warning.fields["text"]
    assert "noeviction" in warning.fields["text"]


def test_data_of_a_newer_release_is_left_alone(server: Server, redis: Client, start: Start) -> None:
    redis.hset("rq-clock:default:meta", "version", 3)
    before = state(redis)
    clock = start(server.url, OFTEN)
    assert clock.ended() == 4
    [line] = clock.text().splitlines()
    assert "version 3, this release understands 2" in line
    assert state(redis) == before


def test_a_wrong_password_ends_the_clock_with_one_line(
    server: Server, redis: Client, start: Start
) -> None:
    redis.config_set("requirepass", "right")
    for url in (server.url.replace("//", "//:wrong@"), server.url):
        clock = start(url, OFTEN)
        assert clock.ended() == 4
        [line] = clock.text().splitlines()
        assert "REDIS_URL" in line
        assert "wrong" not in line.replace("WRONGPASS", "")
    right = start(server.url.replace("//", "//:right@"), OFTEN)
    right.wait_for("run.enqueued")


def test_a_user_without_channels_never_leads_until_it_has_them(
    server: Server, redis: Client, start: Start
) -> None:
    rules = ["on", ">pw", "~*", "+@all"]
    redis.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", *rules)
    clock = start(server.url.replace("//", "//app:pw@"), OFTEN)
    assert "&*" in clock.wait_for("store.waiting").fields["reason"]
    clock.live(2.5)
    assert [event.word for event in clock.events()] == ["store.waiting"]
    assert not redis.keys()
    redis.execute_command("ACL", "SETUSER", "app", "&*")
    clock.wait_for("run.enqueued")
    assert clock.terminate() == 0
    assert len(clock.events("clock.leading")) == 1


def test_data_of_others_fails_a_duty_and_ends_no_clock(
    server: Server, redis: Client, start: Start
) -> None:
    prefix = "rq-clock:default:"
    odd: Any = b"\xff"
    redis.hset(f"{prefix}backfill:odd-1", "state", "running")
    redis.set(f"{prefix}backfill:odd-2", "x")
    redis.zadd(f"{prefix}duties", {"backfill:odd-1": 1, "backfill:odd-2": 1, odd: 1})
    redis.zadd(f"{prefix}duties", {"pause:later": "inf"})
    redis.hset(f"{prefix}workers", odd, odd)
    redis.hset(f"{prefix}workers", "idle", "x")
    redis.sadd("rq:queues", b"rq:queue:\xff")
    redis.rpush(b"rq:queue:\xff", "job")
    redis.zadd("rq:scheduled:default", {"job": "inf"})
    redis.sadd("rq:queues", "rq:queue:default")
    redis.set(f"{prefix}alerts", "x")
    redis.hset(f"{prefix}meta", "release", "x")
    redis.sadd(f"{prefix}declared", odd, "gone")
    redis.hset(f"{prefix}definitions", odd, odd)
    clock = start(server.url, OFTEN, "--remove-all")
    clock.wait_for("run.enqueued")
    redis.xadd(f"{prefix}runs", {"odd": "x"})
    redis.publish(f"{prefix}news", b"\xff")
    wait_until(lambda: len(clock.events("backfill.failed")) == 2, "both backfills are named")
    wait_until(lambda: clock.events("duty.failed"), "the alerts are named")
    fired = len(clock.events("run.enqueued"))
    wait_until(lambda: len(clock.events("run.enqueued")) > fired + 20, "it goes on")
    assert clock.terminate() == 0
    assert [event.fields["duty"] for event in clock.events("duty.failed")] == ["alerts"]
    assert len(clock.events("clock.leading")) == 1
    assert not clock.events("store.waiting")


# ---- a server that is not there ---------------------------------------------------------------


def test_a_clock_waits_for_its_redis_and_names_the_remedy(tmp_path: Path, start: Start) -> None:
    url = free_url()
    clock, impatient = start(url, OFTEN), start(url, OFTEN)
    assert "rq-clock redis" in clock.wait_for("store.waiting").fields["reason"]
    impatient.wait_for("store.waiting")
    with Pace() as pace:
        began = time.monotonic()
        assert impatient.terminate() == 0
        took = time.monotonic() - began
    assert took < pace.allows(5)
    with Server(tmp_path / "server", url), client(url) as redis:
        clock.wait_for("store.back")
        settle(redis, clock)
    assert clock.words("store.waiting", "store.back") == ["store.waiting", "store.back"]


# ---- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, signed by itself; its key is in key.pem beside it."""
    return make_certificate(tmp_path, "DNS:localhost")


@pytest.fixture
def tls_url(tmp_path: Path, certificate: Path) -> Iterator[str]:
    """The URL of a server that shows this certificate."""
    server = require("redis-server")  # the embedded one has no TLS
    port = str(urlsplit(free_url()).port)
    directives = {
        "tls_port": port,
        "tls_auth_clients": "no",
        "tls_cert_file": str(certificate),
        "tls_key_file": str(certificate.with_name("key.pem")),
    }
    with Server(tmp_path / "server", free_url(), binary=server, **directives):
        yield f"rediss://localhost:{port}/0"


@contextmanager
def impostor(certificate: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Show this certificate to whoever connects; the URL, and the first bytes of each client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    heard: list[bytes] = []

    class Listener(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as sock:
                heard.append(sock.recv(1000))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"rediss://app:secret@localhost:{server.server_address[1]}/0", heard
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("query", "variables", "heeds"),
    [
        ("", {}, True),
        ("?ssl_cert_reqs=required", {"DYNO": "clock.1"}, True),
        ("", {"DYNO": "clock.1", "RQ_CLOCK_REDIS_TLS_VERIFY": "1"}, True),
        ("", {"DYNO": "clock.1"}, False),
        ("", {"RQ_CLOCK_REDIS_TLS_VERIFY": "0"}, False),
        ("?ssl_cert_reqs=none", {}, False),
    ],
)
def test_an_impostor_gets_no_password_unless_allowed(
    certificate: Path, query: str, variables: dict[str, str], heeds: bool
) -> None:
    with impostor(certificate) as (url, heard):
        redis = connect(url + query, settings=Settings.from_env(variables))
        with pytest.raises(ConnectionError) as caught:
            redis.ping()
    assert ("CERTIFICATE_VERIFY_FAILED" in str(caught.value)) == heeds
    assert any(b"secret" in words for words in heard) != heeds


def test_an_untrusted_certificate_is_refused(tls_url: str, certificate: Path, start: Start) -> None:
    clock = start(tls_url, OFTEN)
    assert "SSL_CERT_FILE" in clock.wait_for("store.waiting").fields["reason"]
    start(tls_url, OFTEN, SSL_CERT_FILE=str(certificate)).wait_for("run.enqueued")
    assert not clock.events("clock.leading")


def test_another_hosts_certificate_is_refused(
    tls_url: str, certificate: Path, start: Start
) -> None:
    elsewhere = tls_url.replace("localhost", "127.0.0.1")
    clock = start(elsewhere, OFTEN, SSL_CERT_FILE=str(certificate))
    assert "SSL_CERT_FILE" in clock.wait_for("store.waiting").fields["reason"]
    assert not clock.events("clock.leading")


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("?ssl_cert_reqs=none", {}),
        ("", {"DYNO": "clock.1"}),
        ("", {"RQ_CLOCK_REDIS_TLS_VERIFY": "0"}),
    ],
)
def test_verification_can_be_off(
    tls_url: str, start: Start, query: str, variables: dict[str, str]
) -> None:
    start(tls_url + query, OFTEN, **variables).wait_for("run.enqueued")


def test_tls_to_a_plain_server_is_reported(server: Server, start: Start) -> None:
    clock = start(server.url.replace("redis://", "rediss://"), OFTEN)
    reason = clock.wait_for("store.waiting").fields["reason"]
    assert "not speak TLS" in reason
    assert "redis://" in reason
    assert clock.terminate() == 0
