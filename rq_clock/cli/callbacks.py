"""The group of commands for callbacks: URLs that are called at or after an instant."""

from __future__ import annotations

import click

from rq_clock.cli.group import LazyGroup

_HERE = "rq_clock.cli.tasks"
SECTIONS = {
    "Tasks": {
        "add": (f"{_HERE}:add", "Call a URL at or after an instant."),
        "list": (f"{_HERE}:list_", "List tasks, the next calls first."),
        "show": (f"{_HERE}:show", "Show a task with its request and its calls."),
        "cancel": (f"{_HERE}:cancel", "Cancel tasks that are not called yet."),
        "retry": (f"{_HERE}:retry", "Call stale or canceled tasks again."),
        "delete": (f"{_HERE}:delete", "Forget tasks."),
    },
    "Calling": {
        "status": (f"{_HERE}:status", "Show how calling goes."),
        "configure": (f"{_HERE}:configure", "Show or change the configuration."),
    },
}


@click.group(
    cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]}
)
def callbacks() -> None:
    """Call URLs at given times, with retries.

    A task is one URL. It is called at or after its instant, as fast as the configuration lets it,
    and again until it answers 2xx. Then it is done; after too many retries it is stale.
    """
