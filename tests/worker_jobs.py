"""What the workers of the tests run: jobs as people write them, and worse."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Retry, get_current_job
from rq.job import Job

from rq_clock import Interrupted, current_run
from rq_clock.run import stopping

kept: list[bytes] = []


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


def on_success(job: Job, connection: Redis, result: Any) -> None:
    connection.rpush("called", f"success {result}")


def on_failure(job: Job, connection: Redis, *error: Any) -> None:
    connection.rpush("called", f"failure {error[0].__name__}")


def on_stopped(job: Job, connection: Redis) -> None:
    connection.rpush("called", "stopped")
