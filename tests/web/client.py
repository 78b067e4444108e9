"""A caller of the API, for tests: an app on a Redis, and who asks."""

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

VALUES = {scope: f"{scope}-0123456789abcdef" for scope in ("read", "operate", "admin")}
TOKENS = ",".join(f"{scope}:{scope}:{value}" for scope, value in VALUES.items())
ADMIN, OPERATOR, READER = (f"{name}-token-0123456789" for name in ("admin", "operator", "reader"))
PAGE_TOKENS = f"ana:admin:{ADMIN},oli:operate+read:{OPERATOR},eve:read:{READER}"
API = "/api/v1"


def app_on(redis_url: str, *, read_only: bool = False) -> FastAPI:
    """An app whose tokens are named like their scope. It waits for Redis as long as that takes:
    these tests are about what is answered, on a machine that may be busy."""
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKENS})
    return create_app(settings, redis=Redis.from_url(redis_url), read_only=read_only)


@lru_cache
def validator(schema: str) -> Any:
    return jsonschema_rs.Draft202012Validator(json.loads(schema), validate_formats=True)


class Caller:
    """Somebody with a token, who holds each answer against the document. Paths are those below
    /api/v1."""

    def __init__(self, app: FastAPI, scope: str = "admin") -> None:
        self._document = app.openapi()
        self._client = TestClient(app, headers={"Authorization": f"Bearer {VALUES[scope]}"})

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The whole answer. `body` is sent as JSON."""
        if body is not None:
            options["json"] = body
        headers = {k.replace("_", "-"): v for k, v in options.pop("headers", {}).items()}
        answer = self._client.request(method, API + path, headers=headers, **options)
        self._hold(method, path.partition("?")[0], answer)
        return answer

    def _hold(self, method: str, path: str, answer: Any) -> None:
        """An answer is one that is told, and its body what is told of it."""
        for template, methods in self._document["paths"].items():
            fits = re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), API + path)
            if fits and method.lower() in methods:
                said = methods[method.lower()]["responses"]
                assert str(answer.status_code) in said, f"{method} {path}: {answer.status_code}"
                content = said[str(answer.status_code)].get("content", {})
                kind = answer.headers.get("content-type", "").partition(";")[0]
                schema = content.get(kind, {}).get("schema")
                if schema and kind.endswith("json"):
                    components = {"components": self._document["components"]}
                    faults = validator(json.dumps(schema | components)).iter_errors(answer.json())
                    assert not list(faults), f"{method} {path}: {answer.text}"

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call, and return the body of a successful answer."""
        answer = self(method, path, body, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call, and return the problem of a refused request: status, kind and document."""
        answer = self(method, path, body, **options)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem = answer.json()
        assert problem["status"] == answer.status_code
        return f"{answer.status_code} {problem['type'].rpartition(':')[2]}", problem


def schedules_on(redis: Redis) -> Schedules:
    """Another one who changes schedules there."""
    return Schedules(redis, by="bob", settings=Settings.from_env({"REDIS_URL": "redis://x"}))
