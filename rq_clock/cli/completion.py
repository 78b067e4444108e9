"""Completion in the shell: its script, and the names that it offers.

Redis has 300 ms to tell them. Where it does not, or anything else goes wrong, nothing is offered:
a key on the keyboard must not hang or print an error.
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
"""Seconds for all that Redis is asked, its address in the DNS included."""
MOST = 500
"""Names that are offered at once."""
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
    """Schedules, and for an argument that takes many those that are not named yet."""
    named = ctx.params.get("names") or ()
    names = _asked(lambda store: store.some_names(SEARCHED))
    return _items([name for name in names if name not in named], incomplete)


def queue_names(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Queues that RQ knows."""

    def read(store: Store) -> list[str]:
        keys: Any = store.redis.smembers("rq:queues")
        return [key.decode().removeprefix("rq:queue:") for key in keys]

    return _items(_asked(read), incomplete)


def backfill_ids(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Backfills that can be canceled."""

    def read(store: Store) -> list[str]:
        from rq_clock.store.backfills import Backfills

        return [b.id for b in Backfills(store).newest(20) if b.state == "running"]

    return _items(_asked(read), incomplete)


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    near = sorted(name for name in names if name.startswith(incomplete))
    return [CompletionItem(name) for name in near[:MOST]]


def _asked(read: Callable[[Store], list[str]]) -> list[str]:
    """What `read` finds within PATIENCE; else nothing. A thread, since nothing else bounds the
    time that looking up a host may take."""
    from rq_clock.settings import Settings
    from rq_clock.store.client import connect
    from rq_clock.store.store import Store

    found: list[str] = []

    def ask() -> None:
        try:
            settings = Settings.from_env()
            found.extend(read(Store(connect(settings=settings), settings.namespace)))
        except Exception:  # see above
            found.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(found)
