"""known.yaml: the tests of RQ that fail with our worker or are left out, with the reasons."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.rq_suite.runner import Results

PATH = Path(__file__).with_name("known.yaml")


@dataclass(frozen=True, slots=True)
class Known:
    """What the kept file says: reasons by test id."""

    excluded: dict[str, str]
    """Tests that do not run, with either worker."""
    differences: dict[str, str]
    """Tests that pass with RQ's worker and fail with ours."""

    @classmethod
    def read(cls) -> Known:
        kept = yaml.safe_load(PATH.read_text())
        return cls(_by_test(kept["excluded"]), _by_test(kept["differences"]))

    def problems(
        self, names: Collection[str], ours: Results, stock: Results | None
    ) -> Iterator[str]:
        """Yield each test of the files `names` that contradicts this file: its id, and the
        remedy."""
        listed = {*self.differences, *self.excluded}
        missing = {test for test in self.differences if test not in ours}
        for test in sorted({*ours, *missing, *(stock or {})}):
            if test.partition("::")[0] not in names:
                continue
            theirs = stock[test].outcome if stock and test in stock else "passed"
            own = ours[test].outcome if test in ours else "is not there"
            if theirs == "failed":
                yield f"{test} fails with RQ's own worker; list it under `excluded`"
            elif own == "failed" and test not in listed:
                yield f"{test} fails with our worker; repair it, or list it under `differences`"
            elif own != "failed" and test in self.differences:
                yield f"{test} {own}; remove it from `differences`"


def _by_test(reasons: dict[str, list[str]] | None) -> dict[str, str]:
    return {test: reason for reason, tests in (reasons or {}).items() for test in tests}
