"""Hostile data for Redis, and a reader of pages that finds markup which no template contains."""

from __future__ import annotations

import json
import pickle
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from redis import Redis
from starlette.routing import Mount

from rq_clock.jobs.records import KINDS
from rq_clock.model.targets import command, webhook
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from rq_clock.timing.triggers import cron, every

ROOT = Path(__file__).parents[2] / "rq_clock" / "web"
MARKUP = "\"'><x-evil onerror=x1 style=x2><script>alert(1)</script><img src=x onerror=alert(1)>"
LINK = "javascript:alert(1)//"
CONTROLS = "\x1b[31mred\x1b]0;title\x07 \u202egnitset\u202c \u2066\ufeff"
NUL, HALF = "a\x00b", "\ud83d"
HUGE = "9" * 5000
BYTES = b"\xff\xfe\x80<x-evil onerror=x1>"
NASTY = (MARKUP, LINK, CONTROLS, NUL, "a\r\nX-Evil: 1\r\n\r\n<x-evil>", "{{7*7}}{% x %}", "%s%n{0}")
IDS = (
    MARKUP, "a/b", "../schedules/plain", "a b", "%2e%2e%2f", "100%", "ünï-✓", "a?b=c#d",
    "x\r\nX-Evil: 1", "-" * 300, "a;b:c", "\\\\evil.example", "//evil.example", NUL,
)  # fmt: skip
NAMES = (
    "missing", "wrong", "plain", "half", "shell", "call", "large", "broken", "newer",
    "default-plain-1774746000000",
)  # fmt: skip
DAY_MS = 1_774_746_000_000
LINE = f"{DAY_MS + 1000} {DAY_MS + 3000} worker-<x-evil>"


class Bomb:
    """Whose pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def plant(redis: Redis, mine: Path) -> None:
    """Fill a Redis: schedules with hostile texts, their history, and jobs, queues and workers that
    others have made. Whoever unpickles any of it makes the file `mine`."""
    schedules(redis)
    history(redis)
    jobs(redis, mine)
    workers(redis)


def schedules(redis: Any) -> None:
    """Those that anybody may add who may add any."""
    made = Schedules(redis, by=MARKUP, settings=Settings.from_env({"REDIS_URL": "redis://x"}))
    texts = [*NASTY, {"<x-evil>": list(NASTY)}]
    hour = every(hours=1)
    made.add("plain", hour, "tasks.run", args=texts, kwargs={MARKUP: texts}, tags=[MARKUP, LINK],
             queue=MARKUP, group="g<x-evil>")  # fmt: skip
    made.add("half", hour, "tasks.run", args=["plain"], queue="../x?y#z")
    made.add(
        "shell",
        cron("30 2 * * *", "Europe/Berlin"),
        command(f"echo {MARKUP} {CONTROLS}\nrm {LINK}", cwd=MARKUP, env={"X": MARKUP}),
    )
    made.add("call", hour, webhook(
        "http://127.0.0.1:1/%22%3E%3Cx-evil%3E", headers={"X-A": MARKUP}, json={MARKUP: texts},
    ), ping="https://example.com/'x-evil'")  # fmt: skip
    made.add("large", hour, "tasks.run", args=["x" * 200_000])
    made.pause(["half", "call"], reason=MARKUP + CONTROLS)
    made.skip("plain", 2, reason=MARKUP)
    made.trigger("plain", reason=MARKUP)
    key = "rq-clock:default:"
    stored = json.loads(redis.hget(key + "definitions", "half"))
    stored |= {"args": [HALF], "tags": ["a" + HALF]}
    redis.hset(key + "definitions", "half", json.dumps(stored))
    redis.hset(key + "definitions", "broken", "{")
    redis.hset(key + "definitions", "newer", json.dumps({"trigger": {"<x-evil>": 1}}))
    redis.hset(key + "markers", mapping={"broken": f"{DAY_MS} {DAY_MS}", "newer": f"- {DAY_MS}"})
    redis.incr(key + "revision")


def history(redis: Any) -> None:
    """What became of runs: errors, outputs, alerts, the clock that leads, the audit."""
    key, run = "rq-clock:default:", f"default-plain-{DAY_MS}"
    error = f"ValueError: {MARKUP} {CONTROLS.replace(chr(10), ' ')}"
    entry = f"s {DAY_MS} 5 failed 1 {LINE} {error}"
    redis.rpush(key + "ledger:plain", entry, f"- {DAY_MS} {DAY_MS} 3 window",
                f"x {DAY_MS} {MARKUP.replace(' ', '')}")  # fmt: skip
    redis.xadd(key + "runs", {"schedule": "plain", "job": run, "entry": entry, "again": "queue"},
               id=f"{DAY_MS + 3000}-1")  # fmt: skip
    redis.hset(f"rq:job:{run}", mapping=fields("failed", meta=b"fire_time"))
    redis.set(key + f"output:{run}", b"\x1b[2J" + MARKUP.encode() + BYTES + b"\x00\r\x07")
    redis.zadd(key + "failing", {"plain": DAY_MS})
    redis.hset(
        key + "lease",
        mapping={
            "instance": MARKUP,
            "owner": MARKUP,
            "token": "7.x",
            "release": "<x-evil>",
            "version": MARKUP,
            "tick": str(DAY_MS),
            "proven": "1",
            "since": str(DAY_MS),
        },
    )
    redis.xadd(key + "handovers", {"instance": MARKUP, "owner": MARKUP, "token": "7", "how": MARKUP,
                                   "from": MARKUP})  # fmt: skip
    alert = {"since": DAY_MS, "last": DAY_MS, "count": 1, "reported": None, "detail": MARKUP}
    redis.hset(
        key + "alerts",
        mapping={f"no-worker:{MARKUP}": json.dumps(alert), "late:../x": json.dumps(alert)},
    )
    redis.xadd(
        key + "audit",
        {
            "by": MARKUP,
            "verb": MARKUP,
            "schedules": "plain ../x <x-evil>",
            "count": "3",
            "reason": MARKUP + CONTROLS,
            "detail": json.dumps({MARKUP: MARKUP, "job": "../a", "x": HALF}),
        },
    )


def fields(status: str, **others: Any) -> dict[str, Any]:
    """A job's hash."""
    return {
        "status": status, "description": f"tasks.run({MARKUP!r})", "origin": MARKUP,
        "created_at": "2026-03-29T01:00:00.000000Z", "ended_at": "9" * 30, "enqueued_at": MARKUP,
        "started_at": "inf", "worker_name": MARKUP, "timeout": MARKUP, "retries_left": HUGE,
        "rq_clock_attempt": HUGE, "rq_clock_interruptions": MARKUP, "rq_clock_group": MARKUP,
        "meta": b"", **others,
    }  # fmt: skip


def jobs(redis: Any, mine: Path) -> None:
    """Those of others: odd ids, bombs in all that RQ pickles, keys of another type."""
    bomb = zlib.compress(pickle.dumps(Bomb(mine)))
    queues = (MARKUP, "../x?y#z", "a b", "ü", BYTES, b"default")
    for queue in (q if isinstance(q, bytes) else q.encode() for q in queues):
        redis.sadd("rq:queues", b"rq:queue:" + queue)
        for n, id in enumerate(id.encode() for id in (*IDS, BYTES.decode("latin-1"))):
            trace = zlib.compress(f'Traceback\n  File "{MARKUP}", line 3\n{MARKUP}'.encode())
            values = fields("failed", data=bomb, meta=pickle.dumps(Bomb(mine)), origin=queue)
            redis.hset(b"rq:job:" + id, mapping=values)
            redis.xadd(b"rq:results:" + id, {
                "type": "1" if n % 2 else "2", "return_value": b64encode(pickle.dumps(Bomb(mine))),
                "exc_string": b64encode(trace), "worker_name": MARKUP,
            }, maxlen=3)  # fmt: skip
            redis.sadd(b"rq:job:" + id + b":dependents", MARKUP, BYTES)
            redis.zadd(b"rq:failed:" + queue, {id: 1e9 + n})
            redis.zadd(b"rq:finished:" + queue, {id: n})
            redis.zadd(b"rq:scheduled:" + queue, {id: 1e18})
            redis.zadd(b"rq:wip:" + queue, {id + b":1": float("inf")})
            redis.rpush(b"rq:queue:" + queue, id)
        redis.rpush(b"rq:queue:" + queue, BYTES, b"missing", b"")
        redis.zadd(b"rq:failed:" + queue, {BYTES: 5, b"missing": 6, b"wrong": 7, b"": 8})
    redis.set("rq:job:wrong", "no hash")
    redis.set("rq:results:wrong", "no stream")
    redis.sadd("rq:queues", "rq:queue:wrong", "nonsense", "")
    redis.set("rq:queue:wrong", "x")
    redis.set("rq:failed:wrong", "x")


def workers(redis: Any) -> None:
    """Those of others, and places of workers of ours."""
    values = {
        "state": MARKUP, "queues": f"{MARKUP},a b", "current_job": IDS[2], "birth": MARKUP,
        "last_heartbeat": "9" * 400, "hostname": MARKUP, "pid": LINK, "version": BYTES,
    }  # fmt: skip
    for name in (MARKUP.encode(), BYTES, b"../x"):
        redis.sadd("rq:workers", b"rq:worker:" + name)
        redis.hset(b"rq:worker:" + name, mapping=values)
    redis.sadd("rq:workers", "rq:worker:wrong", "")
    redis.set("rq:worker:wrong", "no hash")
    redis.hset("rq-clock:default:workers", "w<x-evil>", f"1 e default-plain-{DAY_MS} q<x-evil>")


# ---- reading pages ----------------------------------------------------------------------------


def written() -> tuple[set[str], set[str]]:
    """Elements and attributes that our sources write."""
    sources = [*(ROOT / "templates").glob("*.html"), *(ROOT / "pages").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    attributes = re.findall(r"\b([a-zA-Z][a-zA-Z-]*)=[\"{]", text)
    return set(re.findall(r"<([a-z][a-z0-9]*)\b", text)), {name.lower() for name in attributes}


ELEMENTS, ATTRIBUTES = written()
ATTRIBUTES |= {"defer", "required", "selected", "checked", "hidden", "novalidate", "open",
               "data-filter", "data-all", "data-live", "data-running", "x1",
               "x2", "y1", "y2"}  # fmt: skip


class Page(HTMLParser):
    """What a page consists of. `faults` are things that no template of ours writes, `links` the
    paths that it leads to."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.links: list[str] = []
        self._path = path
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag not in ELEMENTS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES or name.startswith("on") or name == "style":
                self.faults.append(f"<{tag} {name}={value!r}>")
            if name in ("href", "src", "action", "formaction"):
                self._lead(tag, value or "")

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.faults.append(f"inline {self._inside}: {data[:40]!r}")
        if self._inside != "textarea" and re.search("[\u202a-\u202e\u2066-\u2069]", data):
            self.faults.append(f"a mark of direction: {data[:40]!r}")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"comment {data[:40]!r}")

    def handle_pi(self, data: str) -> None:
        self.faults.append(f"instruction {data[:40]!r}")

    def _lead(self, tag: str, to: str) -> None:
        """A link has to lead to a path of this site, the one that is written there."""
        where = urljoin(f"http://here{self._path}", re.sub(r"[\t\r\n]", "", to).replace("\\", "/"))
        parts, values = urlsplit(where), to.partition("?")[0].partition("#")[0]
        if (parts.scheme, parts.netloc) != ("http", "here") or to != to.strip():
            self.faults.append(f"<{tag}> leads to {to!r}")
        elif values and any(unquote(s) in (".", "..") for s in values.split("/")):
            self.faults.append(f"<{tag}> leads elsewhere: {to!r}")
        elif tag == "a" and not to.startswith("#"):
            self.links.append(to)


def paths_of(app: FastAPI) -> Iterator[str]:
    """A path for each GET route, with each odd id there is in place of its parameter, and for the
    lists of jobs with each kind."""
    odd = [*(quote(id, safe="") for id in (*IDS, *NAMES)), "%FF%FE", "%ED%A0%80", ""]
    for route in iter_route_contexts(app.routes):
        path = str(route.path)
        if isinstance(route.original_route, Mount) or "GET" not in (route.methods or ()):
            continue
        for value in odd if "{" in path else ("",):
            names = re.findall(r"\{[^}]+\}", path)
            one = path.replace(names[0], value, 1) if names else path
            for verb in ("requeue", "delete", "again") if "{verb}" in one else ("x",):
                yield one.replace(names[-1], verb) if names else one
    for kind in KINDS:
        yield from (f"/jobs?kind={kind}", f"/api/v1/jobs?kind={kind}")
        yield from (f"/queues/{quote(queue, safe='')}?kind={kind}" for queue in (MARKUP, "a b"))
    yield from (
        "/clock?checks=1", "/api/v1/clock?checks=1", "/jobs?q=x", "/timeline?view=table",
        "/?state=invalid", "/?q=x", "/?tag=x", "/?queue=default", "/?origin=declared",
        "/?sort=last",
        "/?state=running", "/runs?q=x&state=failed", "/runs?schedule=plain", "/runs?queue=default",
        "/schedules/plain?history=all", "/api/v1/manifest?format=json", "/readyz?verbose=1",
        "/bulk-jobs/delete?q=x", "/api/v1/runs?schedule=plain",
        "/?sure=1&force=1&verb=run&name=plain",
        "/schedules/plain/run?force=1&sure=1", "/schedules/plain/delete?sure=1&revision=1",
    )  # fmt: skip


def snapshot(redis: Any) -> dict[bytes, Any]:
    """All that a Redis holds."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": redis.hgetall, b"set": redis.smembers, b"string": redis.get,
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: redis.lrange(key, 0, -1), b"stream": redis.xrange,
    }  # fmt: skip
    return {key: (read[redis.type(key)](key), redis.ttl(key) > 0) for key in redis.keys("*")}
