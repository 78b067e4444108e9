"""A client of the API for tests, and the app it calls."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import jsonschema_rs
from fastapi import FastAPI
from redis import Redis
from starlette.testclient import TestClient

from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.web import create_app

VALUES = {
    name: f"{name}-0123456789abcdef" for name in ("read", "operate", "limited", "admin", "tasks")
}
_SCOPES = {"limited": "admin", "admin": "admin+commands"}
TOKENS = ",".join(f"{name}:{_SCOPES.get(name, name)}:{value}" for name, value in VALUES.items())
ADMIN, OPERATOR, READER = (f"{name}-token-0123456789" for name in ("admin", "operator", "reader"))
PAGE_TOKENS = f"ana:admin+commands:{ADMIN},oli:operate+read:{OPERATOR},eve:read:{READER}"
API = "/api/v1"


def app_on(redis_url: str, *, read_only: bool = False, **env: str) -> FastAPI:
    """Return an app whose tokens are named like their scope; only `limited` is an admin that may
    define no commands. It waits for Redis without a limit."""
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKENS, **env})
    return create_app(settings, redis=Redis.from_url(redis_url), read_only=read_only)


@lru_cache
def validator(schema: str) -> Any:
    return jsonschema_rs.Draft202012Validator(json.loads(schema), validate_formats=True)


class Caller:
    """A client with a token. It checks each response against the OpenAPI document.

    Paths are relative to /api/v1.
    """

    def __init__(self, app: FastAPI, scope: str = "admin") -> None:
        self._document = app.openapi()
        self._client = TestClient(app, headers={"Authorization": f"Bearer {VALUES[scope]}"})

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Return the response. `body` is sent as JSON."""
        if body is not None:
            options["json"] = body
        headers = {k.replace("_", "-"): v for k, v in options.pop("headers", {}).items()}
        response = self._client.request(method, API + path, headers=headers, **options)
        self._check(method, path.partition("?")[0], response)
        return response

    def _check(self, method: str, path: str, response: Any) -> None:
        """Fail unless the document has this status and its schema fits the body."""
        for template, methods in self._document["paths"].items():
            fits = re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), API + path)
            if fits and method.lower() in methods:
                responses = methods[method.lower()]["responses"]
                code = str(response.status_code)
                assert code in responses, f"{method} {path}: {code}"
                content = responses[code].get("content", {})
                kind = response.headers.get("content-type", "").partition(";")[0]
                schema = content.get(kind, {}).get("schema")
                if schema and kind.endswith("json"):
                    components = {"components": self._document["components"]}
                    faults = validator(json.dumps(schema | components)).iter_errors(response.json())
                    assert not list(faults), f"{method} {path}: {response.text}"

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call, and return the body of a successful response."""
        response = self(method, path, body, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call, and return the problem of a refused request: status, kind and document."""
        response = self(method, path, body, **options)
        assert response.headers["content-type"] == "application/problem+json", response.text
        problem = response.json()
        assert problem["status"] == response.status_code
        return f"{response.status_code} {problem['type'].rpartition(':')[2]}", problem

    def error(self, method: str, path: str, body: Any = None, **options: Any) -> str:
        """Call, and return the status and kind of a refused request."""
        kind: str = self.refused(method, path, body, **options)[0]
        return kind

    def faults(self, method: str, path: str, body: Any = None, **options: Any) -> list[str]:
        """Call, and return the fields of an invalid request: pointers or parameters."""
        kind, problem = self.refused(method, path, body, **options)
        assert kind == "422 validation", problem
        return [e["pointer"] if "pointer" in e else e["parameter"] for e in problem["errors"]]


def schedules_on(redis: Redis) -> Schedules:
    """Return the schedules as another user, bob."""
    return Schedules(redis, by="bob", settings=Settings.from_env({"REDIS_URL": "redis://x"}))
