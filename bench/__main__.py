"""`python -m bench`: rq-clock beside RQ's own `rq cron`, and its worker beside RQ's and Celery's.

Absolute figures depend on the machine and on what else runs there; the ratios, of two that ran in
the same minutes, much less. A ratio says how many times better rq-clock is. An aim that was missed
says so. Every measurement has a private server (the embedded Valkey, or --server) without
persistence, and each clock and worker is a process of its own; see clocks.py and measures.py,
workers.py and jobs.py; calls.py for callbacks.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version

from bench import calls, jobs, loads, measures
from bench.clocks import CLOCKS
from bench.lab import Lab, Row
from bench.workers import WORKERS
from tests.server import longest_shown

CLOCK_MEASURES = measures.MEASURES | {m.__name__: m for m in (loads.catch_up, loads.deploy)}
TABLES = (
    (CLOCKS, CLOCK_MEASURES), (WORKERS, jobs.MEASURES), ((calls.COLUMN,), calls.MEASURES),
)  # fmt: skip
MEASURES = [name for _, group in TABLES for name in group]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a few minutes; for a first look")
    parser.add_argument("--full", action="store_true", help="also what takes rq cron very long")
    parser.add_argument("--server", help="path of another redis-server or valkey-server")
    options = parser.parse_args()
    if unknown := set(options.what) - set(MEASURES):
        parser.error(f"expected {', '.join(MEASURES)}, got {', '.join(sorted(unknown))}")
    lab = Lab(binary=options.server, quick=options.quick, full=options.full)
    for columns, group in TABLES:
        rows: list[Row] = []
        for name, measure in group.items():
            if not options.what or name in options.what:
                load, began = os.getloadavg()[0], time.monotonic()
                rows += measure(lab)
                took = time.monotonic() - began
                print(f"{name}: {took:.0f} s, load before {load:.1f}", file=sys.stderr, flush=True)
        if rows:
            print(table(columns, rows), end="\n\n", flush=True)
        if columns is CLOCKS and lab.herds:
            print(plot(lab.herds), end="\n\n", flush=True)
    print(machine(lab))
    print(scripts(lab))


def table(columns: tuple[str, ...], rows: list[Row]) -> str:
    """With the ratio to the other one, when there are only two; else aims say theirs."""
    pair = len(columns) == 2
    lines = [("what", *columns, *(["ratio"] if pair else []), "aim")]
    for row in rows:
        figures = [_shown(row, column) for column in columns]
        ratio = [_times(row.ratio(columns[1]))] if pair else []
        lines.append((row.what, *figures, *ratio, _aim(row, pair)))
    first, *others, _ = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(first), *map(str.rjust, line[1:-1], others), line[-1]]).rstrip()
        for line in lines
    )


def _shown(row: Row, column: str) -> str:
    if column not in row.figures:
        return "missing"
    value = row.figures[column]
    if value is None:
        return ""
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {row.unit}".rstrip()


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.{1 if ratio < 10 else 0}f} x"


def _aim(row: Row, pair: bool) -> str:
    aims = []
    if row.aim is not None:
        aims.append(f"<= {row.aim:.3g} {row.unit}".rstrip())
    if row.least is not None:
        aims.append(f">= {row.least:g} {row.unit}".rstrip())
    for other, times in row.beside.items():
        if pair:
            aims.append(f"{times:g} x")
        else:
            ratio = row.ratio(other)
            found = "missing" if ratio is None else f"{ratio:.2f} x"
            aims.append(f"{'>=' if row.more else '<='} {other} ({found})")
    return ", ".join(aims) + ("" if row.met else "  MISSED")


def plot(herds: Mapping[int, float]) -> str:
    """Seconds against jobs, both axes logarithmic. Dots mark times in proportion to the smallest
    herd's: a clock that takes longer for each job of a larger one leaves them upwards."""

    def place(size: float, seconds: float) -> tuple[int, int]:
        return round(8 * math.log10(seconds)), round(40 * math.log10(size / first))

    first = min(herds)
    places = {size: place(size, seconds) for size, seconds in sorted(herds.items())}
    width = max(column for _, column in places.values())
    sizes = (first * 10 ** (column / 40) for column in range(width + 1))
    cells = {place(size, herds[first] * size / first): "·" for size in sizes}
    cells |= dict.fromkeys(places.values(), "●")
    labels = {row: f"{herds[size]:.2f} s" for size, (row, _) in places.items()}
    rows = [row for row, _ in cells]
    lines = ["herds, until the last is enqueued:"]
    for row in range(max(rows), min(rows) - 1, -1):
        shown = "".join(cells.get((row, column), " ") for column in range(width + 1))
        lines.append(f"{labels.get(row, ''):>9} │ {shown}".rstrip())
    axis = f"{'jobs':>9} └"
    for size, (_, column) in places.items():
        axis = f"{axis:{column + 12}}{size:,}"
    return "\n".join([*lines, axis])


def scripts(lab: Lab) -> str:
    """The longest script runs on all servers."""
    p999 = f"p99.9 {lab.p999:.1f} ms"
    return f"scripts by the servers' own measure: {p999}; longest: {longest_shown()}"


def machine(lab: Lab) -> str:
    """What the figures were measured on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        lab.server,
        *(f"{package} {version(package)}" for package in ("rq", "redis", "hiredis")),
        *([f"celery {lab.celery}"] if lab.celery else []),
        "load {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
