"""The part of the runner that lives inside pytest: it replaces RQ's worker, and writes down how
each test ends, one JSON line each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import rq
import rq.worker
import rq.worker_pool
from rq.utils import import_attribute

_process = os.getpid()
_lines = Path(os.environ["RQ_SUITE_LINES"])


def _replace_worker(name: str) -> None:
    """Put this class wherever RQ, its tests and their fixtures find RQ's `Worker`.

    SimpleWorker, SpawnWorker, HerokuWorker and the two with an order of their own stay RQ's: they
    are other choices of a user, beside ours. `rq worker` reads RQ_WORKER_CLASS by itself.
    """
    stock, ours = rq.Worker, import_attribute(name)
    for module in (rq, rq.worker, rq.worker_pool):
        vars(module)["Worker"] = ours
    functions: list[Any] = [rq.worker_pool.WorkerPool.__init__, rq.worker_pool.run_worker]
    for function in functions:
        defaults = function.__defaults__
        function.__defaults__ = tuple(ours if value is stock else value for value in defaults)


if "RQ_WORKER_CLASS" in os.environ:
    _replace_worker(os.environ["RQ_WORKER_CLASS"])


def _write(line: Any) -> None:
    if os.getpid() == _process:  # a test may fork a process that comes out of it
        with _lines.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _report(report: pytest.TestReport | pytest.CollectReport, outcome: str) -> None:
    text = report.longreprtext if report.failed else ""
    _write((report.nodeid.removeprefix("tests/"), outcome, text))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _report(report, report.outcome)


def pytest_runtest_logstart(nodeid: str) -> None:
    _write((nodeid.removeprefix("tests/"), "began", ""))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        _report(report, report.outcome)


def pytest_sessionfinish() -> None:
    _write("over")
