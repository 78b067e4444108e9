"""What tests of locks share: the names of keys, processes that take a lock, a lock that is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rq_clock.lock import exclusive
from tests.clock.storm import Client
from tests.process import Process

LOCK = "rq-clock:default:locks:it"
TOKEN = "rq-clock:default:lock-token:it"
RESOURCE = """
redis.call('RPUSH', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or 0) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[1] .. ' ' .. ARGV[2])
return 1
"""
"""Refuses a writer with a lower token than it has seen.

KEYS 1 the highest token   2 what was attempted   3 what was accepted   ARGV 1 token   2 writer
"""
HEAD = f"""
import os, random, signal, sys, threading, time
from redis import Redis
from rq_clock.errors import Busy, LockLost
from rq_clock.lock import exclusive

other = Redis.from_url(os.environ['REDIS_URL'])
resource = other.register_script({RESOURCE!r})

def write(lock, writer):
    return resource(['highest', 'attempts', 'accepted'], [lock.token, writer])

def say(*words):
    print(*words, flush=True)

def pause(seconds):
    threading.Event().wait(seconds)
"""


class Script(Process):
    """A process that runs some lines of Python, and its output."""

    def __init__(self, path: Path, url: str, body: str) -> None:
        number = len(list(path.glob("*.log")))
        source = path / f"script{number}.py"
        source.write_text(HEAD + body)
        super().__init__(path / f"script{number}.log", str(source), env={"REDIS_URL": url})


Start = Callable[[str], Script]


def once(redis: Client, **options: Any) -> int:
    """Be in the block for a moment. Return the token."""
    with exclusive("it", redis=redis, **options) as lock:
        return lock.token


def fail(redis: Client, error: BaseException, **options: Any) -> None:
    with exclusive("it", redis=redis, **options):
        raise error


def lasts(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def take_away(redis: Client) -> None:
    """Let the lock run out, and another one have it."""
    redis.delete(LOCK)
    assert redis.hset(LOCK, mapping={"owner": "thief.1.2.ab/0", "token": 2**52, "since": 0})


def lose(redis: Client, work: Callable[[], None], **options: Any) -> None:
    """Lose the lock inside a block, and go on with `work` there."""
    with exclusive("it", redis=redis, **{"timeout": 1, **options}):
        take_away(redis)
        work()


def wait_for_an_event() -> None:
    threading.Event().wait(30)
