"""Who gets in: every route there is, with no token, a wrong one, and one that lacks the scope."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from itsdangerous import TimestampSigner
from redis import Redis
from starlette.routing import Mount
from starlette.testclient import TestClient

from rq_clock.errors import RqClockError
from rq_clock.settings import Settings, tokens_from
from rq_clock.web import create_app, sessions
from rq_clock.web.auth import COOKIE
from rq_clock.web.context import Needs
from rq_clock.web.middleware import BODY_LIMIT
from rq_clock.web.pages.layout import OPEN_BYTES, OPEN_FIELDS
from rq_clock.web.throttle import ATTEMPTS, network_of
from tests.server import Server, free_url

VALUES = {scope: f"{scope}-0123456789abcdef" for scope in ("read", "operate", "admin", "tasks")}
TOKENS = ",".join(f"{scope}:{scope}:{value}" for scope, value in VALUES.items())
OPEN = {"/login", "/logout", "/theme", "/healthz", "/livez", "/readyz"}
"""Routes for everybody. Logging in and out look where a request comes from; see below."""
HERE = {"Sec-Fetch-Site": "same-origin"}
ELSEWHERE: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "https://testserver"},
    {},
]


def made(redis_url: str, **env: str) -> FastAPI:
    settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKENS, **env})
    return create_app(settings)


def routes() -> list[tuple[str, str, frozenset[str]]]:
    """Every route: method, a path that fits it, the scopes of which it needs one."""
    found = []
    for route in iter_route_contexts(made(free_url()).routes):
        if isinstance(route.original_route, Mount) or route.path in OPEN:
            continue
        path = re.sub(r"\{[^}]+\}", "x", str(route.path))
        scopes = scopes_of(route.dependant)
        assert len(scopes) == 1, f"{route.path} needs {scopes or 'nothing'}"
        found += [(method, path, scopes[0]) for method in sorted(route.methods or ())]
    return found


def scopes_of(dependant: Any) -> list[frozenset[str]]:
    needs = dependant.call
    mine = [frozenset({needs.scope, needs.other} - {""})] if isinstance(needs, Needs) else []
    return mine + [scope for part in dependant.dependencies for scope in scopes_of(part)]


ROUTES = routes()
UNSAFE = [(m, p, s) for m, p, s in ROUTES if m not in ("GET", "HEAD")]


@pytest.fixture(scope="module")
def app(server: Server) -> FastAPI:
    return made(server.url)


@pytest.fixture
def web(app: FastAPI, redis_url: str) -> Iterator[TestClient]:
    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.fixture
def own(redis_url: str) -> Iterator[TestClient]:
    """Of an app that has seen nobody yet."""
    with TestClient(made(redis_url), follow_redirects=False) as client:
        yield client


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def logged_in(web: TestClient, scope: str = "admin") -> None:
    answer = web.post("/login", data={"token": VALUES[scope]}, headers=HERE)
    assert answer.status_code == 303


class TestEveryRoute:
    def test_there_are_routes_of_each_kind(self) -> None:
        assert frozenset.union(*(scopes for *_, scopes in ROUTES)) == VALUES.keys()
        assert len(UNSAFE) > 20

    @pytest.mark.parametrize(("method", "path", "scopes"), ROUTES)
    def test_is_closed_without_a_token(
        self, web: TestClient, method: str, path: str, scopes: frozenset[str]
    ) -> None:
        answer = web.request(method, path)
        if answer.status_code == 303:
            assert not path.startswith(("/api/", "/metrics"))
            assert answer.headers["location"].startswith("/login?next=")
        else:
            assert answer.status_code == 401

    @pytest.mark.parametrize(("method", "path", "scopes"), ROUTES)
    def test_is_closed_without_its_scope(
        self, web: TestClient, method: str, path: str, scopes: frozenset[str]
    ) -> None:
        wrong = [token.name for token in tokens_from(TOKENS) if not token.scopes & scopes]
        for name in wrong:
            assert web.request(method, path, headers=bearer(VALUES[name])).status_code == 403
        assert wrong or scopes == {"tasks", "read"}  # each of these tokens has one

    @pytest.mark.parametrize(("method", "path", "scopes"), UNSAFE)
    def test_refuses_other_sites(
        self, web: TestClient, method: str, path: str, scopes: frozenset[str]
    ) -> None:
        logged_in(web)
        for headers in ELSEWHERE:
            assert web.request(method, path, headers=headers).status_code == 403, headers

    def test_changes_nothing_where_nothing_is_to_be_changed(self, redis_url: str) -> None:
        settings = Settings.from_env({"REDIS_URL": redis_url, "RQ_CLOCK_TOKENS": TOKENS})
        with TestClient(create_app(settings, read_only=True)) as web:
            for method, path, scopes in UNSAFE:
                answer = web.request(method, path, headers=bearer(VALUES["admin"]))
                if scopes == {"read"}:
                    assert path == "/api/v1/explain"
                else:
                    assert answer.status_code == 403, path
                    assert "--read-only" in answer.text

    def test_nobody_gets_in_where_there_is_no_token(self, redis_url: str) -> None:
        with TestClient(made(redis_url, RQ_CLOCK_TOKENS="")) as web:
            for headers in ({}, bearer(""), bearer("x" * 20)):
                answer = web.get("/api/v1/schedules", headers=headers)
                assert answer.status_code == 401
                assert "set RQ_CLOCK_TOKENS" in answer.text
            assert "set RQ_CLOCK_TOKENS" in web.get("/").text


class TestTokens:
    @pytest.mark.parametrize(
        "value", ["", "x", VALUES["admin"] + "x", VALUES["admin"][:-1], VALUES["admin"].upper()]
    )
    def test_another_value_is_refused(self, own: TestClient, value: str) -> None:
        assert own.get("/api/v1/schedules", headers=bearer(value)).status_code == 401

    @pytest.mark.parametrize("header", ["Basic YTpi", VALUES["admin"], "Bearer", "bearer\tx", "é"])
    def test_another_kind_of_authorization_is_refused(self, own: TestClient, header: str) -> None:
        headers = {b"Authorization": header.encode()}
        assert own.get("/api/v1/schedules", headers=headers).status_code == 401

    def test_a_bare_value_is_an_admins(self) -> None:
        settings = Settings.from_env({"RQ_CLOCK_TOKENS": "0123456789abcdef0123"})
        [token] = settings.tokens
        assert (token.name, "admin" in token.scopes) == ("default", True)
        assert "0123456789" not in repr(settings)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("short", "at least 16 characters"),
            ("a:read:0123456789abcdef,a:read:0123456789abcdee", "each name once"),
            ("a:write:0123456789abcdef", "scopes of read, operate, admin, tasks"),
            ("a:read:0123456789 abcdef", "that is neither"),
        ],
    )
    def test_an_invalid_setting_shows_no_secret(self, text: str, message: str) -> None:
        with pytest.raises(RqClockError, match="RQ_CLOCK_TOKENS: expected") as failure:
            Settings.from_env({"RQ_CLOCK_TOKENS": text})
        assert message in str(failure.value)
        assert "0123456789" not in str(failure.value)


class TestCookies:
    def test_it_is_for_the_browser_alone(self, web: TestClient) -> None:
        answer = web.post("/login", data={"token": VALUES["read"]}, headers=HERE)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert VALUES["read"] not in cookie
        secure = TestClient(web.app, base_url="https://testserver", follow_redirects=False)
        answer = secure.post("/login", data={"token": VALUES["read"]}, headers=HERE)
        assert "secure" in answer.headers["set-cookie"].lower()

    def test_it_has_the_scopes_of_its_token(self, web: TestClient) -> None:
        logged_in(web, "read")
        assert web.get("/").status_code == 200
        assert web.post("/schedules/x/pause", headers=HERE).status_code == 403

    def test_a_forged_or_old_one_is_refused(
        self, web: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logged_in(web)
        good = web.cookies[COOKIE]
        name, mark, *_ = good.split(".")
        forged = TimestampSigner("guess", salt="login").sign(f"{name}.{mark}").decode()
        for cookie in (good[:-1], "read" + good[5:], forged, "", "a.b.c.d", "…"):
            with TestClient(web.app, follow_redirects=False) as other:
                headers = {b"Cookie": f"{COOKIE}={cookie}".encode()}
                assert other.get("/", headers=headers).status_code == 303, cookie
        monkeypatch.setattr("rq_clock.web.sessions.SESSION_SECONDS", -1)
        assert web.get("/").status_code == 303

    def test_it_ends_with_its_token(self, web: TestClient, redis_url: str) -> None:
        logged_in(web, "read")
        changed = TOKENS.replace(VALUES["read"], "another-0123456789abcdef")
        app = made(redis_url, RQ_CLOCK_TOKENS=changed, RQ_CLOCK_COOKIE_SECRET="s")
        before = made(redis_url, RQ_CLOCK_COOKIE_SECRET="s")
        with TestClient(before, follow_redirects=False) as first:
            logged_in(first, "read")
            cookie = {"Cookie": f"{COOKIE}={first.cookies[COOKIE]}"}
            assert first.get("/").status_code == 200
        with TestClient(app, follow_redirects=False) as second:
            assert second.get("/", headers=cookie).status_code == 303

    def test_it_gives_no_way_to_try_tokens(self, web: TestClient) -> None:
        """Not without the key, which takes 600,000 rounds a try."""
        logged_in(web, "read")
        name, mark, *_ = web.cookies[COOKIE].split(".")
        joined = "\n".join(VALUES.values())
        for key in (joined, sha256(b"rq-clock" + joined.encode()).digest()):
            forged = TimestampSigner(key, salt="login").sign(f"{name}.{mark}.0").decode()
            assert web.get("/", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 303
        assert mark not in sha256(VALUES["read"].encode()).hexdigest()

    def test_a_login_from_elsewhere_is_refused(self, web: TestClient) -> None:
        for headers in ELSEWHERE:
            answer = web.post("/login", data={"token": VALUES["read"]}, headers=headers)
            assert answer.status_code == 403

    @pytest.mark.parametrize(
        "to", ["https://evil.example", "//evil.example", "/\\evil.example", "x", "/a\r\nX: y", ""]
    )
    def test_a_login_leads_to_no_other_site(self, web: TestClient, to: str) -> None:
        form = {"token": VALUES["read"], "next": to}
        answer = web.post("/login", data=form, headers=HERE)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


class TestAttempts:
    def test_too_many_failures_have_to_wait_and_a_right_token_never(self, own: TestClient) -> None:
        for _ in range(ATTEMPTS):
            assert own.post("/login", data={"token": "guess"}, headers=HERE).status_code == 401
        answer = own.post("/login", data={"token": "guess"}, headers=HERE)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert own.get("/api/v1/schedules", headers=bearer(VALUES["read"])).status_code == 200
        logged_in(own)

    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
            ("", ""),
            ("x" * 1000, "x" * 100),
        ],
    )
    def test_all_addresses_of_an_ipv6_network_are_one(self, address: str, network: str) -> None:
        assert network_of(address) == network

    def test_they_are_counted_over_all_processes(self, redis_url: str) -> None:
        for n in range(ATTEMPTS):
            with TestClient(made(redis_url)) as web:
                web.get("/api/v1/schedules", headers=bearer(f"guess{n}"))
        with TestClient(made(redis_url)) as web:
            assert web.get("/api/v1/schedules", headers=bearer("guess")).status_code == 401
            assert web.get("/api/v1/schedules", headers=bearer("guess")).status_code == 429
        with Redis.from_url(redis_url) as redis:
            [key] = redis.keys("rq-clock:default:attempts:*")
            assert 0 < redis.ttl(key) <= 60

    @pytest.mark.integration
    def test_they_are_counted_while_redis_is_away(self) -> None:
        with TestClient(made(free_url())) as web:
            codes = [
                web.get("/api/v1/schedules", headers=bearer("guess")).status_code
                for _ in range(ATTEMPTS + 1)
            ]
        assert codes == [401] * ATTEMPTS + [429]

    def test_one_address_does_not_hold_up_another(self, redis_url: str) -> None:
        app = made(redis_url, RQ_CLOCK_PROXY="1")
        with TestClient(app) as web:
            for _ in range(ATTEMPTS + 1):
                spoofed = bearer("guess") | {"X-Forwarded-For": "10.0.0.1, 203.0.113.7"}
                web.get("/api/v1/schedules", headers=spoofed)
            blocked = bearer("guess") | {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
            assert web.get("/api/v1/schedules", headers=blocked).status_code == 429
            other = bearer("guess") | {"X-Forwarded-For": "203.0.113.7, 198.51.100.1"}
            assert web.get("/api/v1/schedules", headers=other).status_code == 401

    def test_a_token_that_asks_too_often_has_to_wait(self, redis_url: str) -> None:
        with TestClient(made(redis_url, RQ_CLOCK_TOKEN_RATE="1")) as web:
            for token, codes in (("read", {200, 429}), ("operate", {200})):
                path, count = "/api/v1/schedules", 12 if token == "read" else 1
                found = [web.get(path, headers=bearer(VALUES[token])) for _ in range(count)]
                assert {answer.status_code for answer in found} == codes
            assert found[0].status_code == 200


class TestSessions:
    def test_logout_ends_the_session_in_all_processes(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "KEPT_SECONDS", 0.0)
        with (
            TestClient(made(redis_url), follow_redirects=False) as web,
            TestClient(made(redis_url), follow_redirects=False) as other,
        ):
            logged_in(web)
            cookie = web.cookies[COOKIE]
            logged_in(web)
            later = web.cookies[COOKIE]
            ended = {"Cookie": f"{COOKIE}={cookie}"}
            assert other.get("/", headers=ended).status_code == 200
            web.cookies.clear()
            assert web.post("/logout", headers=HERE | ended).status_code == 303
            for client in (web, other):
                assert client.get("/", headers=ended).status_code == 303
                alive = {"Cookie": f"{COOKIE}={later}"}
                assert client.get("/", headers=alive).status_code == 200

    def test_what_is_no_session_ends_none(self, web: TestClient, connection: Redis) -> None:
        for cookie in ("", "x", "a.b.c", "read.0123"):
            headers = HERE | {"Cookie": f"{COOKIE}={cookie}"}
            assert web.post("/logout", headers=headers).status_code == 303
        assert not connection.keys("*logouts")


class TestMiddleware:
    def test_every_answer_keeps_a_browser_in(self, web: TestClient) -> None:
        for path in ("/login", "/", "/static/app.css", "/nothing", "/api/v1/nothing", "/healthz"):
            headers = web.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert re.fullmatch(r"[0-9a-f]{16}", headers["x-request-id"])
            assert "server" not in headers

    def test_a_body_that_is_too_large_is_refused(self, web: TestClient) -> None:
        large = b"x" * (BODY_LIMIT + 1)
        answer = web.post("/login", content=large, headers=HERE)
        assert answer.status_code == 413

        def chunks() -> Iterator[bytes]:
            yield from [b"x" * 65536] * (BODY_LIMIT // 65536 + 1)

        assert web.post("/login", content=chunks(), headers=HERE).status_code == 413

    @pytest.mark.parametrize("path", ["/login", "/theme"])
    def test_what_anybody_may_send_is_small(self, web: TestClient, path: str) -> None:
        many, large = b"a=&" * (OPEN_FIELDS + 1), b"a=" + b"x" * OPEN_BYTES
        assert web.post(path, content=many, headers=HERE).status_code == 422
        assert web.post(path, content=large, headers=HERE).status_code == 413

    def test_a_form_has_as_many_fields_as_a_bulk_operation(self, web: TestClient) -> None:
        logged_in(web)
        assert web.post("/new", content=b"a=&" * 2001, headers=HERE).status_code == 422

    def test_a_browser_behind_tls_stays_there(self, redis_url: str) -> None:
        with TestClient(made(redis_url, DYNO="web.1")) as web:
            for scheme in ("http", "https"):
                answer = web.get("/login", headers={"X-Forwarded-Proto": scheme})
                assert ("strict-transport-security" in answer.headers) == (scheme == "https")

    @pytest.mark.parametrize(
        ("length", "status"), [("-1", 422), ("x", 422), ("1e9", 422), ("99999999999999999999", 413)]
    )
    def test_a_length_that_is_none_is_refused(
        self, web: TestClient, length: str, status: int
    ) -> None:
        answer = web.post("/login", content=b"", headers=HERE | {"Content-Length": length})
        assert answer.status_code == status

    @pytest.mark.parametrize(
        "path",
        ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
         "/static/%00", "/static/app.css%00.png"],
    )  # fmt: skip
    def test_nothing_but_static_files_is_static(self, web: TestClient, path: str) -> None:
        assert web.get(path).status_code == 404

    def test_a_proxy_is_trusted_only_by_setting(self, redis_url: str) -> None:
        forwarded = HERE | {"X-Forwarded-Proto": "https"}
        for trusted in (False, True):
            app = made(redis_url, **({"RQ_CLOCK_PROXY": "1"} if trusted else {}))
            with TestClient(app, follow_redirects=False) as web:
                answer = web.post("/login", data={"token": VALUES["read"]}, headers=forwarded)
                assert ("secure" in answer.headers["set-cookie"].lower()) is trusted

    def test_no_header_comes_from_the_request(self, web: TestClient) -> None:
        answer = web.get("/schedules/a%0d%0aX-Evil:%20y", headers=bearer(VALUES["read"]))
        assert "x-evil" not in answer.headers


@pytest.fixture
def away() -> Iterator[TestClient]:
    with TestClient(made(free_url()), follow_redirects=False) as client:
        yield client


@pytest.mark.integration
def test_without_redis_the_door_still_works(away: TestClient) -> None:
    logged_in(away)
    answer = away.get("/")
    assert answer.status_code == 503
    assert "no Redis at" in answer.text


def test_a_redis_of_somebody_else_is_left_alone(connection: Redis, redis_url: str) -> None:
    """Looking at everything writes nothing."""
    with TestClient(made(redis_url)) as web:
        for method, path, _ in ROUTES:
            if method == "GET":
                assert web.get(path, headers=bearer(VALUES["admin"])).status_code < 500
    assert connection.keys("*") == []


def test_without_tokens_the_login_says_what_to_run(redis_url: str) -> None:
    with TestClient(made(redis_url, RQ_CLOCK_TOKENS="")) as web:
        page = web.get("/login").text
    assert "heroku config:set RQ_CLOCK_TOKENS=$(openssl rand -hex 32)" in page
    assert "<form" not in page.partition("<main")[2].partition("</main")[0]


@pytest.mark.parametrize("platform", ["DYNO", "RENDER", "FLY_APP_NAME", ""])
def test_platforms_whose_router_is_trusted(platform: str) -> None:
    env = {platform: "x"} if platform else {}
    assert Settings.from_env(env).behind_proxy is bool(platform)
    assert not Settings.from_env({**env, "RQ_CLOCK_PROXY": "0"}).behind_proxy
