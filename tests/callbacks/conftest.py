"""Tasks, and a server that they call."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis

from rq_clock import run
from rq_clock.callbacks import Callbacks, NewTask, Task
from rq_clock.callbacks.dispatcher import dispatch
from rq_clock.settings import Settings
from rq_clock.store.store import Store
from rq_clock.store.task_claims import Dispatch
from tests.recorder import Handler, Recorder, serving

KEY = "a-key-of-thirty-two-characters-or-more"
Tasks = Callable[..., list[str]]


class Receiver(Recorder):
    """A server that answers by path: /status/500, /fail/2 (twice, then 200), /hang, /busy/120,
    /echo, /big, /meet/50 (when so many calls are there)."""

    request_queue_size = 1000

    def __init__(self) -> None:
        super().__init__(_Answers)
        self.tries: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The bodies of all calls, in the order in which they came."""
        return [json.loads(seen["body"]) for seen in self.seen if seen["body"]]

    @property
    def ids(self) -> list[str]:
        return [call["id"] for call in self.calls]


class _Answers(Handler):
    def respond(self) -> None:
        _, kind, *words = self.path.partition("?")[0].split("/")
        getattr(self, f"_{kind}")(*words)

    def _status(self, code: str, text: str = "") -> None:
        with suppress(OSError):
            self.send_response(int(code))
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            self.wfile.write(text.encode())

    def _fail(self, times: str) -> None:
        self.server.tries[self.path] += 1
        self._status("200" if self.server.tries[self.path] > int(times) else "500")

    def _hang(self) -> None:
        self.server.over.wait(60)
        self._status("200")

    def _busy(self, seconds: str) -> None:
        self.send_response(429)
        self.send_header("Retry-After", seconds)
        self.end_headers()

    def _shout(self) -> None:
        self.send_response(401, f"bad {self.headers['Authorization']}")
        self.end_headers()

    def _echo(self) -> None:
        self._status("200", json.dumps(dict(self.headers)))

    def _big(self) -> None:
        self._status("200", "ü" * 100_000)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server on loopback, which the setting allows."""
    with serving(Receiver()) as server:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", f"127.0.0.1:{server.server_port}")
        yield server


@pytest.fixture
def env(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a worker."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("RQ_CLOCK_CALLBACKS_KEY", KEY)
    monkeypatch.setattr(run, "_stopping", lambda: False)


@pytest.fixture
def callbacks(receiver: Receiver, env: None, connection: Redis) -> Callbacks:
    """The tasks, called as fast as they can be, and again without a delay."""
    callbacks = Callbacks(connection, by="ana", settings=Settings.from_env())
    callbacks.configure({"mode": "off", "retry_delays": [0], "http_callback_timeout_ms": 20_000})
    return callbacks


@pytest.fixture
def call(callbacks: Callbacks) -> Callable[[], None]:
    """Call what is due, in this process."""
    return lambda: dispatch("default")


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Calls to this machine are allowed, and there is a key."""
    env = {"REDIS_URL": redis_url, "RQ_CLOCK_CALLBACKS_KEY": KEY, "RQ_CLOCK_WEBHOOK_ENV": "CRM_KEY"}
    return Settings.from_env({**env, "RQ_CLOCK_WEBHOOK_ALLOW": "127.0.0.0/8"})


@pytest.fixture
def service(connection: Redis, settings: Settings) -> Callbacks:
    """The tasks, as they are by default; nobody calls them."""
    return Callbacks(connection, by="ana", settings=settings)


@pytest.fixture
def claims(store: Store, service: Callbacks) -> Dispatch:
    """The claims of a dispatcher with a place, without a throttle."""
    service.configure({"mode": "off"})
    claims = Dispatch(store, "one")
    assert claims.enter()
    return claims


@pytest.fixture
def add(service: Callbacks) -> Callable[..., Task]:
    """Add a task of a host of this machine: `add("127.0.0.2/jobs", priority="high")`."""

    def add(url: str = "http://127.0.0.1/jobs", **options: Any) -> Task:
        return service.enqueue(NewTask(url=url, **options))[0]

    return add
