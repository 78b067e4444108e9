"""What the commands share: errors as lines and exit codes, the store, tables, times."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rq_clock.errors import RqClockError, StoreUnavailable

if TYPE_CHECKING:
    from rq_clock.store import Store

NOT_FOUND, UNREACHABLE, CHECK_FAILED = 3, 4, 5


class Commands(click.Group):
    """Turns the project's errors into a line each and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        elif os.environ.get("FORCE_COLOR"):
            ctx.color = True
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            complain(str(error))
            ctx.exit(UNREACHABLE)
        except RqClockError as error:
            complain(str(error))
            ctx.exit(1)


def complain(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"rq-clock: {line}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
count_option = click.option(
    "-n", "--count", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many."
)


def now() -> datetime:
    return datetime.now(UTC)


def open_store() -> Store:
    """The namespace's state, after making sure that Redis answers. Raises StoreUnavailable."""
    from redis.exceptions import RedisError

    from rq_clock.connection import connect, diagnose
    from rq_clock.settings import Settings
    from rq_clock.store import Store

    settings = Settings.from_env()
    store = Store(connect(settings=settings), settings.namespace, history=settings.history)
    try:
        for warning in store.check_server():
            click.echo(f"warning: {warning}", err=True)
    except RedisError as error:
        raise StoreUnavailable(diagnose(error, settings.redis_url)) from None
    return store


def not_found(store: Store, name: str) -> NoReturn:
    from difflib import get_close_matches

    near = get_close_matches(name, store.all_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `rq-clock list` shows them all"
    complain(f"no schedule {name!r} in namespace {store.namespace!r}{hint}")
    sys.exit(NOT_FOUND)


def instant(text: str, option: str = "--from") -> datetime:
    try:
        t = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"expected an instant such as 2026-03-29T00:00Z, got {text!r}", param_hint=option
        ) from None
    return t if t.tzinfo else t.replace(tzinfo=UTC)


def iso(t: datetime) -> str:
    from rq_clock.logs import iso

    return iso(t)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
