"""The bodies of requests. They are held to these models, but for definitions of schedules: those
are read, and refused, by the reader of manifests (definitions.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from rq_clock.errors import ScheduleError
from rq_clock.timing.instants import LONGEST, read_instant
from rq_clock.web.api.schemas import NAME, Instant, Missed, Model


def _instant(value: Any) -> datetime:
    try:
        return read_instant(value)
    except ScheduleError as error:
        raise ValueError(str(error)) from None  # which pydantic collects


Given = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": LONGEST}),
]
"""ISO 8601 with a zone."""
Reason = Annotated[
    str,
    Field(max_length=500, description="Why; it stands in the audit.", examples=["bank holiday"]),
]
Names = Annotated[
    list[Annotated[str, Field(pattern=NAME)]],
    Field(min_length=1, max_length=1000, examples=[["report-42", "report-43"]]),
]
Duration = int | float | str
DURATION = "Seconds, or a text such as 15m (ms, s, m, h, d, w)."
SHELL = "A shell command; a text alone stands for `shell`."


class Command(Model):
    """A shell command; a text alone stands for `shell`."""

    shell: str = Field(examples=["df -h /"])
    timeout: Duration | None = Field(default=None, description=DURATION)
    cwd: str | None = None
    env: dict[str, str] | None = Field(
        default=None, description="On top of the worker's environment."
    )


class Webhook(Model):
    """A call of a URL; a text alone stands for `url`."""

    url: str = Field(examples=["https://example.com/hook"])
    method: str | None = Field(default=None, examples=["POST"])
    headers: dict[str, str] | None = None
    body: Any = Field(default=None, alias="json", description="The body of the call.")
    timeout: Duration | None = Field(default=None, description=DURATION)


class Definition(Model):
    """A schedule: when (one of `cron`, `every`, `once`), what (one of `func`, `command`,
    `webhook`), and how. The words are those of a manifest; null is the same as nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"cron": "0 6 * * *", "tz": "Asia/Tokyo", "func": "tasks.reports.send",
                 "args": [42], "queue": "reports"},
            ]
        }
    )  # fmt: skip

    cron: str | None = Field(default=None, description="Fires when the clock of `tz` matches this.")
    tz: str | None = Field(default=None, description="Zone of `cron`; UTC unless said.")
    every: int | str | None = Field(
        default=None, description="Milliseconds, or a text such as 15m."
    )
    anchor: Instant | None = Field(default=None, description="Where `every` counts from.")
    once: Instant | None = Field(
        default=None, description="Fires once; then the schedule is removed."
    )
    func: str | None = Field(default=None, description="Dotted name of a Python function.")
    command: Command | str | None = None
    webhook: Webhook | str | None = None
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    queue: str | None = None
    timeout: Duration | None = Field(
        default=None, description=f"Of a run; -1 for no end. {DURATION}"
    )
    retries: int | list[int] | None = Field(
        default=None, description="How many, or the delays in seconds."
    )
    result_ttl: Duration | None = Field(default=None, description=DURATION)
    failure_ttl: Duration | None = Field(default=None, description=DURATION)
    catch_up: Literal["latest", "all", "none"] | None = None
    catch_up_window: Duration | None = Field(default=None, description=DURATION)
    catch_up_limit: int | None = None
    overlap: Literal["skip", "allow"] | None = None
    group: str | None = None
    group_limit: int | None = None
    jitter: Duration | None = Field(default=None, description=DURATION)
    tags: list[str] | None = None
    ping: str | None = Field(default=None, description="Called at the start and the end of a run.")

    @model_validator(mode="wrap")
    @classmethod
    def as_it_came(cls, value: Any, _: Any) -> Any:
        """Not read here: definitions.py does."""
        return value


class NewSchedule(Definition):
    """A definition with its name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "report-42", "cron": "0 6 * * *", "tz": "Asia/Tokyo",
                 "func": "tasks.reports.send", "args": [42]},
                {"name": "disk-usage", "every": "1h", "command": "df -h /"},
            ]
        }
    )  # fmt: skip

    name: str = Field(pattern=NAME)


class Explain(Model):
    """A rule of time: one of `cron`, `every`, `once`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"cron": "30 2 * * *", "tz": "Europe/Berlin", "n": 3}]}
    )

    cron: str | None = None
    tz: str | None = None
    every: int | str | None = None
    anchor: str | None = None
    once: str | None = None
    n: int = Field(default=5, ge=0, le=100, description="How many fire times to tell.")


class RunNow(Model):
    """How to run a schedule now."""

    force: bool = Field(default=False, description="Also while its previous run goes on.")
    reason: Reason = ""


class PauseNow(Model):
    """How to pause."""

    reason: Reason = ""
    until: Given | None = Field(default=None, description="It ends by itself then.")
    missed: Missed = Field(
        default="skip", description="What becomes of missed fire times at its end."
    )


class ResumeNow(Model):
    """How to go on."""

    missed: Missed | None = Field(default=None, description="Overrules what the pause said.")


class SkipNext(Model):
    """How many fire times to skip."""

    count: int = Field(default=1, ge=1, le=1000)
    reason: Reason = ""


class BackfillAsked(Model):
    """A span of the past, both ends inclusive. Without a zone an instant is on the clock of the
    schedule's; a date alone is the whole day."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "2026-03-01", "to": "2026-03-03", "dryRun": True}]}
    )

    start: str = Field(alias="from", max_length=LONGEST)
    end: str = Field(alias="to", max_length=LONGEST)
    at_once: int = Field(default=1, ge=1, le=1000, description="So many side by side.")
    again: bool = Field(default=False, description="Also those that ran already.")
    most: int = Field(default=1000, ge=0, le=9999, description="Refuse more fire times than these.")
    reason: Reason = ""
    dry_run: bool = Field(default=False, description="Say what it would enqueue, and nothing else.")


class Wanted(Model):
    """What schedules have to be; as the list's filters."""

    state: (
        Literal["invalid", "late", "stuck", "failing", "paused", "running", "ended", "scheduled"]
        | None
    ) = None
    queue: str | None = Field(default=None, max_length=200)
    tag: str | None = Field(default=None, max_length=200)
    q: str | None = Field(default=None, max_length=200, description="Part of name or target.")
    origin: Literal["declared", "run-time"] | None = None


class Many(Model):
    """Schedules, by name or by what they are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"names": ["report-42"]}, {"filter": {"tag": "reports"}}]}
    )

    names: Names | None = None
    filter: Wanted | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> Many:
        """Exactly one says which."""
        if (self.names is None) == (self.filter is None):
            raise ValueError(
                "expected names or a filter, got " + ("both" if self.names else "none")
            )
        return self


class ManyPaused(Many, PauseNow):
    """Which, and how to pause."""


class ManyResumed(Many, ResumeNow):
    """Which, and how to go on."""


class ManyRun(Many, RunNow):
    """Which, and how to run them."""


class Manifest(Model):
    """Run-time schedules as a text, by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": 1, "schedules": {"disk-usage": {"every": "1h", "command": "df -h /"}}}
            ]
        }
    )

    version: Literal[1]
    secrets: Literal["masked", "included"] | None = None
    schedules: dict[str, dict[str, Any]]


class Why(Model):
    """Nothing but a reason."""

    reason: Reason = ""


class Retry(Model):
    """How to run it once more."""

    again: bool = Field(default=False, description="As another run, by today's definition.")
    force: bool = Field(default=False, description="With `again`: also while a run goes on.")
    reason: Reason = ""


class WantedJobs(Model):
    """What failed jobs have to be."""

    queue: str | None = Field(default=None, max_length=200)
    schedule: str | None = Field(default=None, max_length=100)
    q: str | None = Field(
        default=None, max_length=200, description="Part of id, description or error."
    )
    before: Given | None = Field(default=None, description="They ended no later.")


class ManyJobs(Model):
    """Which failed jobs; all of them when nothing is said."""

    filter: WantedJobs | None = None
    reason: Reason = ""
