"""The command group: commands that are imported when they run, errors as lines and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from rq_clock.cli.common import INTERRUPTED, NOT_FOUND, UNREACHABLE, complain
from rq_clock.errors import Conflict, ConflictKind, RqClockError, StoreUnavailable


class LazyGroup(click.Group):
    """A group that imports a command when it runs and lists all commands without importing them.

    It prints errors as lines with exit codes, and adds `--color` to every command. `sections`:
    title → command → (its place as "module:attribute", its short help).
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, tuple[str, str]]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_color_option())
        self.sections = sections
        self._rows = {name: row for rows in sections.values() for name, row in rows.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._rows and cmd_name not in self.commands:
            module, _, attribute = self._rows[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            if not isinstance(command, LazyGroup):  # which has it
                command.params.append(_color_option())
            self.add_command(command)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, rows in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in rows.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in self._rows.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:  # bytes that are not UTF-8, as Python passes them on
                ctx.fail(f"expected text in UTF-8, got {word[:50]!r}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # for terminals that lack a sign
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            complain(str(error))
            ctx.exit(UNREACHABLE)
        except RqClockError as error:
            complain(str(error))
            conflicts = error.all if isinstance(error, Conflict) else ()
            missing = {ConflictKind.MISSING, ConflictKind.NO_TASK} & {c.kind for c in conflicts}
            ctx.exit(NOT_FOUND if missing else 1)
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)  # after the terminal's ^C, or the question
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if reason := _redis_fault(error):
                complain(reason)
                ctx.exit(UNREACHABLE)
            raise


def _redis_fault(error: Exception) -> str:
    """Return why Redis failed during a command; "" for any other error."""
    redis = sys.modules.get("redis.exceptions")
    if redis is None or not isinstance(error, redis.RedisError):
        return ""
    from rq_clock.settings import Settings
    from rq_clock.store.diagnosis import diagnose

    return diagnose(error, Settings.from_env().redis_url)


def _color_option() -> click.Option:
    def choose(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.color = {"auto": None, "always": True, "never": False}[value]
        elif ctx.parent is None:  # click reads neither variable
            if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
                ctx.color = False
            elif os.environ.get("FORCE_COLOR"):
                ctx.color = True

    return click.Option(
        ["--color"], type=click.Choice(["auto", "always", "never"]), callback=choose,
        expose_value=False, help="Default: auto, on a terminal. NO_COLOR and FORCE_COLOR apply.",
    )  # fmt: skip
