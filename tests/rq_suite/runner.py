"""Run RQ's tests with one worker class: a process and a server for each of their files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory

from tests.process import Process
from tests.rq_suite.source import FOLDER, ROOT, scratch_of
from tests.server import Server, free_url

INSIDE = Path(__file__).parent / "inside"
LANES = 4
"""Files at a time: most tests wait more than they work."""
SILENCE = 150.0
"""Seconds after which a test that has not ended counts as hung."""
LEAVE = 10.0
"""Seconds for the process of a file to end, after its last test."""
OVER = '"over"'
"""The last line of a process that has run all its tests."""
TRIES = 2
"""How often a failed test is run again, alone: many of RQ's tests measure time."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one test ended."""

    outcome: str
    text: str = ""
    """Of a failure: its traceback."""


Results = dict[str, Result]
"""By the test's id, such as test_worker.py::TestWorker::test_work_and_quit."""


class Suite:
    """RQ's tests, run with the worker class of this dotted name; None is RQ's own."""

    def __init__(self, source: Path, worker: str | None, excluded: Collection[str]) -> None:
        self._source = source
        self._worker = worker
        self._excluded = excluded

    def run(self, names: Collection[str], expected: Collection[str]) -> Results:
        """Run the files of these names. Run each test that fails and is not expected to once more,
        and once more. Raises nothing: a test that hangs or ends its process has failed."""
        results: Results = {}
        with ThreadPoolExecutor(LANES) as lanes:
            for found in lanes.map(self._run_file, names):
                results |= found
        for _ in range(TRIES):
            failed = [test for test, result in results.items() if result.outcome == "failed"]
            for test in set(failed) - set(expected):
                results |= self._run_file(test.partition("::")[0], [test])
        return results

    def _run_file(self, name: str, only: Iterable[str] = ()) -> Results:
        """Run the tests of a file, or only these, and go on after one that ends or hangs their
        process."""
        results: Results = {}
        while True:
            with TemporaryDirectory(dir=FOLDER) as folder:
                lines = Path(folder) / "lines"
                lines.touch()
                log = self._pytest(name, only, {*self._excluded, *results}, lines)
                found, running, over = read(lines)
            results |= found
            if over:
                return results
            if running and running not in results:
                results[running] = Result("failed", "it hung, or ended the process of the tests")
            elif not found:
                return {
                    **results,
                    name: Result("failed", f"pytest ended early:\n{log.read_text()}"),
                }

    def _pytest(self, name: str, only: Iterable[str], skip: Iterable[str], lines: Path) -> Path:
        """Run one process of tests, and return its log."""
        shutil.rmtree(scratch_of(name), ignore_errors=True)  # what tests that failed have left
        scratch_of(name).mkdir(parents=True)
        chosen = [f"tests/{test}" for test in only] or [f"tests/{name}"]
        skipped = [f"--deselect=tests/{test}" for test in skip if test.startswith(f"{name}::")]
        log = self._source / f"{name}.{'ours' if self._worker else 'stock'}.log"  # of the last run
        log.unlink(missing_ok=True)
        with Server(lines.parent, free_url(), appendonly="no") as server:
            arguments = ["-m", "pytest", "-q", "-p", "rq_suite_plugin", "-p", "no:valkey"]
            arguments += ["-p", "no:cacheprovider", *skipped, *chosen]
            env = self._environment(server.url, lines)
            with Process(log, *arguments, env=env, new_session=True) as process:
                _watch(process, lines)
        return log

    def _environment(self, url: str, lines: Path) -> dict[str, str]:
        """Return what the tests find beside PATH, HOME and LANG. Database 4 is the one that RQ's
        tests choose."""
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # RQ's console scripts
            "PYTHONPATH": f"{INSIDE}:{self._source}:{ROOT}",
            "RUN_SLOW_TESTS_TOO": "1",
            "RQ_SUITE_LINES": str(lines),
            "RQ_SUITE_PORT": url.rpartition(":")[2].partition("/")[0],
            "RQ_SUITE_REDIS": url.replace("/0", "/4"),
            "RQ_CLOCK_REDIS_ENV": "RQ_SUITE_REDIS",
        }
        return {**env, "RQ_WORKER_CLASS": self._worker} if self._worker else env


def _watch(process: Process, lines: Path) -> None:
    """Wait until the process has ended. Kill it when it says nothing for too long: when a test
    hangs, or when the tests are over and a child of one is not."""
    text, since = "", time.monotonic()
    while process.process.poll() is None:
        before, text = text, lines.read_text()
        if text != before:
            since = time.monotonic()
        over = text.endswith(f"{OVER}\n")
        if time.monotonic() - since > (LEAVE if over else SILENCE):
            break
        with suppress(TimeoutExpired):
            process.process.wait(0.2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read(lines: Path) -> tuple[Results, str, bool]:
    """Return the results that a process has written, the test that it began last, and whether it
    has run all."""
    results: Results = {}
    running = ""
    for line in lines.read_text().splitlines():
        if line == OVER:
            return results, running, True
        test, outcome, text = json.loads(line)
        if outcome == "began":
            running = test
        elif test not in results or outcome == "failed":
            results[test] = Result(outcome, text)
    return results, running, False
