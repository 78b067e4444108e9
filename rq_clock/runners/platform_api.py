"""The calls of Heroku's Platform API that one-off dynos need (version 3, as documented).

It takes no idempotency key and reports no exit code, so nothing here is done twice by itself:
whoever calls decides, by the error's `again`, whether and when to call again. The key of the API is
in no text. Not here: what dynos are started for (dyno.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from rq_clock.errors import CommandFailed, WebhookFailed
from rq_clock.outbound import client as outbound
from rq_clock.redaction import masked_text, printable
from rq_clock.settings import Settings
from rq_clock.version import __version__

HEROKU = "https://api.heroku.com"
CALL_SECONDS = 20
KEPT = 4 * 1024 * 1024
"""Bytes of an answer: a thousand dynos with long commands."""
LOG_LINES = 50
LONGEST_LIFE = 86_400
"""Limit in seconds of the time after which the platform ends a dyno by request."""
_KEY = re.compile(r"[!-~]+\Z")
_APP = re.compile(r"[a-z][a-z0-9-]{0,99}\Z")
_REMEDIES = {
    HTTPStatus.UNAUTHORIZED: "set HEROKU_API_KEY to a valid key",
    HTTPStatus.FORBIDDEN: "use a HEROKU_API_KEY with the scope write-protected for this app",
    HTTPStatus.NOT_FOUND: "check HEROKU_APP_NAME, and what HEROKU_API_KEY may see",
}


class PlatformError(CommandFailed):
    """A call failed. `again` is None when it is useless to repeat it; else the seconds that the
    platform asks to wait, 0 when it does not say. `status` is 0 without an answer."""

    def __init__(self, text: str, status: int = 0, again: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.again = again


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformDyno:
    """A dyno as the platform sees it."""

    name: str
    command: str
    state: str


class PlatformApi:
    """The dynos of one app. Raises CommandFailed at once when the environment does not name it."""

    def __init__(self, settings: Settings) -> None:
        for name, value, form in (
            ("HEROKU_API_KEY", settings.heroku_api_key, _KEY),
            ("HEROKU_APP_NAME", settings.heroku_app, _APP),
        ):
            if not form.match(value):
                got = "something else (not shown)" if value else "none"
                raise CommandFailed(
                    f"a one-off dyno needs {name} in the worker's environment: expected a plain "
                    f"value, got {got}"
                )
        self._settings = settings
        self._path_of_dynos = f"/apps/{settings.heroku_app}/dynos"

    def create(
        self, command: str, *, size: str | None, env: Mapping[str, str], seconds: int | None
    ) -> PlatformDyno:
        """Start a one-off dyno that the platform ends after `seconds`, if any."""
        body: dict[str, Any] = {"command": command, "attach": False, "type": "run", "env": {**env}}
        if size:
            body["size"] = size
        if seconds:
            body["time_to_live"] = min(seconds, LONGEST_LIFE)
        return _dyno(self._call("POST", self._path_of_dynos, body))

    def dynos(self) -> list[PlatformDyno]:
        """Return the dynos that are there."""
        found = self._call("GET", self._path_of_dynos)
        return [_dyno(dyno) for dyno in found] if isinstance(found, list) else []

    def is_gone(self, name: str) -> bool:
        """Return whether the dyno has vanished, or has crashed."""
        try:
            return _dyno(self._call("GET", self._path(name))).state in ("crashed", "down")
        except PlatformError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return True

    def stop(self, name: str) -> None:
        """Stop the dyno; one that has vanished is stopped."""
        try:
            self._call("POST", f"{self._path(name)}/actions/stop")
        except PlatformError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def last_lines(self, name: str) -> list[str]:
        """Return what the platform logged of a dyno; the generation Fir has no such log."""
        body = {"dyno": name, "lines": LOG_LINES, "tail": False}
        session = self._call("POST", f"/apps/{self._settings.heroku_app}/log-sessions", body)
        url = str(session.get("logplex_url", "")) if isinstance(session, dict) else ""
        request = outbound.Request(url, "GET", {}, None, 64 * 1024)
        answer = outbound.call(request, CALL_SECONDS, self._settings.webhook_allow)
        return answer.body.decode(errors="replace").splitlines()[-LOG_LINES:]

    def _path(self, name: str) -> str:
        return f"{self._path_of_dynos}/{quote(name, safe='')}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        settings = self._settings
        headers = {
            "Accept": "application/vnd.heroku+json; version=3",
            "Authorization": f"Bearer {settings.heroku_api_key}",
            "Range": "id ..; max=1000",
            "User-Agent": f"rq-clock/{__version__}",
        }
        if method == "POST":
            headers["Content-Type"] = "application/json"
        content = json.dumps(body).encode() if body is not None else None
        if method == "POST" and content is None:
            content = b""
        url = (settings.heroku_api or HEROKU).rstrip("/") + path
        request = outbound.Request(url, method, headers, content, KEPT)
        try:
            answer = outbound.call(request, CALL_SECONDS, settings.webhook_allow)
        except outbound.Refused as error:
            raise PlatformError(f"Platform API: {error}") from None
        except WebhookFailed as error:
            raise PlatformError(f"Platform API: {error}", again=0) from None
        if answer.status >= 300:
            raise _error(answer, f"{method} {path}")
        try:
            return json.loads(answer.body or b"null")
        except ValueError:
            text = f"Platform API: expected JSON from {method} {path}, got other bytes"
            raise PlatformError(text, again=0) from None


def _dyno(found: Any) -> PlatformDyno:
    fields = found if isinstance(found, dict) else {}
    if not isinstance(fields.get("name"), str):
        raise PlatformError("Platform API: expected a dyno with a name, got none", again=0)
    name, command, state = (str(fields.get(key) or "") for key in ("name", "command", "state"))
    return PlatformDyno(name=name, command=command, state=state)


def _error(answer: outbound.Answer, call: str) -> PlatformError:
    """Return the error of an answer that is none of success."""
    try:
        found = json.loads(answer.body)
        text = f"{found['id']}: {found['message']}"
    except (ValueError, LookupError, TypeError):
        text = answer.body.decode(errors="replace")
    status = answer.status
    parts = [f"Platform API: {call} answered {answer.words}"]
    if text.strip():
        parts.append(printable(masked_text(text.strip()), 300))
    if status in _REMEDIES:
        parts.append(_REMEDIES[HTTPStatus(status)])
    again: float | None = None
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        again = float(outbound.retry_after_header(answer.headers))
        left = answer.headers.get("RateLimit-Remaining", "")
        parts += [f"RateLimit-Remaining is {printable(left, 20)}"] if left else []
    return PlatformError("; ".join(parts), status, again)
