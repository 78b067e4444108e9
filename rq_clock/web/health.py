"""Health checks of this process, for platforms and load balancers. They need no token, so they
reveal no data. /readyz ignores a missing clock unless `clock=1`: otherwise a load balancer would
remove the dashboard just when it shows that no clock leads.

    /healthz, /livez   this process answers; Redis is not used
    /readyz            Redis answers in time, with data that this release understands
    /readyz?clock=1    and a clock leads
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from rq_clock.store.store import DATA_VERSION, Store, data_fault

REDIS_SECONDS = 0.5

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    text: str


@router.get("/healthz")
@router.get("/livez")
async def healthz() -> JSONResponse:
    """Return that this process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Return 503 unless every check is ok. The body then lists the checks, as with ?verbose."""
    clock, verbose = (
        request.query_params.get(name, "0") not in ("0", "false") for name in ("clock", "verbose")
    )
    checks = run_checks(request.app.state.web.store, clock=clock)
    ready = all(check.ok for check in checks)
    body: dict[str, Any] = {"status": "ok" if ready else "unavailable"}
    if verbose or not ready:
        body["checks"] = [asdict(check) for check in checks]
    return JSONResponse(body, 200 if ready else 503)


def run_checks(store: Store, *, clock: bool) -> list[Check]:
    """Return the checks; with `clock` also whether a clock leads. One round trip. An unreachable
    Redis is a failed check, not an error."""
    began = monotonic()
    pipe: Any = store.redis.pipeline(transaction=False)
    pipe.hget(store.key("meta"), "version")
    pipe.exists(store.key("lease"))
    try:
        version, leads = pipe.execute()
    except RedisError:
        return [Check("redis", False, "it cannot be used")]
    seconds = monotonic() - began
    known = not data_fault(store.namespace, int(version or 0))
    checks = [
        Check("redis", seconds <= REDIS_SECONDS, f"answered in {seconds * 1000:.0f} ms"),
        Check("data", known, f"version {int(version or 0)}, understood: {DATA_VERSION}"),
    ]
    if clock:
        checks.append(Check("clock", bool(leads), "one leads" if leads else "none leads"))
    return checks
