"""A Platform API of the tests' own: dynos are processes here, and it answers as documented.

A fault is an answer in place of the real one, for the next call whose method and path match. A call
whose reply is lost is carried out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.process import LEASHED, ROOT

KEY = "HRKU-0123456789abcdef-secret"
APP = "shop"
LOST = 0
"""As a status: the call is carried out, and its reply is lost."""


@dataclass
class Fault:
    """An answer to give in place of the real one."""

    method: str
    path: str
    status: int
    id: str = "error"
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Dyno:
    """A one-off dyno: a process of this machine."""

    name: str
    body: dict[str, Any]
    process: subprocess.Popen[bytes] | None
    log: Path

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Platform:
    """The API, and the dynos that it has started. `env` are the app's config vars."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.dynos: list[Dyno] = []
        self.hidden = False
        """Whether dynos are started that do nothing: they hang before their first line."""
        self._path, self._env = path, dict(env)
        self._lock = threading.Lock()
        self._starter = ThreadPoolExecutor(1)  # a dyno dies with its thread; a request's ends soon
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def settings(self) -> dict[str, str]:
        """What a worker needs in its environment."""
        port = self._server.server_port
        return {
            "HEROKU_API_KEY": KEY, "HEROKU_APP_NAME": APP, "RQ_CLOCK_HEROKU_API": self.url,
            "RQ_CLOCK_WEBHOOK_ALLOW": f"127.0.0.1:{port}",
        }  # fmt: skip

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for dyno in self.dynos:
            self.kill(dyno)
        self._starter.shutdown()

    def kill(self, dyno: Dyno) -> None:
        """Let a dyno vanish, as with its host."""
        if dyno.lives and dyno.process:
            with suppress(ProcessLookupError):
                os.killpg(dyno.process.pid, signal.SIGKILL)
            dyno.process.wait()

    def fail(self, method: str, path: str, status: int, **how: Any) -> None:
        self.faults.append(Fault(method, path, status, **how))

    def count(self, call: str) -> int:
        """Return how many calls match: `POST .*/dynos$`."""
        return sum(bool(re.search(call, made)) for made in self.calls)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        with self._lock:
            self.calls.append(f"{method} {path}")
            fault = next(
                (f for f in self.faults if f.method == method and re.search(f.path, path)), None
            )
            if fault:
                self.faults.remove(fault)
                if fault.status != LOST:
                    error = {"id": fault.id, "message": fault.message}
                    return fault.status, error, fault.headers
            status, found = self._act(method, path, headers, body)
            return (LOST if fault else status), found, {"RateLimit-Remaining": "4321"}

    def _act(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Any]:
        if path == "/logplex":
            return 200, b"2026-03-01T03:00:00+00:00 app[run.1]: bash: python: command not found\n"
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"id": "unauthorized", "message": "Invalid credentials provided."}
        if headers.get("Accept") != "application/vnd.heroku+json; version=3":
            return 400, {"id": "bad_request", "message": "version"}
        if path == f"/apps/{APP}/log-sessions" and method == "POST":
            return 201, {"logplex_url": f"{self.url}/logplex"}
        return self._act_on_dynos(method, path, body)

    def _act_on_dynos(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        match = re.fullmatch(rf"/apps/{APP}/dynos(?:/([\w.]+)(/actions/stop)?)?", path)
        if match is None:
            return 404, {"id": "not_found", "message": "Couldn't find that app."}
        name, action = match.groups()
        if name is None and method == "POST":
            request = json.loads(body)
            if not 0 < request.get("time_to_live", 1) <= 86_400:
                return 422, {"id": "invalid_params", "message": "time_to_live: max 86400"}
            return 201, _view(self._start(request))
        if name is None:
            return 200, [_view(dyno) for dyno in self.dynos if dyno.lives]
        dyno = next((d for d in self.dynos if d.name == name and d.lives), None)
        if dyno is None:
            return 404, {"id": "not_found", "message": "Couldn't find that dyno."}
        if action:
            assert dyno.process
            for line in subprocess.run(
                ["ps", "-o", "pid=", "-g", str(dyno.process.pid)], capture_output=True, check=False
            ).stdout.split():
                os.kill(int(line), signal.SIGTERM)
            return 202, {}
        return 200, _view(dyno)

    def _start(self, body: dict[str, Any]) -> Dyno:
        number = len(self.dynos) + 1
        log = self._path / f"run.{number}.log"
        command = "exec sleep 600" if self.hidden else body["command"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {
            "PATH": path, "PYTHONPATH": str(ROOT), "DYNO": f"run.{number}",
            **self._env, **body.get("env", {}),
        }  # fmt: skip
        with log.open("wb") as out:
            process = self._starter.submit(
                subprocess.Popen, [*LEASHED, "/bin/sh", "-c", command], cwd=self._path, env=env,
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            ).result()  # fmt: skip
        self.dynos.append(Dyno(f"run.{number}", body, process, log))
        return self.dynos[-1]


def _view(dyno: Dyno) -> dict[str, Any]:
    return {
        "id": f"id-{dyno.name}", "name": dyno.name, "command": dyno.body["command"],
        "size": dyno.body.get("size", "Basic"), "state": "up", "type": "run", "attach_url": None,
    }  # fmt: skip


def _handler(platform: Platform) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, found, headers = platform.answer(self.command, self.path, self.headers, body)  # type: ignore[arg-type]
            if status == LOST:
                self.close_connection = True
                return
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _do  # noqa: N815 - names of the library

        def log_message(self, *_: object) -> None:
            pass

    return Handler
