"""The context of every route: the parts of the app, the caller, and the scope that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from redis import Redis

from rq_clock.callbacks import Callbacks
from rq_clock.jobs.executions import Executions
from rq_clock.jobs.queues import Queues
from rq_clock.schedules.listing import ScheduleList
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings, Token, environment, known_secrets
from rq_clock.store.audit import Actor, RequestKey
from rq_clock.store.client import connect
from rq_clock.store.store import Store
from rq_clock.web.auth import SAFE, Access
from rq_clock.web.changes import Changes
from rq_clock.web.problems import Problem

if TYPE_CHECKING:
    from rq_clock.web.sections import Section

API = "/api/v1"
"""Where the API of rq-clock begins; other paths below /api are those of an app."""
REPLY_SECONDS = 0.6
"""A Redis that is silent this long counts as gone. A page takes three round trips, and a fourth one
while a schedule is in trouble."""
CONNECTIONS = 10
"""Connections to Redis at most, whatever comes: small plans allow 20 in all, and the clock needs
its own."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one app, stored at `request.app.state.web`. Connects on first use."""

    settings: Settings
    redis: Redis
    store: Store
    executions: Executions
    schedules: ScheduleList
    queues: Queues
    access: Access
    changes: Changes
    read_only: bool
    sections: tuple[Section, ...]

    @classmethod
    def of(
        cls, settings: Settings, redis: Redis | None, *, read_only: bool,
        sections: tuple[Section, ...] = (),
    ) -> Context:  # fmt: skip
        """Return the parts. Raises StoreUnavailable when REDIS_URL is not set."""
        redis = redis or connect(settings=settings, seconds=REPLY_SECONDS, pool_size=CONNECTIONS)
        store = Store.from_settings(redis, settings)
        secrets = environment() | {f"token {t.name}": t.value for t in settings.tokens}
        return cls(
            settings=settings,
            redis=redis,
            store=store,
            executions=Executions.from_settings(redis, settings),
            schedules=ScheduleList(store),
            queues=Queues(store, runs=settings.runs, secrets=known_secrets(secrets)),
            access=Access(settings, redis),
            changes=Changes(store),
            read_only=read_only,
            sections=sections,
        )

    def section(self, path: str) -> Section | None:
        """Return the section of the app that serves a path; None for rq-clock's own."""
        first = "/" + path[1:].partition("/")[0]
        return next((section for section in self.sections if section.path == first), None)

    def is_of_section(self, path: str) -> bool:
        """Return whether a page or an API route of the app serves a path."""
        own_api = path.startswith("/api/") and not path.startswith(f"{API}/")
        return own_api or self.section(path) is not None


def context_of(request: Request) -> Context:
    """Return the context of the app that serves this request."""
    return cast(Context, request.app.state.web)


def root_of(request: Request) -> str:
    """Return the path that the app is mounted under, or ""."""
    return str(request.scope.get("root_path", ""))


def path_of(request: Request) -> str:
    """Return the path within the app."""
    return str(request.scope["path"]).removeprefix(root_of(request))


@dataclass(frozen=True, slots=True)
class Caller:
    """A request whose token has the scope of its route. `once` is the key of a request that acts
    once (idempotency.py)."""

    request: Request
    context: Context
    token: Token
    once: RequestKey | None = None

    @property
    def namespace(self) -> str:
        return self.context.settings.namespace

    @property
    def may_operate(self) -> bool:
        """Return whether pages offer it operations."""
        return "operate" in self.token.scopes and not self.context.read_only

    @property
    def service(self) -> Schedules:
        """Return the service for schedules, with the token's name as the actor."""
        return Schedules(
            self.context.redis, by=self.token.name, settings=self.context.settings,
            request_key=self.once,
        )  # fmt: skip

    @property
    def callbacks(self) -> Callbacks:
        """Return the callbacks, with the token's name as the actor."""
        return Callbacks(
            self.context.redis, by=self.token.name, settings=self.context.settings,
            request_key=self.once,
        )  # fmt: skip

    @property
    def allowed_targets(self) -> tuple[str, ...] | None:
        """Return the functions that its definitions may call, as patterns; None for any, and
        commands too."""
        if "commands" in self.token.scopes:
            return None
        targets = self.context.settings.targets
        return self.context.store.packages() if targets is None else targets

    def actor(self, reason: str = "") -> Actor:
        """Return the actor of an operation on jobs."""
        return Actor(by=self.token.name, reason=reason, request_key=self.once)


_bearer = HTTPBearer(auto_error=False, description="A token of RQ_CLOCK_TOKENS.")


@dataclass(frozen=True, slots=True)
class Needs:
    """A dependency that returns the caller, whose token must have this scope, or the `other` one. A
    read-only process refuses changes."""

    scope: str
    other: str = ""

    def __call__(self, request: Request, _: Annotated[object, Depends(_bearer)]) -> Caller:
        context = context_of(request)
        if context.access.closed:
            raise Problem(
                "unauthorized",
                "no token is set: set RQ_CLOCK_TOKENS, such as to the output of "
                "`openssl rand -hex 32`, and restart",
            )
        token = context.access.token(request)
        if token is None:
            raise Problem(
                "unauthorized",
                "expected a token: Authorization: Bearer …",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not token.scopes & {self.scope, self.other}:
            expected = f"{self.scope} or {self.other}" if self.other else self.scope
            raise Problem(
                "forbidden",
                f"expected a token with the scope {expected}, got {token.name!r}, which has "
                f"{', '.join(sorted(token.scopes))}",
            )
        if context.read_only and self.scope != "read" and request.method not in SAFE:
            raise Problem("read-only", "this process was started with --read-only")
        return Caller(request, context, token)


Read = Annotated[Caller, Depends(Needs("read"))]
Operate = Annotated[Caller, Depends(Needs("operate"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]
AddTasks = Annotated[Caller, Depends(Needs("tasks"))]
ReadTasks = Annotated[Caller, Depends(Needs("tasks", "read"))]
OperateTasks = Annotated[Caller, Depends(Needs("tasks", "operate"))]
Web = Annotated[Context, Depends(context_of)]
