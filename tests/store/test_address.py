"""The URL of a server: read in all its forms, and a password never shown."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rq_clock.errors import RqClockError, StoreUnavailable
from rq_clock.redaction import masked_text
from rq_clock.settings import Settings
from rq_clock.store.address import parse_address, redacted
from rq_clock.store.client import connect

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mark", "#/?@%")
@pytest.mark.parametrize("form", [":s3{}cr3t@host/0", "app:s3{}cr3t@host:6379/0", ":{}s3cr3t@host"])
def test_a_password_is_never_shown(scheme: str, mark: str, form: str) -> None:
    url = f"{scheme}://{form.format(mark)}"
    settings = Settings.from_env({"REDIS_URL": url})
    shown = [repr(settings), redacted(url), masked_text(f"redis-cli -u {url} ping")]
    if mark in "#/?":
        with pytest.raises(StoreUnavailable, match=f"{re.escape(mark)} as %{ord(mark):X}") as error:
            connect(settings=settings)
        shown.append(str(error.value))
    else:
        shown += [repr(connect(settings=settings)), repr(parse_address(url))]
    assert not [text for text in shown if "s3" in text or "cr3t" in text]


@pytest.mark.parametrize(
    "url", ["redis://:s3cr3t", "redis://host@app:s3cr3t", "redis://app:s3cr3t:host/0", "s3cr3t",
            "redis://app:p@s3cr3t/x@host/0", "redis://host/0?password=s3cr3t&ssl_cert_reqs=s3cr3t",
            "rediss://host?ssl_s3cr3t=1", "redis://host:99999/s3cr3t"],
)  # fmt: skip
def test_no_part_is_shown_of_a_url_that_cannot_be_read(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="cannot understand the Redis URL") as caught:
        connect(url)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(RqClockError) as wrong:
        Settings.from_env({"RQ_CLOCK_REDIS_ENV": "redis://:s3cr3t@host"})
    assert "s3cr3t" not in str(wrong.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://host", {"host": "host", "port": 6379}),
        ("redis:///2", {"host": "localhost", "port": 6379, "db": 2}),
        ("valkey://u:p%23w@host:1/0", {"username": "u", "password": "p#w", "port": 1}),
        ("redis://[::1]:6380/1", {"host": "::1", "port": 6380, "db": 1}),
        ("redis://s3@cr3t@host", {"username": "s3@cr3t", "host": "host"}),
        ("unix://u:p@/tmp/a@b.sock?db=3", {"path": "/tmp/a@b.sock", "db": 3, "password": "p"}),
        ("redis://host/0?family=0&decode_responses=1&max_connections=1", {"host": "host", "db": 0}),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none"}),
        ("valkeys://host?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": "required"}),
        ("rediss://host?ssl_cert_reqs=None&ssl_ca_certs=/a%2Fb", {"ssl_ca_certs": "/a/b"}),
    ],
)
def test_every_form_of_a_url_is_read(url: str, options: dict[str, Any]) -> None:
    found = parse_address(url).options
    assert {name: found[name] for name in options} == options
    assert not found.keys() & {"family", "decode_responses", "max_connections"}


def test_sentinels_have_hosts_a_service_and_passwords_of_their_own() -> None:
    url = "rediss+sentinel://app:pw@a:1,[::1]/shop/3?sentinel_password=p%40w&sentinel_username=s"
    found = parse_address(url)
    assert (found.tls, found.sentinel, found.service) == (True, True, "shop")
    assert found.hosts == (("a", 1), ("::1", 26379))
    assert found.options == {"username": "app", "password": "pw", "db": 3}
    assert found.sentinel_options == {"username": "s", "password": "p@w"}
    assert redacted(url) == "rediss+sentinel://a:1,[::1]/shop/3"
    assert parse_address("redis+sentinel://a/3").service == "mymaster"
    assert parse_address("redis+sentinel://a/shop").options == {}


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis://host?ssl_cert_reqs=none", "rediss://"),
        ("rediss://host?ssl_cert_reqs=bad", "none, optional or required"),
        ("rediss://host?ssl_cert_req=none", "ssl_cert_reqs"),
        ("redis://a,b/0", "sentinel"),
        ("http://host/", "expected redis://"),
        ("redis://host?db=x", "a number"),
        ("unix://sock", "unix:///"),
    ],
)
def test_a_wrong_url_names_what_to_write(url: str, remedy: str) -> None:
    with pytest.raises(StoreUnavailable, match=remedy):
        connect(url)
