"""Locks for tasks: at most one process at a time runs the block under a name.

    with rq_clock.exclusive("delete-old-users", timeout=60) as lock:
        …

- A lock is free at the latest `timeout` seconds after the last refresh of its process, whatever
  happens to it: killed, stopped, cut off, or a grant whose reply was lost.
- No lock in Redis can stop a process that was frozen in the middle of a write and wakes after its
  time. The resource can, if it gets `lock.token` with each write and refuses those lower than the
  highest it has seen: tokens grow with every holder.
- One thread for each block talks to Redis, from the acquiring to the release, and the block's
  thread only waits for it. So an exception that a signal raises at any instruction (a job's
  timeout, SIGTERM, Ctrl-C) cannot tear a release in two, nor leave a lock that is kept alive for
  a block which has ended.

How a loss gets into the block. The refreshing thread sends the main thread SIGURG, whose handler
raises LockLost there. SIGALRM is taken, by RQ for the job's timeout; PyThreadState_SetAsyncExc
would have to wait until a blocking call returns by itself, and can strike after the block. SIGURG
ends such calls (sleep, sockets, locks, subprocesses). It is ignored by default, so one that comes
too late does no harm, and no other tool uses it. An app's own handler for it is called for signals
that are not ours, and is restored after the block.

It cannot interrupt C code that neither returns to Python nor handles EINTR (a long query in a
database's client library, a computation); that ends first. Code that keeps the GIL for the whole
timeout starves the refreshing thread, too. Python swallows an exception raised in a `__del__` or a
C callback, an app one in `try: … except Exception: pass`: `check()` and the end of the block raise
it again. In a thread that is not the main one, only these two raise it (and once the main thread
has ended, Python starts no other, so no block begins). In asyncio use a thread: the block waits,
and an exception in the main thread may hit any task.

Not here: the lease of the clock (store/lease.py): a newer clock deposes the holder.
"""

from __future__ import annotations

import _thread
import inspect
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import wraps
from queue import Empty, SimpleQueue
from secrets import token_hex
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from redis import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from rq_clock.errors import Busy, LockLost, RqClockError, StoreUnavailable
from rq_clock.log import log_event, log_warning
from rq_clock.runtime import Runtime
from rq_clock.settings import Settings
from rq_clock.store.diagnosis import diagnose
from rq_clock.store.keys import key_of
from rq_clock.store.scripts import load_script, text

LONGEST_TIMEOUT = 86_400
"""Seconds. To keep others out for longer than a day, use a hold."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two attempts to get a lock; they double from the one to the other."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")
_MS = timedelta(milliseconds=1)
_LAZY = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
P = ParamSpec("P")
R = TypeVar("R")


def exclusive(
    name: str,
    *,
    timeout: float = 60,
    wait: float = 0,
    hold: timedelta | None = None,
    skip: bool = False,
    redis: Redis | None = None,
) -> Lock:
    """Return a lock for a `with` block, or for every call of a function: `@exclusive("name")`.

    The block begins when this process has the lock; while it runs, the lock is refreshed every
    `timeout / 3` seconds. Raises Busy at once, or after `wait` seconds of trying, when another one
    has it: also a block around this one. There is no queue: the first attempt after the release
    succeeds. A block that hangs keeps its lock: a job's timeout ends it.

    After a block without an exception the lock stays taken for the time `hold`, as by
    `lock.hold(hours=20)` in the block: for work that must be done once a day.

    With `skip` a decorated function that is busy returns None and logs it (lock.skipped), so that
    the job is no failure. A `with` block cannot be left out: there, catch Busy.

    If the holder …
    - ends its block, also by an exception, as a handler of SIGTERM raises: it is free at once.
    - is killed, or its machine is gone: it is free `timeout` seconds (1 to 86,400) after the last
      refresh, at the latest.
    - is stopped (SIGSTOP, a suspended machine) for longer: likewise, and on waking its first
      refresh raises LockLost. Until then only a fenced resource refuses its writes; see `token`.
    - cannot reach Redis: it goes on until `timeout` seconds after the last refresh, then LockLost
      is raised (at most as much later as the client waits for a reply, 3 s).
    - forks: the lock stays the parent's; a child that leaves the block releases nothing.

    A Redis that lost the lock (its data, or in a failover) means LockLost at the next refresh.
    Tokens grow all the same, as long as the servers' clocks agree to within the time between two
    holders. To free a lock by hand, DEL its key.
    `redis` replaces the environment's client. It needs a socket_timeout, or a server that hangs
    hides a loss. The namespace is that of RQ_CLOCK_NAMESPACE.

    Raises RqClockError when it is used wrongly, here; in the block's place Busy, and
    StoreUnavailable when Redis cannot be asked.
    """
    if faults := _faults(name, timeout, wait, hold):
        raise RqClockError(f"{name}: {'; '.join(faults)}")
    return Lock(name, _Terms(timeout, wait, hold, skip, redis))


@dataclass(frozen=True, slots=True)
class _Terms:
    """What `exclusive` was called with, except the name."""

    timeout: float
    wait: float
    hold: timedelta | None
    skip: bool
    redis: Redis | None


def _faults(name: Any, timeout: Any, wait: Any, hold: Any) -> list[str]:
    """Return the faults. Nothing is assumed to have its annotated type here."""
    found = []
    if not isinstance(name, str) or not _NAME.match(name):
        found.append(
            f"expected a name of 1-100 letters, digits, '_', '.', ':' or '-', got {name!r}"
        )
    if not _is_number(timeout) or not 1 <= timeout <= LONGEST_TIMEOUT:
        found.append(f"expected timeout in seconds, 1 to {LONGEST_TIMEOUT}, got {timeout!r}")
    if not _is_number(wait) or not wait >= 0:
        found.append(f"expected wait in seconds, 0 or more, got {wait!r}")
    if hold is not None and (not isinstance(hold, timedelta) or hold < _MS):
        found.append(f"expected hold as a timedelta, at least 0.001 s, got {hold!r}")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Lock:
    """A lock made by `exclusive`, for one block at a time, or to decorate functions."""

    token = 0
    """The fencing token: grows with every holder of this lock, across processes and restarts (it
    does not count them; it fits into 53 bits). Send it with each write, and let the resource
    refuse a write with a lower one than it has seen. 0 before the block."""

    def __init__(self, name: str, terms: _Terms) -> None:
        self.name = name
        self._terms = terms
        self._keeper: _Keeper | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call is a block of its own."""
        if any(is_lazy(function) for is_lazy in _LAZY):
            raise RqClockError(
                f"{self.name}: expected a function that has done its work when it returns, got "
                f"{function!r}; use a with block inside it"
            )

        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            begun = False
            try:
                with Lock(self.name, replace(self._terms, skip=False)):
                    begun = True
                    return function(*args, **kwargs)
            except Busy as busy:
                if begun or not self._terms.skip:
                    raise
                log_event("lock.skipped", lock=self.name, reason=busy)
            return None  # type: ignore[return-value]

        return inside

    def __enter__(self) -> Self:
        if self._keeper:
            raise RqClockError(
                f"{self.name}: expected one block at a time, got a second one for the same object; "
                "call exclusive() for each"
            )
        if self._terms.skip:
            raise RqClockError(
                f"{self.name}: expected skip=True for a decorated function, got it in a with "
                "block, which cannot be left out; catch Busy around it"
            )
        keeper = _Keeper(self.name, self._terms)
        # A block that does not end properly, as one that an exception hit on the way out,
        # ends when this object is forgotten.
        forgotten = weakref.finalize(self, keeper.orders.put, 0)
        try:
            # Not threading's Thread: an exception in the midst of its start() can leave it torn.
            _thread.start_new_thread(keeper.run, ())
            refusal = keeper.answers.get()
            if refusal:
                raise refusal
            self.token = keeper.token
            self._hold = self._terms.hold
            self._forgotten = forgotten
            _listen_for(keeper)
            self._keeper = keeper
        except BaseException:
            keeper.orders.put(0)
            forgotten.detach()
            _stop_listening_for(keeper)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        keeper, success, fault = self._keeper, kind is None, None
        assert keeper
        keeper.raises = False  # from here on the last line reports a loss
        keeper.orders.put(self._hold // _MS if success and self._hold else 0)
        # Whatever interrupts this thread now, the keeper releases the lock.
        try:
            if keeper.pid == os.getpid():
                fault = keeper.answers.get()
        finally:
            self._keeper = None
            self._forgotten.detach()
            _stop_listening_for(keeper)
        if fault and success:
            raise fault

    def check(self) -> None:
        """Check with Redis that the block still holds the lock: one round trip, just before work
        that cannot be undone. Against a process that freezes right after it, use `token`.

        Raises LockLost when it does not, and StoreUnavailable when Redis cannot be asked while
        the lock may still be held.
        """
        self._holding("check").check()

    def hold(self, **span: float) -> None:
        """Keep the lock taken for a time after the block has ended with success, in timedelta's
        keywords: `lock.hold(hours=20)`. An exception in the block, or a lost lock, means no hold.

        If Redis does not answer at the end of the block, StoreUnavailable is raised: the work is
        done, and may be done again after `timeout` seconds.
        """
        self._holding("hold")
        try:
            hold = timedelta(**span)
        except (TypeError, OverflowError) as error:
            raise RqClockError(
                f"{self.name}: expected hold(hours=20), got {span}: {error}"
            ) from None
        if hold < _MS:
            raise RqClockError(f"{self.name}: expected a hold of at least 0.001 s, got {span}")
        self._hold = hold

    def _holding(self, what: str) -> _Keeper:
        if self._keeper is None:
            raise LockLost(
                f"{self.name}: expected {what}() inside the with block, got it outside; the lock "
                "is held only there"
            )
        return self._keeper


class _Keeper:
    """Talks to Redis for one block, in a thread of its own.

    It answers twice, with None or an exception to raise: when it has the lock or not, and after
    the order to end the block. The order holds for how many ms the lock stays taken. There is no
    reference to the Lock, so that a forgotten one can be noticed.
    """

    def __init__(self, name: str, terms: _Terms) -> None:
        settings, self._runtime = Settings.from_env(), Runtime()
        self.name = name
        self.token = 0
        self.lost = ""
        """Why the block no longer holds the lock."""
        self.raises = False
        """Whether a loss is still to be raised in the main thread."""
        self.ended = False
        self.pid = os.getpid()
        self.orders: SimpleQueue[int] = SimpleQueue()  # its put() may run in a signal handler
        self.answers: SimpleQueue[RqClockError | None] = SimpleQueue()
        self._timeout = terms.timeout
        self._ttl = round(terms.timeout * 1000)
        self._wait = terms.wait
        self._ours_until = 0.0
        """The monotonic second up to which the lock cannot have run out."""
        # With a second random part, as two threads of a process may want the same lock.
        self._owner = f"{settings.instance}/{token_hex(8)}"
        self._url = None if terms.redis else settings.redis_url
        self._redis = client = terms.redis or _client(settings)
        self._acquire_script = load_script(client, "lock_acquire")
        self._renew_script = load_script(client, "lock_renew")
        self._release_script = load_script(client, "lock_release")
        self._lock = key_of(settings.namespace, f"locks:{name}")
        self._newest_token = key_of(settings.namespace, f"lock-token:{name}")

    def check(self) -> None:
        """Raise LockLost unless the lock is held in Redis."""
        if not self.lost:
            try:
                self._compare(self._redis.hget(self._lock, "owner"))
            except RedisError as error:  # and not the exception of a signal: a job's timeout
                fault = self._unheard(error)
                if not self.lost:
                    raise fault from None
        if self.lost:
            if _in_main_thread():
                self.raises = False  # raised here, not once more by a signal
            raise LockLost(self.lost)

    def run(self) -> None:
        answer = self._acquire()
        if answer is None:
            self.answers.put(None)
            answer = self._release(self._keep())
        self.ended = True
        self.answers.put(answer)

    def _acquire(self) -> RqClockError | None:
        """Get the lock. Return None, or why it was refused. An order meanwhile ends the waiting."""
        until, pause, lost_a_reply = self._runtime.monotonic() + self._wait, SHORTEST_PAUSE, False
        while True:
            started = self._runtime.monotonic()
            try:
                refusal = self._ask()
            except Exception as error:
                if isinstance(error, ConnectionError | TimeoutError) and not lost_a_reply:
                    lost_a_reply = True  # maybe; if it was granted, it will be granted again
                    continue
                refusal = self._unavailable(error)
            if refusal is None:
                self._ours_until = started + self._timeout
                return None
            left = until - self._runtime.monotonic()
            if isinstance(refusal, Busy) and refusal.done and refusal.free_in > left:
                return refusal
            if left <= 0 or self._order(min(pause, left)) is not None:
                return refusal
            pause = min(pause * 2, LONGEST_PAUSE)

    def _ask(self) -> RqClockError | None:
        args: list[str | int] = [self._owner, self._ttl]
        kind, *rest = self._acquire_script([self._lock, self._newest_token], args)
        if text(kind) == "granted":
            self.token = int(rest[0])
            return None
        seconds, free_in = (max(int(ms), 0) / 1000 for ms in rest[1:])
        return Busy(self.name, _holder(text(rest[0])), seconds, free_in, text(kind) == "done")

    def _keep(self) -> int:
        """Refresh until the block ends, or the lock is lost and the block ends. Return the
        order."""
        pause = self._timeout / 3
        while (order := self._order(pause)) is None:
            started = self._runtime.monotonic()
            try:
                self._compare(self._renew_script([self._lock], [self._owner, self._ttl]))
                self._ours_until = started + self._timeout
                pause = self._timeout / 3
            except Exception as error:
                self._unheard(error)
                pause = min(self._timeout / 10, 1)
            if self.lost:
                return self.orders.get()
        return order

    def _release(self, hold: int) -> RqClockError | None:
        """Release the lock in Redis. Return the exception for the block, or None."""
        if self.lost:
            return LockLost(self.lost)
        fault: RqClockError | None = None
        args: list[str | int] = [self._owner, self.token, hold]
        for _ in range(2):  # again when a reply was lost
            try:
                if not self._release_script([self._lock, self._newest_token], args):
                    self._lose("another one had it before this block ended")
                    return LockLost(self.lost)
                return None
            except Exception as error:
                fault = self._unheard(error)
                if isinstance(fault, LockLost):
                    return fault
        if hold:
            return fault
        # The work is done, and the lock frees itself: no reason to have the work done again.
        log_warning("lock.unreleased", lock=self.name, token=self.token, reason=fault)
        return None

    def _order(self, seconds: float) -> int | None:
        try:
            return self.orders.get(timeout=seconds)
        except Empty:
            return None

    def _compare(self, answer: Any) -> None:
        """Lose the lock if `answer`, the owner in Redis, is not this block."""
        owner = text(answer or "")
        if not owner:
            self._lose(f"it is free: not refreshed for {self._timeout:g} s, or Redis lost it")
        elif owner != self._owner:
            self._lose(f"it ran out, and {_holder(owner)} has it")

    def _unheard(self, error: Exception) -> RqClockError:
        """Handle a Redis that does not answer: the lock is lost if its time is over."""
        if self._runtime.monotonic() < self._ours_until:
            return self._unavailable(error)
        self._lose(f"Redis did not answer for {self._timeout:g} s ({error})")
        return LockLost(self.lost)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        reason = diagnose(error, self._url) if self._url else error
        return StoreUnavailable(f"{self.name}: {reason}")

    def _lose(self, why: str) -> None:
        if self.lost:
            return
        self.lost = (
            f"{self.name}: expected to hold the lock, but {why}; what is still written with token "
            f"{self.token} may come after a newer one's"
        )
        log_warning("lock.lost", lock=self.name, token=self.token, reason=why)
        main = threading.main_thread().ident
        if self.raises and main is not None and not _in_main_thread():
            signal.pthread_kill(main, signal.SIGURG)


# ---- how a loss gets into the main thread ------------------------------------------------------

_listening: list[_Keeper] = []
"""The blocks that the main thread is in, the outermost first."""
_handler_before: Any = None


def _listen_for(keeper: _Keeper) -> None:
    """Raise a loss in this thread from now on, if it is the main one."""
    global _handler_before
    present = signal.getsignal(signal.SIGURG)
    if not _in_main_thread() or present is None:  # None: set by C code, and cannot be restored
        return
    if present is not _raise_loss:
        _handler_before = present
        signal.signal(signal.SIGURG, _raise_loss)
    _listening.append(keeper)
    keeper.raises = True
    if keeper.lost:  # before it could be raised
        _raise_loss(signal.SIGURG, None)


def _stop_listening_for(keeper: _Keeper) -> None:
    keeper.raises = False
    if _in_main_thread() and _listening:
        _listening[:] = [k for k in _listening if k is not keeper and not k.ended]
        if not _listening and signal.getsignal(signal.SIGURG) is _raise_loss:
            signal.signal(signal.SIGURG, _handler_before)


def _raise_loss(number: int, frame: FrameType | None) -> None:
    """The handler of SIGURG while the main thread is in a block."""
    for keeper in _listening:
        if keeper.raises and keeper.lost:
            _stop_listening_for(keeper)
            raise LockLost(keeper.lost)
    if callable(_handler_before):
        _handler_before(number, frame)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


# ---- clients -----------------------------------------------------------------------------------

_clients: dict[tuple[int, str | None, bool], Redis] = {}


def _client(settings: Settings) -> Redis:
    """Return this process's client for locks, apart from those of tasks and RQ."""
    key = os.getpid(), settings.redis_url, settings.tls_verify  # a fork shares no connection
    if key not in _clients:
        _clients.setdefault(key, Runtime().connect(settings))
    return _clients[key]


def _holder(owner: str) -> str:
    return owner.rpartition("/")[0]
