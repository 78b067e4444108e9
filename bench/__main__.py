"""`python -m bench`: rq-clock beside RQ's own `rq cron`, as one table.

Absolute figures depend on the machine and on what else runs there; the ratios, of two clocks in
the same minutes, much less. `ratio` is how many times less rq-clock needs. An aim that was missed
says so. Every measurement has a private server (the embedded Valkey, or --server) without
persistence, and each clock is a process of its own; see clocks.py and measures.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version

from bench.lab import Lab, Row
from bench.measures import MEASURES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a minute; for a first look")
    parser.add_argument("--full", action="store_true", help="also what takes rq cron very long")
    parser.add_argument("--server", help="path of another redis-server or valkey-server")
    options = parser.parse_args()
    if unknown := set(options.what) - set(MEASURES):
        parser.error(f"expected {', '.join(MEASURES)}, got {', '.join(sorted(unknown))}")
    lab = Lab(binary=options.server, quick=options.quick, full=options.full)
    rows: list[Row] = []
    for name, measure in MEASURES.items():
        if not options.what or name in options.what:
            load, began = os.getloadavg()[0], time.monotonic()
            rows += measure(lab)
            took = time.monotonic() - began
            print(f"{name}: {took:.0f} s, load before {load:.1f}", file=sys.stderr, flush=True)
    print(table(rows))
    print()
    print(machine(lab))


def table(rows: list[Row]) -> str:
    lines = [("what", "rq-clock", "rq cron", "ratio", "aim")]
    for row in rows:
        figures = (_shown(row.ours, row.unit), _shown(row.theirs, row.unit), _ratio(row))
        lines.append((row.what, *figures, _aim(row)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:4], widths[1:4]), line[4]]
        ).rstrip()
        for line in lines
    )


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 100 or not unit else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    return f"{row.ratio:.{1 if row.ratio < 10 else 0}f} x"


def _aim(row: Row) -> str:
    aims = []
    if row.aim is not None:
        aims.append(f"<= {row.aim:g} {row.unit}".rstrip())
    if row.aim_ratio is not None:
        aims.append(f"{row.aim_ratio:g} x")
    return ", ".join(aims) + ("" if row.met else "  MISSED")


def machine(lab: Lab) -> str:
    """What the figures were measured on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        lab.server,
        *(f"{package} {version(package)}" for package in ("rq", "redis", "hiredis")),
        "load {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
