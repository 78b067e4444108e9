"""One web call of a task: what is sent, and what the answer means.

A 2xx within the timeout is success, everything else a failure. Auth is opened just before the call,
and masked wherever the answer repeats it.

Not here: when a task is called (dispatcher.py), and what follows a result (store/task_claims.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from rq_clock.callbacks.secrets import AuthUnusable, Vault
from rq_clock.errors import WebhookFailed
from rq_clock.outbound.async_client import AsyncClient
from rq_clock.outbound.client import Answer, Refused, Request, TooSlow, retry_after
from rq_clock.outbound.signature import signature_headers
from rq_clock.redaction import SHORTEST, Secrets
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings, job_environment
from rq_clock.store.task_claims import CallResult, ClaimedTask
from rq_clock.timing.instants import iso
from rq_clock.version import __version__

ANSWER_KEPT = 2048
"""Bytes of an answer that are kept."""
_BODILESS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A call that has ended, at a monotonic second."""

    task: ClaimedTask
    result: CallResult
    at: float


class Caller:
    """Makes the calls of one dispatcher."""

    def __init__(self, client: AsyncClient, settings: Settings, runtime: Runtime) -> None:
        self._client = client
        self._settings = settings
        self._runtime = runtime
        self._vault = Vault(settings.callbacks_key)
        environ = job_environment()
        self._variables = {
            name: environ[name]
            for name in settings.webhook_env
            if environ.get(name) and environ[name] != settings.redis_url
        }

    async def call(self, task: ClaimedTask) -> EndedCall:
        """Call a task and return the result, whatever happens."""
        began = self._runtime.monotonic()
        try:
            request = self._request(task)
        except AuthUnusable as error:
            return self._ended(task, began, "auth", error=str(error))
        secrets = {**task.headers, "Authorization": request.headers.get("Authorization", "")}
        try:
            answer = await self._client.call(request, task.timeout)
        except WebhookFailed as error:
            kinds = {Refused: "address", TooSlow: "timeout"}
            kind = kinds.get(type(error), "connection")
            return self._ended(task, began, kind, error=_hidden_text(secrets, str(error)))
        facts = _judge(answer)
        if "error" in facts:  # it quotes the answer
            facts["error"] = _hidden_text(secrets, facts["error"])
        text = _hidden(secrets, answer.body)[:ANSWER_KEPT].decode(errors="replace")
        return self._ended(task, began, status=answer.status, answer=text, **facts)

    def lost(self, task: ClaimedTask, began: float, error: str) -> EndedCall:
        """Return the end of a call of which nobody knows whether it arrived."""
        return self._ended(task, began, "lost", error=error)

    def _ended(self, task: ClaimedTask, began: float, result: str, **facts: Any) -> EndedCall:
        now = self._runtime.monotonic()
        ended = CallResult(
            id=task.id, attempt=task.attempt, result=result, seconds=now - began, **facts
        )
        return EndedCall(task, ended, now)

    def _request(self, task: ClaimedTask) -> Request:
        """Return what is sent. Raises AuthUnusable."""
        sent = {"User-Agent": f"rq-clock/{__version__}"}
        body = None
        if task.method not in _BODILESS:
            sent["Content-Type"] = "application/json"
            document = {"id": task.id, "attempt": task.attempt, "executeAt": iso(task.execute_at)}
            body = json.dumps({**document, "payload": task.payload}).encode()
        names = {name.lower() for name in task.headers}
        sent = {name: value for name, value in sent.items() if name.lower() not in names}
        now, key = self._runtime.now(), self._settings.webhook_secret
        sent |= {**task.headers, **signature_headers(key, task.id, now, body or b"")}
        if auth := self._vault.authorization(task.auth, self._variables.__getitem__):
            sent["Authorization"] = auth
        # a secret that is cut in two could not be masked
        keep = ANSWER_KEPT + max(map(len, sent.values()))
        return Request(task.url, task.method, sent, body, keep)


def _hidden(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return an answer without the secrets among these headers. The tasks of an app share a few,
    and most answers are too short for any."""
    return body if len(body) < SHORTEST else _secrets(tuple(headers.items())).hide(body)


def _hidden_text(headers: Mapping[str, str], text: str) -> str:
    return _hidden(headers, text.encode()).decode(errors="replace")


@lru_cache(maxsize=200)
def _secrets(headers: tuple[tuple[str, str], ...]) -> Secrets:
    return Secrets(dict(headers))


def _judge(answer: Answer) -> dict[str, Any]:
    """Return the result that an answer stands for. Of the answers that may ask to wait, a redirect
    is a failure like any other (RFC 9110, 10.2.3)."""
    if 200 <= answer.status < 300:
        return {"result": "ok"}
    facts: dict[str, Any] = {"error": f"expected an answer of 2xx, got {answer.words}"}
    if answer.status == HTTPStatus.GONE:
        return {"result": "gone", **facts}
    return {"result": "status", "retry_after": retry_after(answer), **facts}
