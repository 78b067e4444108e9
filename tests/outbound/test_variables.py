"""Variables in web calls: stored as a name, resolved by the worker, for those who may."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from hmac import digest
from typing import Any

import pytest
from redis import Redis

from rq_clock import env
from rq_clock.errors import ScheduleError
from rq_clock.manifest.definition import document
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import webhook
from rq_clock.outbound.signature import signature_headers
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from tests.recorder import Handler, Recorder, serving
from tests.runners.lab import enqueue, refused, work

KEY = "hunter22/&x"


class Accept(Handler):
    def respond(self) -> None:
        body = json.dumps({"got": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    with serving(Recorder(Accept)) as server:
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("CRM", KEY + "\n")
        yield server


def call(url: str) -> Any:
    return webhook(
        f"{url}/hook/{env('CRM')}",
        headers={"Authorization": f"Bearer {env('CRM')}"},
        json={"keys": [env("CRM"), 1]},
    )


def declared(target: Any) -> Schedule:
    return declare("x", every(hours=1), target, {})


def test_the_worker_puts_them_in_place_and_shows_none(
    receiver: Recorder, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    target = call(receiver.url)
    job = enqueue(connection, target)
    assert KEY not in json.dumps(document(declared(target))) + str(job.kwargs) + job.description
    work(connection)
    [seen] = receiver.seen
    assert seen["path"] == "/hook/hunter22%2F%26x"
    assert seen["headers"]["Authorization"] == f"Bearer {KEY}"
    assert json.loads(seen["body"]) == {"keys": [KEY, 1]}
    assert job.return_value() == {"status": 200, "body": '{"got": "****"}'}
    assert "hunter22" not in caplog.text


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ABSENT", None, "the variable ABSENT is not set on this worker; set it"),
        ("LINES", "sec\nret", "a variable in the header X has characters that none may"),
        ("HIDDEN", "redis://h/0", "the variable HIDDEN is rq-clock's own"),
    ],
)
def test_what_cannot_be_sent_fails_without_its_value(
    name: str, value: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    if value:
        monkeypatch.setenv(name, value)
    error = refused("https://example.com/", headers={"X": env(name)})
    assert text in error
    assert not value or value not in error


def test_a_run_of_a_token_gets_only_what_is_listed(
    receiver: Recorder, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for listed, count in (("", 0), ("CRM", 1)):
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ENV", listed)
        job = enqueue(connection, call(receiver.url))
        job.meta["rq_clock"]["allowed_targets"] = []
        job.save_meta()
        work(connection)
        assert len(receiver.seen) == count
    assert KEY not in str(job.meta)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (webhook(f"https://{env('CRM')}.example/"), "webhook.url"),
        (webhook(f"https://example.com/{env('REDIS_URL')}"), "webhook.url"),
        (webhook("https://example.com/", headers={"X": env("RQ_CLOCK_TOKENS")}), "webhook.headers"),
        (webhook("https://example.com/", json=[{"a": env("no name")}]), ""),
        (webhook("https://example.com/", json=[{"a": env("9")}]), "webhook.json"),
    ],
)
def test_a_declaration_may_not_name(target: Any, field: str) -> None:
    if not field:  # an ordinary text
        assert declared(target).target == target
        return
    with pytest.raises(ScheduleError) as caught:
        declared(target)
    assert {fault.field for fault in caught.value.faults} == {field}


def test_a_run_time_schedule_names_only_what_is_listed(redis_url: str, connection: Redis) -> None:
    for listed in ("", "OTHER", "CRM"):
        settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_WEBHOOK_ENV": listed})
        schedules = Schedules(connection, settings=settings)
        if listed == "CRM":
            schedules.add("x", every(hours=1), call("https://example.com"))
            continue
        with pytest.raises(ScheduleError, match="RQ_CLOCK_WEBHOOK_ENV lists, got CRM"):
            schedules.add("x", every(hours=1), call("https://example.com"))
    declared(call("https://example.com"))


def test_a_call_is_signed_if_a_secret_is_set(
    receiver: Recorder, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"0123456789abcdef01234567"
    monkeypatch.setenv("RQ_CLOCK_WEBHOOK_SECRET", f"whsec_{b64encode(key).decode()}")
    enqueue(connection, webhook(receiver.url, json={"a": 1}))
    work(connection)
    [seen] = receiver.seen
    sent = {name.lower(): value for name, value in seen["headers"].items()}
    assert sent["webhook-id"] == sent["idempotency-key"]
    at = datetime.fromtimestamp(int(sent["webhook-timestamp"]), UTC)
    expected = signature_headers(key, sent["webhook-id"], at, seen["body"])
    assert expected.items() <= sent.items()


def test_the_signature_is_that_of_the_specification() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    headers = signature_headers(b"key", "x/1", at, b"{}")
    signed = digest(b"key", b"x/1.1772323200.{}", sha256)
    assert headers["webhook-signature"] == f"v1,{b64encode(signed).decode()}"
