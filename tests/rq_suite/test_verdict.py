"""The kept list stays true: what contradicts it is a problem."""

from __future__ import annotations

import pytest

from tests.rq_suite.runner import Result
from tests.rq_suite.verdict import Known

PASSED, FAILED = Result("passed"), Result("failed")
KNOWN = Known(excluded={}, differences={"test_job.py::a": "a reason"})


def problems(known: Known = KNOWN, **outcomes: Result) -> list[str]:
    ours = {f"test_job.py::{name}": result for name, result in outcomes.items()}
    return list(known.problems(["test_job.py"], ours, None))


def test_the_listed_failure_is_no_problem() -> None:
    assert problems(a=FAILED, b=PASSED) == []


def test_another_failure_is_a_problem() -> None:
    assert problems(a=FAILED, b=FAILED)[0].startswith("test_job.py::b fails with our worker")


@pytest.mark.parametrize("outcome", ["passed", "skipped"])
def test_a_listed_test_that_does_not_fail_is_a_problem(outcome: str) -> None:
    assert problems(a=Result(outcome)) == [
        f"test_job.py::a {outcome}; remove it from `differences`"
    ]


def test_a_listed_test_that_is_gone_is_a_problem() -> None:
    assert problems(b=PASSED) == ["test_job.py::a is not there; remove it from `differences`"]


def test_a_failure_with_rqs_own_worker_is_a_problem_whatever_ours_does() -> None:
    stock = {"test_job.py::a": FAILED}
    found = list(KNOWN.problems(["test_job.py"], {"test_job.py::a": FAILED}, stock))
    assert found == ["test_job.py::a fails with RQ's own worker; list it under `excluded`"]


def test_only_the_files_that_ran_are_judged() -> None:
    assert list(KNOWN.problems(["test_cli.py"], {}, None)) == []


def test_the_kept_list_gives_each_test_one_reason() -> None:
    known = Known.read()
    assert not known.excluded.keys() & known.differences.keys()
    assert all(reason.strip() for reason in [*known.excluded.values(), *known.differences.values()])
