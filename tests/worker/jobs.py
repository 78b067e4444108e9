"""What the workers of the tests run: jobs as people write them, and worse."""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Retry, get_current_job
from rq.job import Job

from rq_clock import Interrupted, current_run
from rq_clock.run import stopping

kept: list[bytes] = []
database: sqlite3.Connection | None = None


def add(a: int, b: int) -> int:
    return a + b


def pid() -> int:
    return os.getpid()


def fail(text: str = "no") -> None:
    raise ValueError(text)


class SilentError(Exception):
    """An error with no text to give."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class SilentResult:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail_silently() -> None:
    raise SilentError


def fail_with_retries(left: Any, intervals: Any = None) -> None:
    job: Any = get_current_job()
    job.retries_left, job.retry_intervals = left, intervals
    raise ValueError


def change(field: str, value: Any) -> None:
    setattr(get_current_job(), field, value)


def change_and_fail(field: str, value: Any) -> None:
    change(field, value)
    raise ValueError


def give_up(text: str) -> None:
    raise Interrupted(text)


def answer_silently() -> SilentResult:
    return SilentResult()


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    faulthandler.disable()  # pytest's, which the job has inherited
    os.kill(os.getpid(), getattr(signal, how))


def wait(seconds: float) -> str:
    threading.Event().wait(seconds)
    return "waited"


def wait_and_tell(path: str, seconds: float) -> str:
    """Leave a line in a file at the start and at the end."""
    tell(path, "began")
    threading.Event().wait(seconds)
    tell(path, "ended")
    return "waited"


def tell(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(text + "\n")


def stubborn(path: str) -> None:
    """Catch whatever is raised and go on."""
    tell(path, "began")
    while True:
        try:
            while True:  # nearly all of its time is spent in here, where nothing gets out
                threading.Event().wait(0.05)
        except BaseException as error:
            tell(path, type(error).__name__)


def polite(path: str) -> None:
    """Leave when asked to."""
    tell(path, "began")
    while not stopping():
        threading.Event().wait(0.01)
    tell(path, "left")
    raise Interrupted


def tidy(path: str) -> None:
    """Put down what it holds, however it ends."""
    tell(path, "began")
    try:
        threading.Event().wait(60)
    finally:
        tell(path, "tidied")


def broken_by_the_restart(path: str) -> None:
    """Raise because a process that it works with was told to end too."""
    tell(path, "began")
    while not stopping():
        threading.Event().wait(0.01)
    raise ConnectionError("the other one is gone")


def save_and_wait(path: str, step: int) -> int:
    """Keep a checkpoint in meta, as RQ's users do; return what was there."""
    job: Any = get_current_job()
    found: int = job.meta.get("step", 0)
    job.meta["step"] = found + step
    job.save_meta()
    tell(path, f"step {found + step}")
    if not found:
        threading.Event().wait(60)
    return found


def what_run() -> dict[str, Any]:
    run = current_run()
    if run is None:
        return {}
    return {
        "schedule": run.schedule,
        "fire_time": run.fire_time.isoformat(),
        "reason": run.reason,
        "attempt": run.attempt,
        "previous": run.previous and run.previous.isoformat(),
        "stopping": run.stopping,
    }


def unpicklable() -> Any:
    return threading.Lock()


def ask_again(most: int) -> Any:
    return Retry(max=most)


def grow(megabytes: int) -> int:
    kept.append(bytearray(os.urandom(1024) * 1024 * megabytes))  # type: ignore[arg-type]
    return os.getpid()


def out_of_memory() -> None:
    """As the kernel would end it: a limit of memory that cannot be kept."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(path: str) -> int:
    """End while a process that it has started goes on."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import threading; threading.Event().wait(600)"]
    )
    tell(path, str(child.pid))
    os._exit(1)


def close_everything() -> None:
    os.closerange(3, 256)
    threading.Event().wait(60)


def insert(path: str, row: str, end: str) -> None:
    """Insert a row by the connection that all jobs of a process share, as web frameworks do. Then
    commit, fail, or leave the transaction open."""
    global database
    if database is None:
        database = sqlite3.connect(path)
    database.execute("INSERT INTO rows VALUES (?)", (row,))
    if end == "fail":
        raise ValueError("before the commit")
    if end == "commit":
        database.commit()


link: socket.socket | None = None


def use_connection(address: tuple[str, int], break_it: bool) -> None:
    """Use the connection that all jobs of a process share; it may break meanwhile."""
    global link
    if link is None:
        link = socket.create_connection(address)
    if break_it:
        link.shutdown(socket.SHUT_RDWR)
    link.sendall(b"x")


def surroundings() -> tuple[Any, ...]:
    """What a process has beside its modules."""
    umask = os.umask(0)
    os.umask(umask)
    return (
        str(Path.cwd()), umask, os.environ.get("TENANT"), socket.getdefaulttimeout(),
        logging.getLogger().level, str(signal.getsignal(signal.SIGUSR1)),
        sorted(map(str, signal.pthread_sigmask(signal.SIG_BLOCK, ()))), tenant.get(""),
        list(sys.path), sys.getrecursionlimit(), gc.isenabled(), sys.stdout is None,
        signal.getitimer(signal.ITIMER_PROF)[0],
    )  # fmt: skip


tenant: ContextVar[str] = ContextVar("tenant")


def change_surroundings() -> None:
    os.chdir("/")
    os.umask(0o777)
    os.environ["TENANT"] = "a"
    socket.setdefaulttimeout(0.001)
    logging.getLogger().setLevel(logging.CRITICAL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    random.seed(42)
    tenant.set("a")
    sys.path.clear()
    sys.setrecursionlimit(100)
    gc.disable()
    sys.stdout = sys.stderr = None
    signal.signal(signal.SIGPROF, lambda *_: None)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def change_for_good(what: str) -> int:
    if what == "priority":
        os.nice(1)
    elif what == "limit":
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
    elif what == "trace":
        sys.settrace(lambda *_: None)
    elif what == "zone":
        os.environ["TZ"] = "Asia/Tokyo"
        time.tzset()
    elif what == "child":
        subprocess.Popen(["sleep", "60"])
    elif what == "session":
        os.setpgid(0, os.getpgid(os.getppid()))
    elif what == "buffer":
        sys.stdout.detach()  # type: ignore[union-attr]
    else:
        sys.stdout.close()
    return os.getpid()


def break_a_module() -> None:
    """Let the process end some time after the job, when it puts back what the job has changed."""

    def seed(*_: Any) -> None:
        threading.Event().wait(0.5)
        os._exit(1)

    random.seed = seed  # type: ignore[assignment]


def random_number() -> float:
    random_before = random.random()
    random.seed(42)
    return random_before


def signal_itself() -> bool:
    os.kill(os.getpid(), signal.SIGTERM)
    return stopping()


def signal_itself_and_fail() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("after a signal of its own")


def slow_callback(job: Job, connection: Any = None, *_: object) -> None:
    threading.Event().wait(1.5)
    job.connection.rpush("called", "slow")


def leave_its_group(path: str) -> None:
    """Join the group of the worker, and go on whatever is raised."""
    os.setpgid(0, os.getpgid(os.getppid()))
    tell(path, str(os.getpid()))
    while True:
        with suppress(BaseException):
            threading.Event().wait(60)


def leave_orphans(count: int) -> int:
    """Start processes that start processes and end, as commands do with `&`."""
    for _ in range(count):
        subprocess.run(["sh", "-c", "sleep 0.1 &"], check=True)
    threading.Event().wait(0.3)
    return subprocess.run(["true"], check=True).returncode


def zombies() -> list[str]:
    """The processes that have ended and that nobody collects within some seconds."""
    for _ in range(100):
        states = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                states.append(stat.read_text())
        found = [state for state in states if state.rpartition(")")[2].split()[0] == "Z"]
        if not found:
            break
        threading.Event().wait(0.1)
    return found


def write_in_a_thread(path: str) -> None:
    """Wait for a thread that writes for ever."""

    def write() -> None:
        while True:
            tell(path, "written")
            threading.Event().wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()


def grows(path: str) -> bool:
    """Whether a file grows within half a second."""
    before = Path(path).stat().st_size
    threading.Event().wait(0.5)
    return Path(path).stat().st_size > before


def use_pools(count: int) -> int:
    """Use as many pools of processes, one after the other; the sum of all that they return."""
    total = 0
    for _ in range(count):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            total += sum(pool.map(abs, range(8)))
    return total


def terminate_children(count: int) -> list[int | None]:
    """Terminate as many processes just after their start; their exit codes."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=wait, args=(600,)) for _ in range(count)]
    for child in children:
        child.start()
        child.terminate()
    for child in children:
        child.join(5)
    return [child.exitcode for child in children]


def handlers_of_a_fork(way: str) -> list[bool]:
    """Whether a forked process has Python's own handlers of SIGTERM, SIGINT, SIGALRM, SIGVTALRM,
    blocks no signal, and lets no wakeup fd be written to."""
    end, start = os.pipe()

    def report() -> None:
        default = signal.SIG_DFL
        found = [
            signal.getsignal(signal.SIGTERM) == default,
            signal.getsignal(signal.SIGINT) == signal.default_int_handler,
            signal.getsignal(signal.SIGALRM) == default,
            signal.getsignal(signal.SIGVTALRM) == default,
            signal.pthread_sigmask(signal.SIG_BLOCK, set()) == set(),
            signal.set_wakeup_fd(-1) == -1,
        ]
        os.write(start, bytes(found))

    def fork() -> None:
        if (child := os.fork()) == 0:
            report()
            os._exit(0)
        os.waitpid(child, 0)

    if way == "preexec_fn":
        subprocess.run(["true"], preexec_fn=report, check=True)
    elif way == "thread":
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    else:
        fork()
    return [bool(byte) for byte in os.read(end, 100)]


def own_handler_of_a_fork() -> int:
    """The exit code of a forked process that gets SIGTERM, for which the job has set a handler."""
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    signal.signal(signal.SIGTERM, before)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and(how: str) -> int:
    """The exit code of a forked process that comes out of the job."""
    if (child := os.fork()) == 0:
        if how == "raise":
            raise ValueError("in the fork")
        if how == "exit":
            sys.exit(5)
        return 9
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_on_success(job: Job, connection: Redis, result: Any) -> None:
    if (child := os.fork()) != 0:
        os.waitpid(child, 0)


def on_success(job: Job, connection: Redis, result: Any) -> None:
    connection.rpush("called", f"success {result}")


def on_failure(job: Job, connection: Redis, *error: Any) -> None:
    connection.rpush("called", f"failure {error[0].__name__}")


def fail_to_report(job: Job, connection: Redis, *error: Any) -> None:
    raise KeyError(str(error[1]))


def on_stopped(job: Job, connection: Redis) -> None:
    connection.rpush("called", "stopped")


def import_and_tell_pid(module: str) -> int:
    import_module(module)
    return os.getpid()


def context_value(module: str, variable: str) -> Any:
    """The value of a context variable of a module."""
    return getattr(import_module(module), variable).get()


def print_in_every_way() -> None:
    print("printed")
    print("to stderr", file=sys.stderr)
    logging.getLogger("app.mail").info("logged")
    logging.getLogger("app.mail").debug("too much")
    os.write(1, b"from C\n")
    subprocess.run(["echo", "from a child"], check=True)
    print("no end", end="")


def print_and_wait(path: str) -> None:
    """Print once, wait for a file, and print again."""
    print("one", os.environ.get("API_TOKEN", ""))
    while not Path(path).exists():
        threading.Event().wait(0.01)
    print("two")


def print_without_end(path: str) -> int:
    """Print 50 MB, and go on until there is a file; the bytes."""
    line, passed = b"x" * 99 + b"\n", 0
    while passed < 50_000_000 or not Path(path).exists():
        passed += os.write(1, line * 5000)
    return passed


def print_and_die(text: str) -> None:
    print(text)
    os.kill(os.getpid(), signal.SIGKILL)


def print_once(text: str) -> None:
    if text:
        print(text)


def print_and_fail(text: str) -> None:
    """Print in the first attempt only."""
    job: Any = get_current_job()
    if job.retries_left:
        os.write(1, text.encode())
    raise ValueError(text)


def leave_one_that_prints(path: str) -> None:
    """Leave a process of another session that prints for ever."""
    child = subprocess.Popen(["sh", "-c", "while echo again; do :; done"], start_new_session=True)
    tell(path, str(child.pid))


def configure_logging() -> None:
    logging.basicConfig(format="mine: %(message)s")
    logging.getLogger("app").info("configured")
