"""Servers as people have them: users with few rights, commands that are missing, Cluster, limits,
sentinels. Each serves, or says in one line what is wrong and what to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from rq_clock.doctor.facts import Code, gather
from rq_clock.doctor.server_checks import CHECKS
from rq_clock.errors import StoreUnavailable
from rq_clock.jobs.executions import Executions
from rq_clock.model.entry import Lease
from rq_clock.settings import Settings
from rq_clock.store.access import NO_INFO, check_access, check_server
from rq_clock.store.client import connect
from rq_clock.store.diagnosis import ACCESS, Reconnect, diagnose, is_refusal
from rq_clock.store.lease import Leases
from rq_clock.store.store import Store
from rq_clock.worker.worker import Worker
from tests.helpers import Events, make_certificate, require, wait_until
from tests.process import LEASHED
from tests.server import Server, free_url

Connect = Callable[..., Redis]


@pytest.fixture
def as_user(connection: Any, redis_url: str) -> Iterator[Connect]:
    """A client of the shared server whose user has only these rules."""

    def client(*rules: str) -> Redis:
        connection.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules)
        return connect(redis_url.replace("//", "//app:pw@"))

    yield client
    connection.execute_command("ACL", "DELUSER", "app")


def start(redis: Redis) -> list[str]:
    """Do what a clock does first. Return the warnings."""
    store = Store(redis, "default")
    warnings = check_server(store)
    check_access(store)
    store.listen().get_message(timeout=1)
    assert isinstance(Leases(store).acquire("it", ("local", ""), "starting", store.now()), Lease)
    return warnings


def can_tell(redis: Any) -> bool:
    """Return whether the server tells what a user may do: Redis 7, Valkey."""
    return bool(redis.eval("return redis.acl_check_cmd and 1 or 0", 0))


def findings(redis: Redis) -> dict[str, str]:
    """Return the doctor's errors of a server, by code."""
    store = Store(redis, "default")
    facts = gather(store, Executions(redis, "default"), ("local", ""), Code(), whole=False)
    found = [f for check in CHECKS for f in check(facts, facts.time)]
    return {f.code: f.text for f in found if f.level == "error" and f.code != "no-leader"}


@pytest.mark.parametrize(
    ("rules", "warnings"),
    [(ACCESS, [NO_INFO]), ("~* &* +@all -client", []), ("~rq-clock:* ~rq:* &* +@all", [])],
)
def test_a_user_with_few_rights_is_served(
    as_user: Connect, events: Events, rules: str, warnings: list[str]
) -> None:
    redis = as_user(*rules.split())
    assert start(redis) == warnings
    assert not findings(redis)
    settings = Settings.from_env({"REDIS_URL": "redis://"})
    assert not Worker(["default"], connection=redis, settings=settings).work(burst=True)
    assert not events("store.waiting")


@pytest.mark.parametrize(
    ("rules", "line", "code"),
    [
        (
            "~* resetchannels +@all",
            "channels .*; allow them: ACL SETUSER … &\\*",
            "permissions",
        ),
        ("~* &* +@all -@scripting", "EVAL is needed", "permissions"),
        ("~* &* +@all -zadd", "ZADD .*; rules that are enough: ", "permissions"),
        ("~* &* +@all -publish", "channel", "permissions"),
        ("~rq-clock:* &* +@all", "rq:queue:default", "permissions"),
    ],
)
def test_a_user_who_lacks_a_right_is_refused_before_anything_is_written(
    as_user: Connect, connection: Redis, rules: str, line: str, code: str
) -> None:
    redis = as_user(*rules.split())
    if not can_tell(connection):
        pytest.skip("this server cannot tell what a user may do")
    with pytest.raises(ResponseError) as refused:
        start(redis)
    assert is_refusal(refused.value)
    url = "redis://app:pw@host"
    text = diagnose(refused.value, url)
    assert text.count("\n") == 0
    assert re.search(line, text), text
    assert not connection.keys()
    assert code in findings(redis)


@pytest.mark.parametrize(
    ("directives", "line", "code"),
    [
        ({"cluster_enabled": "yes"}, "cluster mode off", "cluster"),
        ({"maxmemory": "900kb"}, "is full .*take a larger plan", ""),
        ({"include": "replicaof 127.0.0.1 1"}, "is a replica.*name the primary", "replica"),
        ({"min_replicas_to_write": "1"}, "takes no writes now.*replicas", "no-writes"),
        ({"maxclients": "2"}, "no connection left.*larger plan", None),
        ({"include": 'rename-command EVALSHA ""'}, "EVAL is needed", "permissions"),
        ({"include": 'rename-command INFO ""'}, "", ""),
    ],
)
def test_a_server_that_cannot_serve_is_one_line(
    fresh_server: Callable[..., Server],
    tmp_path: Path,
    directives: dict[str, str],
    line: str,
    code: str | None,
) -> None:
    if "include" in directives:
        (tmp_path / "more.conf").write_text(directives["include"] + "\n")
        directives = {"include": str(tmp_path / "more.conf")}
    url = fresh_server(appendonly="no", **directives).url
    with ExitStack() as stack:
        others = [stack.enter_context(Redis.from_url(url)) for _ in range(2)]
        [other.ping() for other in others]
        redis = stack.enter_context(connect(url))
        if "cluster_enabled" in directives:
            cluster: Any = others[0]
            cluster.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            wait_until(
                lambda: "_state': 'ok" in str(cluster.execute_command("CLUSTER INFO")), "it is up"
            )
        if "min_replicas_to_write" in directives and not can_tell(others[0]):
            pytest.skip("scripts of this old server write without replicas")
        if not line:
            assert start(redis) == [NO_INFO]
        else:
            with pytest.raises((RedisError, StoreUnavailable)) as refused:
                start(redis)
            error = refused.value
            text = diagnose(error, url) if isinstance(error, RedisError) else str(error)
            assert re.search(line, text), text
        if code is not None:
            assert list(findings(redis)) == ([code] if code else [])


def test_a_connection_that_the_server_closes_when_it_is_idle_costs_nothing(
    fresh_server: Callable[..., Server],
) -> None:
    with connect(fresh_server(timeout="1").url) as redis, connect(redis_of(redis)) as other:
        redis.ping()
        name = next(c["id"] for c in other.client_list() if "rq-clock:" in c["name"])
        wait_until(lambda: name not in {c["id"] for c in other.client_list()}, "it is closed")
        assert redis.ping()


def redis_of(redis: Redis) -> str:
    options = redis.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/0"


def test_threads_take_turns_where_connections_are_limited(connection: Any, redis_url: str) -> None:
    others = {client["id"] for client in connection.client_list()}
    with connect(redis_url, pool_size=2) as redis, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: redis.ping(), range(400)))
        mine = [c for c in connection.client_list() if c["id"] not in others and c["name"]]
    assert 1 <= len(mine) <= 2


# ---- sentinels ---------------------------------------------------------------------------------


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[str]:
    """A primary and its sentinel, both with TLS and a password: the URL's end, without them."""
    server = require("redis-server")
    make_certificate(tmp_path, "IP:127.0.0.1")
    tls = {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem", "tls_ca_cert_file": "cert.pem"}
    tls = {name: str(tmp_path / file) for name, file in tls.items()} | {"tls_auth_clients": "no"}
    plain, port, watch = (free_url().rpartition(":")[2].partition("/")[0] for _ in range(3))
    lines = [
        f"sentinel monitor shop 127.0.0.1 {port} 1", "sentinel auth-pass shop of-server",
        "requirepass of-sentinel", "tls-replication yes", "port 0", f"tls-port {watch}",
        "bind 127.0.0.1", *(f"{name.replace('_', '-')} {value}" for name, value in tls.items()),
    ]  # fmt: skip
    (tmp_path / "sentinel.conf").write_text("\n".join(lines))
    own = {"tls_port": port, "requirepass": "of-server", "appendonly": "no", **tls}
    with Server(tmp_path / "data", f"redis://127.0.0.1:{plain}/0", binary=server, **own):
        command = [*LEASHED, server, str(tmp_path / "sentinel.conf"), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"127.0.0.1:{watch}/shop/0"
        finally:
            process.kill()
            process.wait()


@pytest.mark.integration
def test_sentinels_with_tls_and_passwords_lead_to_the_primary(
    sentinel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    url = f"rediss+sentinel://:of-server@{sentinel}"

    def line(url: str) -> str:
        with connect(url) as redis:
            try:
                redis.ping()
            except RedisError as error:
                return diagnose(error, url)
        return "it serves"

    right = f"{url}?sentinel_password=of-sentinel"
    wait_until(lambda: line(right) == "it serves", "the sentinel knows its primary")
    with connect(right) as redis:
        assert start(redis)[1:] == []
    assert "?sentinel_password=" in line(url)
    assert "refuses the user or password" in line(right.replace(":of-server", ":wrong"))
    assert "know no primary" in line(right.replace("/shop/", "/other/"))
    assert "no sentinel of" in line(right.replace("rediss", "redis"))
    assert "no sentinel of" in line("redis+sentinel://127.0.0.1:1/shop/0")


# ---- waiting -----------------------------------------------------------------------------------


class Waiting:
    """A process that meets errors; its time is the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reconnect = Reconnect("redis://:s3cr3t@host/0", lambda: self.now)

    def meet(self, error: Exception, *, answers: bool = True) -> float:
        """Fail once, wait as long as it says, and be answered."""
        pause = self.reconnect.try_again(error)
        self.now += pause
        if answers:
            self.reconnect.answered()
            self.reconnect.succeeded()
        return pause


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("The user executing the script can't publish to the channel mentioned", "&*"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "delete the one"),
    ],
)
def test_a_refusal_is_logged_once_and_tried_ever_more_seldom(
    text: str, remedy: str, events: Events
) -> None:
    waiting = Waiting()
    refusal = ResponseError(text)
    pauses = [waiting.meet(refusal) for _ in range(20)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 30.0
    [line] = events("store.waiting")
    assert remedy in line["reason"]
    assert not events("store.back")
    waiting.now += 60
    waiting.reconnect.succeeded()
    assert len(events("store.back")) == 1
    assert waiting.meet(refusal) == 0.1


def test_another_problem_of_the_same_outage_gets_a_line_of_its_own(events: Events) -> None:
    waiting = Waiting()
    waiting.reconnect.answered()
    errors: list[Any] = [ConnectionError("gone"), ConnectionError("max number of clients reached")]
    for error in errors * 20:
        waiting.meet(error, answers=False)
    reasons = [line["reason"] for line in events("store.waiting")]
    assert 2 <= len(reasons) <= 10
    assert "its limit is reached" in "".join(reasons)
    assert "s3cr3t" not in "".join(reasons)
    waiting.reconnect.answered()
    assert len(events("store.back")) == 1


def test_the_arguments_of_a_refused_command_are_not_shown() -> None:
    error = ResponseError("unknown command 'AUTH', with args beginning with: 's3cr3t' ")
    assert "s3cr3t" not in diagnose(error, "redis://host")
