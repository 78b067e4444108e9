"""Python processes of the tests: an environment of their own, a log that is read, a sure end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Self

from rq_clock.devserver import LEASH
from tests.helpers import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
LEASHED = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid())]
"""Before a command: the process dies with the thread that started it, however that ends."""
_LINE = re.compile(
    r"(?:\d\d:\d\d:\d\d\.\d{3} )?([a-z]+\.[a-z_]+)((?: \w+=(?:\"(?:[^\"\\]|\\.)*\"|\S*))*)$"
)
_PAIR = re.compile(r" (\w+)=(?:\"((?:[^\"\\]|\\.)*)\"|(\S*))")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a process's log."""

    word: str
    fields: dict[str, str]


class Process:
    """`python *arguments` in the directory of its log.

    Its environment is `env` and the PATH, HOME and LANG of the tests.
    """

    def __init__(
        self, log: Path, *arguments: str, env: Mapping[str, str], new_session: bool = False
    ) -> None:
        self.log = log
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        command = [sys.executable, *arguments]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                LEASHED + command if sys.platform == "linux" else command,
                cwd=log.parent,
                env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=new_session,
            )
        self.started = time.time()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: Signals = SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.signal(number)
        return self.ended()

    def terminate(self, seconds: float = 10.0) -> int:
        """Send SIGTERM as soon as it is through its imports, and return the exit code."""
        wait_until(self.events, "its first event")
        self.process.terminate()
        return self.ended(seconds)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(seconds)

    def live(self, seconds: float) -> None:
        """Wait so long. Fail when it ends by itself."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(seconds)
            raise AssertionError(f"the process ended by itself with {code}:\n{self.text()}")

    def lived(self, seconds: float) -> bool:
        """Return whether it has lived so long, or ended before."""
        return self.process.poll() is not None or time.time() - self.started >= seconds

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[str]:
        return self.text().splitlines()

    def events(self, word: str | None = None) -> list[Event]:
        """Return the events of its log, or only those called `word`."""
        found = []
        for line in self.lines():
            if match := _LINE.match(line):
                pairs = {k: quoted or bare for k, quoted, bare in _PAIR.findall(match[2])}
                found.append(Event(match[1], pairs))
        return [event for event in found if word in (None, event.word)]

    def words(self, *only: str) -> list[str]:
        """Return the sequence of its events, or of those named."""
        return [event.word for event in self.events() if not only or event.word in only]

    def wait_for(self, word: str, *, times: int = 1, **fields: str) -> Event:
        """Wait for the `times`-th event called `word` with these fields."""

        def found() -> Event | None:
            events = [e for e in self.events(word) if fields.items() <= e.fields.items()]
            return events[times - 1] if len(events) >= times else None

        try:
            event = wait_until(found, f"{word} {fields or ''}")
        except AssertionError as error:
            raise AssertionError(f"{error}; its log:\n{self.text()[-4000:]}") from None
        assert event
        return event

    def wait_for_line(self, text: str) -> str:
        """Wait for the first line that begins with `text`. Fail when it ends without."""

        def found() -> str | None:
            over = self.process.poll() is not None
            line = next((line for line in self.lines() if line.startswith(text)), None)
            assert line or not over, f"it ended without {text}; its log:\n{self.text()}"
            return line

        line = wait_until(found, text)
        assert line
        return line
