"""What the commands share: errors as lines and exit codes, colours, the store, tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rq_clock.errors import Conflict, ConflictKind, RqClockError, StoreUnavailable

if TYPE_CHECKING:
    from rq_clock.schedules.service import Schedules
    from rq_clock.store.store import Store

NOT_FOUND, UNREACHABLE, CHECK_FAILED, TIMED_OUT, INTERRUPTED = 3, 4, 5, 6, 130
LOOKS = {
    "scheduled": ("✓", "green"), "ok": ("✓", "green"), "done": ("✓", "green"),
    "late": ("!", "yellow"), "interrupted": ("!", "yellow"),
    "paused": ("‖", "cyan"), "skipped": ("‖", "cyan"), "canceled": ("‖", "cyan"),
    "ended": ("■", "bright_black"), "waiting": ("○", "bright_black"),
    "running": ("▶", "blue"),
    "invalid": ("⊘", "red"), "failed": ("✕", "red"), "timed_out": ("✕", "red"),
    "stopped": ("✕", "red"), "lost": ("✕", "red"),
}  # fmt: skip
"""State → its sign and colour. The word always stands beside them."""


class Commands(click.Group):
    """Turns the project's errors into a line each and an exit code, and gives every command
    `--color`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_color_option())
        self._sections: dict[str, Sequence[click.Command]] = {}

    def add_section(self, title: str, commands: Sequence[click.Command]) -> None:
        """Add commands that stand together in the help."""
        self._sections[title] = commands
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(60)) for c in commands])

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.params.append(_color_option())
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a sign that the terminal lacks is no reason
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            complain(str(error))
            ctx.exit(UNREACHABLE)
        except RqClockError as error:
            complain(str(error))
            conflicts = error.all if isinstance(error, Conflict) else ()
            missing = any(c.kind is ConflictKind.MISSING for c in conflicts)
            ctx.exit(NOT_FOUND if missing else 1)
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)  # behind the terminal's ^C, or the question
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if reason := _of_redis(error):
                complain(reason)
                ctx.exit(UNREACHABLE)
            raise


def _of_redis(error: Exception) -> str:
    """What is wrong with the server, when it went away in the middle; else nothing."""
    redis = sys.modules.get("redis.exceptions")
    if redis is None or not isinstance(error, redis.RedisError):
        return ""
    from rq_clock.settings import Settings
    from rq_clock.store.client import diagnose

    return diagnose(error, Settings.from_env().redis_url)


def _color_option() -> click.Option:
    def choose(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.color = {"auto": None, "always": True, "never": False}[value]
        elif ctx.parent is None:  # click heeds neither
            if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
                ctx.color = False
            elif os.environ.get("FORCE_COLOR"):
                ctx.color = True

    return click.Option(
        ["--color"],
        type=click.Choice(["auto", "always", "never"]),
        callback=choose,
        expose_value=False,
        help="Default: auto, on a terminal; NO_COLOR and FORCE_COLOR are heeded.",
    )


def complain(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"rq-clock: {line}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
count_option = click.option(
    "-n", "--count", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many."
)
reason_option = click.option("--reason", default="", help="Why; it stands in the audit.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Don't ask.")


def now() -> datetime:
    return datetime.now(UTC)


# ---- the store --------------------------------------------------------------------------------


def open_store() -> Store:
    """The namespace's state, after making sure that Redis answers. Raises StoreUnavailable."""
    from redis.exceptions import RedisError

    from rq_clock.settings import Settings
    from rq_clock.store.client import connect, diagnose
    from rq_clock.store.store import Store

    settings = Settings.from_env()
    store = Store(connect(settings=settings), settings.namespace, history=settings.history)
    try:
        for warning in store.check_server():
            click.echo(f"warning: {warning}", err=True)
    except RedisError as error:
        raise StoreUnavailable(diagnose(error, settings.redis_url)) from None
    return store


def schedules_of(store: Store) -> Schedules:
    """What can be done to the namespace's schedules, in the name of whoever sits here."""
    from rq_clock.schedules.service import Schedules
    from rq_clock.settings import Settings

    settings = Settings.from_env()
    return Schedules(store.redis, by=settings.operator, settings=settings)


def refuse_unknown(store: Store, names: Sequence[str]) -> None:
    """Exit with NOT_FOUND when one of these schedules does not exist."""
    found, _ = store.load(names)
    for name in names:
        if name not in found:
            not_found(store, name)


def not_found(store: Store, name: str) -> NoReturn:
    from difflib import get_close_matches

    near = get_close_matches(name, store.page(0, 10_000)[1], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `rq-clock list` shows them all"
    complain(f"no schedule {name!r} in namespace {store.namespace!r}{hint}")
    sys.exit(NOT_FOUND)


def tell_if_nobody_leads(store: Store, what: str) -> None:
    """Say that nothing happens for now, where it takes a clock."""
    if not store.leader():
        complain(f"no clock leads now; {what} when one does")


# ---- asking -----------------------------------------------------------------------------------


def interactive() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> None:
    """Ask; exit with 1 unless the answer is yes."""
    if not click.confirm(question, err=True):
        complain("nothing was done")
        sys.exit(1)


# ---- what is printed --------------------------------------------------------------------------


def iso(t: datetime) -> str:
    from rq_clock.timing.instants import iso

    return iso(t)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns for people and grep. A cell that is the sign and word of a state has its colour."""
    click.echo("\n".join(table(head, rows)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    from rq_clock.redaction import printable

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
    """A state as a cell of a table: "‖ paused"."""
    return f"{LOOKS[state][0]} {state}"


def colored_sign(state: str) -> str:
    return click.style(sign(state), fg=LOOKS[state][1])


def _colored(cell: str) -> str:
    mark, _, word = cell.rstrip().partition(" ")
    look = LOOKS.get(word.partition(" ")[0])
    return click.style(cell, fg=look[1]) if look and look[0] == mark else cell


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
