"""Shell completion: the script, and the offered names.

Redis has 300 ms to answer. If it does not, or anything fails, nothing is offered: the Tab key must
neither hang nor print an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from rq_clock.store.store import Store

PATIENCE = 0.3
"""Seconds to read from Redis, its DNS lookup included."""
LIMIT = 500
"""Maximum number of offered names."""
SEARCHED = 10_000


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    It completes commands, options, schedules, queues and backfills.

    For bash: eval "$(rq-clock completion bash)" in ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    click.echo(kind(ctx.find_root().command, {}, "rq-clock", "_RQ_CLOCK_COMPLETE").source())


def schedule_names(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Offer schedules, except those on the command line."""
    named = ctx.params.get("names") or ()
    names = _read(lambda store: store.some_names(SEARCHED))
    return _items([name for name in names if name not in named], incomplete)


def queue_names(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Offer the queues that RQ knows."""

    def read(store: Store) -> list[str]:
        keys: Any = store.redis.smembers("rq:queues")
        return [key.decode().removeprefix("rq:queue:") for key in keys]

    return _items(_read(read), incomplete)


def backfill_ids(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Offer the backfills that can be canceled."""

    def read(store: Store) -> list[str]:
        from rq_clock.store.backfills import Backfills

        return [b.id for b in Backfills(store).newest(20) if b.state == "running"]

    return _items(_read(read), incomplete)


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    near = sorted(name for name in names if name.startswith(incomplete))
    return [CompletionItem(name) for name in near[:LIMIT]]


def _read(read: Callable[[Store], list[str]]) -> list[str]:
    """Return what `read` finds within PATIENCE, else nothing.

    It runs in a thread, since nothing else limits the time of a host lookup.
    """
    from rq_clock.settings import Settings
    from rq_clock.store.client import connect
    from rq_clock.store.store import Store

    found: list[str] = []

    def run() -> None:
        try:
            settings = Settings.from_env()
            found.extend(read(Store(connect(settings=settings), settings.namespace)))
        except Exception:  # see above
            found.clear()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(found)
