"""The command: run RQ's tests with one worker or both, compare with known.yaml, and report."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Collection
from textwrap import indent

from tests.rq_suite import __doc__ as description
from tests.rq_suite.runner import Results, Suite
from tests.rq_suite.source import fetch
from tests.rq_suite.verdict import Known

OURS = "rq_clock.worker.worker.Worker"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rq_suite",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ours", action="store_true", help="leave out the run with RQ's own worker"
    )
    parser.add_argument("file", nargs="*", help="run only these, such as test_worker.py")
    options = parser.parse_args()
    source, known = fetch(), Known.read()
    found = {path.name: path.stat().st_size for path in (source / "tests").glob("test_*.py")}
    if unknown := set(options.file) - found.keys():
        parser.error(f"expected files of RQ's tests, such as test_job.py, got {', '.join(unknown)}")
    names = options.file or sorted(found, key=lambda name: -found[name])  # the longest first
    stock = None
    if not options.ours:
        stock = _timed("RQ's worker", Suite(source, None, known.excluded), names, ())
    ours = _timed("our worker", Suite(source, OURS, known.excluded), names, known.differences)
    if stock:
        _print_table(sorted(names), stock, ours)
    return _report(known, names, ours, stock)


def _timed(title: str, suite: Suite, names: list[str], expected: Collection[str]) -> Results:
    began = time.monotonic()
    results = suite.run(names, expected)
    print(f"{title}: {len(results)} tests in {time.monotonic() - began:.0f} s", flush=True)
    return results


def _print_table(names: list[str], stock: Results, ours: Results) -> None:
    def passed(results: Results, name: str) -> int:
        return sum(
            result.outcome == "passed"
            for test, result in results.items()
            if test.startswith(f"{name}::")
        )

    rows = [(name, passed(stock, name), passed(ours, name)) for name in names]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    print(f"\n{'passed':<36}{'RQ':>6}{'ours':>6}{'less':>6}")
    for name, theirs, own in rows:
        print(f"{name:<36}{theirs:>6}{own:>6}{theirs - own or '':>6}")


def _report(known: Known, names: list[str], ours: Results, stock: Results | None) -> int:
    """Print all that contradicts known.yaml, and return the exit code."""
    problems = list(known.problems(names, ours, stock))
    for problem in problems:
        test = problem.partition(" ")[0]
        print(f"\n{problem}")
        for results in (stock or {}, ours):
            if test in results and results[test].text:
                print(indent(results[test].text[-3000:], "    "))
    counts = Counter(result.outcome for result in ours.values())
    known_failures = sum(
        result.outcome == "failed" for test, result in ours.items() if test in known.differences
    )
    print(f"\n{known_failures} known differences, {len(known.excluded)} tests left out")
    skipped = counts["skipped"] + known_failures
    print(f"{counts['passed']} passed, {len(problems)} failed, {skipped} skipped")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
