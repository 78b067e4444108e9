"""Helpers of all commands: exit codes, options, the store, questions, colors, tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from json import dumps
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rq_clock.errors import StoreUnavailable
from rq_clock.redaction import escaped, printable
from rq_clock.store.server_time import ServerTime

if TYPE_CHECKING:
    from rq_clock.model.entry import Entry
    from rq_clock.schedules.listing import Row
    from rq_clock.schedules.service import Schedules
    from rq_clock.store.store import Store

NOT_FOUND, UNREACHABLE, CHECK_FAILED, TIMED_OUT, INTERRUPTED = 3, 4, 5, 6, 130
LOOKS = {
    "scheduled": ("✓", "green"), "ok": ("✓", "green"), "done": ("✓", "green"),
    "late": ("!", "yellow"), "stuck": ("!", "yellow"), "interrupted": ("!", "yellow"),
    "paused": ("‖", "cyan"), "skipped": ("‖", "cyan"), "canceled": ("‖", "cyan"),
    "ended": ("■", "bright_black"), "waiting": ("○", "bright_black"),
    "running": ("▶", "blue"), "calling": ("▶", "blue"), "retrying": ("!", "yellow"),
    "stale": ("✕", "red"),
    "invalid": ("⊘", "red"), "failing": ("✕", "red"), "failed": ("✕", "red"),
    "timed_out": ("✕", "red"), "stopped": ("✕", "red"), "lost": ("✕", "red"),
}  # fmt: skip
"""State → its sign and color, beside which the word is always printed."""


def echo(text: str = "", *, err: bool = False, nl: bool = True, styled: bool = False) -> None:
    """Print text, which may be a queue's name or a stranger's: what a terminal would obey is
    escaped. `styled` text has colors, and its other parts are escaped already."""
    click.echo(text if styled else escaped(text, kept="\n"), err=err, nl=nl)


def complain(text: str) -> None:
    """Print a message on standard error."""
    for line in text.splitlines():
        echo(f"rq-clock: {line}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
count_option = click.option(
    "-n", "--count", default=10, show_default=True, type=click.IntRange(1, 1000), help="Rows."
)
reason_option = click.option("--reason", default="", help="Reason for the audit.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Answer yes.")


_time = ServerTime(monotonic, time)


def now() -> datetime:
    """Return the server's time, once a store was opened; before that this machine's."""
    return _time.now()


def host_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


# ---- the store --------------------------------------------------------------------------------


def open_store() -> Store:
    """Return the store of the namespace, on a Redis that answers. Raises StoreUnavailable."""
    from redis.exceptions import RedisError

    from rq_clock.settings import Settings
    from rq_clock.store.access import NO_INFO, check_server
    from rq_clock.store.client import connect
    from rq_clock.store.diagnosis import diagnose
    from rq_clock.store.store import Store

    settings = Settings.from_env()
    store = Store.from_settings(connect(settings=settings), settings)
    try:
        _time.measure(store.redis)
        for warning in check_server(store):
            if warning is not NO_INFO:  # nobody at a terminal can change it; doctor has it
                echo(f"warning: {warning}", err=True)
    except RedisError as error:
        raise StoreUnavailable(diagnose(error, settings.redis_url)) from None
    return store


def schedules_of(store: Store) -> Schedules:
    """Return the operations on the namespace's schedules, with the operator as actor."""
    from rq_clock.schedules.service import Schedules
    from rq_clock.settings import Settings

    settings = Settings.from_env()
    return Schedules(store.redis, by=settings.operator, settings=settings)


def row_of(store: Store, name: str) -> Row | None:
    """Return a schedule and the state of its runs; None when it does not exist."""
    from rq_clock.schedules.listing import ScheduleList

    schedules = ScheduleList(store)
    return next(iter(schedules.rows([name], schedules.status())), None)


def entry_of(store: Store, name: str) -> Entry:
    """Return a schedule; exit with NOT_FOUND if it does not exist."""
    return store.load([name])[0].get(name) or not_found(store, name)


def refuse_unknown(store: Store, names: Sequence[str]) -> None:
    """Exit with NOT_FOUND if one of these schedules does not exist."""
    found, _ = store.load(names)
    for name in names:
        if name not in found:
            not_found(store, name)


def not_found(store: Store, name: str) -> NoReturn:
    from rq_clock.similar import similar

    near = similar(name, store.some_names(10_000))
    hint = f"; did you mean {near!r}?" if near else "; `rq-clock list` shows them all"
    complain(f"no schedule {name!r} in namespace {store.namespace!r}{hint}")
    sys.exit(NOT_FOUND)


def warn_without_leader(store: Store, effect: str) -> None:
    """Warn that a change has its effect only once a clock leads."""
    from rq_clock.store.lease import Leases

    if not Leases(store).leader():
        complain(f"no clock leads now; {effect} when one does")


# ---- questions ----------------------------------------------------------------------------------


def interactive() -> bool:
    """Return whether a person can answer questions."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal, unless `yes`. Exit with 1 if the answer is no."""
    if not yes and interactive() and not click.confirm(question, err=True):
        complain("nothing was done")
        sys.exit(1)


# ---- output -------------------------------------------------------------------------------------


def print_json(view: Any) -> None:
    from rq_clock.model.view import encode

    text = encode(view, indent=2)
    if not text.isprintable():  # JSON's own escapes for what it leaves as it is
        text = "".join(c if c.isprintable() or c == "\n" else dumps(c)[1:-1] for c in text)
    click.echo(text)


def print_rows(
    views: Sequence[Any], head: Sequence[str], cells: Callable[[Any], Sequence[str]],
    *, empty: str, as_json: bool,
) -> None:  # fmt: skip
    """Print views as JSON or as a table. Without views, print `empty` on standard error."""
    if as_json:
        print_json(views)
    elif views:
        echo("\n".join(table(head, map(cells, views))), styled=True)
    else:
        echo(empty, err=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table. A cell with the sign and word of a state has its color."""
    cells = [tuple(head), *(tuple(printable(str(cell), 200) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        while padded and not padded[-1].strip():
            padded.pop()
        lines.append("  ".join(map(_colored, padded)).rstrip())
    return lines


def sign(state: str) -> str:
    """Return a state as a cell of a table: "‖ paused"."""
    return f"{LOOKS[state][0]} {state}"


def colored_sign(state: str) -> str:
    return click.style(sign(state), fg=LOOKS[state][1])


def _colored(cell: str) -> str:
    mark, _, word = cell.rstrip().partition(" ")
    look = LOOKS.get(word.partition(" ")[0])
    return click.style(cell, fg=look[1]) if look and look[0] == mark else cell


def limited(lines: Sequence[str], limit: int, end: str = "") -> list[str]:
    """Return the first lines, and "… and 3 more", with this `end`, for the others."""
    rest = len(lines) - limit
    return [*lines[:limit], f"… and {rest:,} more{end}"] if rest > 0 else [*lines]


@contextmanager
def progress(length: int, label: str, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, on a terminal only. Yields a function that moves the
    bar to a count."""
    if not (shown and sys.stderr.isatty()):
        yield lambda count: None
        return
    with click.progressbar(length=length, label=label, show_pos=True, file=sys.stderr) as bar:
        yield lambda count: bar.update(max(count - bar.pos, 0))


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"
