"""Models that validate request bodies. Definitions of schedules are documented here, and validated
by the reader of manifests (definitions.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import WithJsonSchema

from rq_clock.errors import ScheduleError
from rq_clock.model.callbacks import MODES
from rq_clock.model.entry import Missed
from rq_clock.model.task import PRIORITIES
from rq_clock.model.validation import REASON_LIMIT
from rq_clock.model.verdict import State
from rq_clock.timing.instants import LONGEST, read_instant

NAME = r"^[A-Za-z0-9_-]{1,100}$"


def _instant(value: Any) -> datetime:
    try:
        return read_instant(value)
    except ScheduleError as error:
        raise ValueError(str(error)) from None  # pydantic collects these


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": LONGEST}),
]
"""ISO 8601 with a zone."""
Text = Annotated[str, Field(max_length=200)]
Reason = Annotated[
    str, Field(max_length=REASON_LIMIT, description="For the audit.", examples=["bank holiday"])
]
Names = Annotated[
    list[Annotated[str, Field(pattern=NAME)]],
    Field(min_length=1, max_length=1000, examples=[["report-42", "report-43"]]),
]
Duration = Annotated[
    int | float | str,
    Field(description="Seconds, or a text such as 15m (ms, s, m, h, d, w)."),
]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Model(BaseModel):
    """A request body in camelCase, without unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True
    )


def _examples(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [*examples]})


# ---- definitions ------------------------------------------------------------------------------


class Command(Model):
    """A shell command. A plain text stands for `shell`."""

    shell: str = Field(examples=["df -h /"])
    timeout: Duration | None = None
    cwd: str | None = None
    env: dict[str, str] | None = Field(default=None, description="Added to the environment.")


class Dyno(Model):
    """A shell command in a one-off dyno. A plain text stands for `shell`."""

    shell: str = Field(examples=["python report.py"])
    size: str | None = Field(default=None, examples=["standard-2x"])
    timeout: Duration | None = None
    env: dict[str, str] | None = Field(default=None, description="Added to the config vars.")


class Webhook(Model):
    """A web call. A plain text stands for `url`."""

    url: str = Field(examples=["https://example.com/hook"])
    method: str | None = Field(default=None, examples=["POST"])
    headers: dict[str, str] | None = None
    body: Any = Field(default=None, alias="json", description="The JSON body of the call.")
    timeout: Duration | None = None


class Definition(Model):
    """A schedule: a trigger (one of `cron`, `every`, `once`), a target (one of `func`, `command`,
    `dyno`, `webhook`) and options, as in a manifest. A field that is null is left out."""

    model_config = _examples(
        {"cron": "0 6 * * *", "tz": "Asia/Tokyo", "func": "tasks.reports.send", "args": [42],
         "queue": "reports"},
    )  # fmt: skip

    cron: str | None = Field(default=None, description="A cron expression in the zone `tz`.")
    tz: str | None = Field(default=None, description="Zone of the times (default UTC).")
    every: int | str | None = Field(default=None, description="Milliseconds, or such as 15m.")
    at: str | None = Field(
        default=None, description="Local time of an `every` of days or weeks.", examples=["09:00"]
    )
    on: str | None = Field(
        default=None, description="Weekdays of an `every` of weeks.", examples=["tue", "mon-fri"]
    )
    anchor: str | None = Field(
        default=None, description="Instant, or date beside `at`, from which `every` counts."
    )
    start: str | None = Field(default=None, description="First instant, or date in the zone.")
    end: str | None = Field(default=None, description="Last instant, or date in the zone.")
    max_runs: int | None = Field(
        default=None, description="Ends after so many fire times from `start` on."
    )
    once: Timestamp | None = Field(default=None, description="Instant of the only run.")
    func: str | None = Field(default=None, description="Dotted name of a Python function.")
    command: Command | str | None = None
    dyno: Dyno | str | None = None
    webhook: Webhook | str | None = None
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    queue: str | None = None
    timeout: Duration | None = Field(default=None, description="Maximum run time; -1 for none.")
    retries: int | list[int] | None = Field(
        default=None, description="A number, or delays in seconds."
    )
    result_ttl: Duration | None = None
    failure_ttl: Duration | None = None
    catch_up: Literal["latest", "all", "none"] | None = None
    catch_up_window: Duration | None = None
    catch_up_limit: int | None = None
    overlap: Literal["skip", "allow"] | None = None
    group: str | None = None
    group_limit: int | None = None
    jitter: Duration | None = None
    tags: list[str] | None = None
    ping: str | None = Field(default=None, description="URL to call when a run starts and ends.")

    @model_validator(mode="wrap")
    @classmethod
    def unvalidated(cls, value: Any, _: Any) -> Any:
        """Leave validation to definitions.py."""
        return value


class NewSchedule(Definition):
    """A definition with a name."""

    model_config = _examples(
        {"name": "report-42", "cron": "0 6 * * *", "tz": "Asia/Tokyo",
         "func": "tasks.reports.send", "args": [42]},
        {"name": "disk-usage", "every": "1h", "command": "df -h /"},
    )  # fmt: skip

    name: str = Field(pattern=NAME)


class ExplainRequest(Model):
    """A trigger: one of `cron`, `every`, `once`."""

    model_config = _examples({"cron": "30 2 * * *", "tz": "Europe/Berlin", "n": 3})

    cron: str | None = None
    tz: str | None = None
    every: int | str | None = None
    at: str | None = None
    on: str | None = None
    anchor: str | None = None
    start: str | None = None
    end: str | None = None
    max_runs: int | None = None
    once: str | None = None
    n: int = Field(default=5, ge=0, le=100, description="Fire times to return.")


class Manifest(Model):
    """A manifest of run-time schedules, by name."""

    model_config = _examples(
        {"version": 1, "schedules": {"disk-usage": {"every": "1h", "command": "df -h /"}}}
    )

    version: Literal[1]
    secrets: Literal["masked", "included"] | None = None
    schedules: dict[str, dict[str, Any]]


# ---- operations on one ------------------------------------------------------------------------


class ReasonOptions(Model):
    """The reason of an operation."""

    reason: Reason = ""


class RunOptions(ReasonOptions):
    """Options of a run."""

    force: bool = Field(default=False, description="Run even if the last run has not ended.")


class PauseOptions(ReasonOptions):
    """Options of a pause."""

    until: Instant | None = Field(default=None, description="End of the pause.")
    missed: Missed = Field(default="skip", description="Missed fire times to run at its end.")


class ResumeOptions(Model):
    """Options of the end of a pause."""

    missed: Missed | None = Field(default=None, description="Overrides `missed` of the pause.")


class SkipOptions(ReasonOptions):
    """The number of fire times to skip."""

    count: int = Field(default=1, ge=1, le=1000)


class RetryOptions(RunOptions):
    """Options of a retry."""

    again: bool = Field(default=False, description="Make a new run by today's definition.")


class BackfillRequest(ReasonOptions):
    """A past span, both ends included. An instant without a zone is in the zone of the schedule; a
    date alone is the whole day."""

    model_config = _examples({"from": "2026-03-01", "to": "2026-03-03", "dryRun": True})

    start: str = Field(alias="from", max_length=LONGEST)
    end: str = Field(alias="to", max_length=LONGEST)
    at_once: int = Field(default=1, ge=1, le=1000, description="Concurrent runs.")
    again: bool = Field(default=False, description="Include fire times that ran already.")
    limit: int = Field(default=1000, ge=0, le=9999, description="Refuse more fire times.")
    dry_run: bool = Field(default=False, description="Only return what it would enqueue.")


# ---- operations on many -----------------------------------------------------------------------


class ScheduleFilter(Model):
    """A filter for schedules, as in the list."""

    state: State | None = None
    queue: Text | None = None
    tag: Text | None = None
    q: Text | None = Field(default=None, description="Part of the name or target.")
    origin: Literal["declared", "run-time"] | None = None


class BulkRequest(Model):
    """Schedules, by name or by a filter."""

    model_config = _examples({"names": ["report-42"]}, {"filter": {"tag": "reports"}})

    names: Names | None = None
    filter: ScheduleFilter | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> BulkRequest:
        """Require either names or a filter."""
        if (self.names is None) == (self.filter is None):
            both = "both" if self.names else "none"
            raise ValueError(f"expected names or a filter, got {both}")
        return self


class BulkPauseRequest(BulkRequest, PauseOptions):
    """Schedules to pause."""


class BulkResumeRequest(BulkRequest, ResumeOptions):
    """Schedules to resume."""


class BulkRunRequest(BulkRequest, RunOptions):
    """Schedules to run."""


class FailedJobFilter(Model):
    """A filter for failed jobs."""

    queue: Text | None = None
    schedule: str | None = Field(default=None, max_length=100)
    q: Text | None = Field(default=None, description="Part of the id, description or error.")
    before: Instant | None = Field(default=None, description="Only jobs that ended before this.")


class BulkJobsRequest(ReasonOptions):
    """Failed jobs; all of them without a filter."""

    filter: FailedJobFilter | None = None


# ---- tasks ------------------------------------------------------------------------------------


class NewTask(Model):
    """A URL to call, and when. A field that is null is left out."""

    model_config = _examples(
        {"webhookUrl": "https://example.com/jobs/42", "executeAt": "2026-03-01T09:00:00Z",
         "payload": {"order": 42}},
    )  # fmt: skip

    webhook_url: str = Field(description="Without a scheme: https. Public addresses only.")
    webhook_auth: str | None = Field(
        default=None,
        description="With a space in it the whole Authorization header, else its bearer token. "
        "`${env:NAME}` stands for a variable of RQ_CLOCK_WEBHOOK_ENV.",
    )
    execute_at: Timestamp | None = Field(
        default=None, description="The earliest instant; missing or past: as soon as possible."
    )
    method: str | None = Field(default=None, examples=["POST"])
    headers: dict[str, str] | None = None
    payload: Any = Field(default=None, description="Any JSON, part of the call's body.")
    dedup_key: str | None = Field(
        default=None, max_length=200, description="Adds nothing while a task with it lives."
    )
    priority: str | None = Field(default=None, json_schema_extra={"enum": [*PRIORITIES, None]})
    max_retries: int | None = Field(default=None, description="Default: as configured.")
    timeout: Duration | None = Field(default=None, description="Default: as configured.")
    tags: list[str] | None = None


class TaskBatch(Model):
    """Tasks to add. A fault in one adds none."""

    tasks: list[NewTask] = Field(min_length=1, max_length=1000)


TaskStatus = Literal["waiting", "calling", "retrying", "done", "stale", "canceled"]


class TaskFilter(Model):
    """A filter for tasks, as in the list."""

    status: TaskStatus | None = None
    host: Text | None = None
    tag: Text | None = None
    q: Text | None = Field(default=None, description="Part of the id or URL.")


class BulkTasksRequest(ReasonOptions):
    """Tasks by a filter. An empty one matches all that the operation can change."""

    model_config = _examples({"filter": {"status": "stale", "host": "example.com"}})

    filter: TaskFilter


class ConfigurationPatch(ReasonOptions):
    """Fields of the configuration to change. The names with underscores are read, too."""

    model_config = _examples({"baseIntervalMs": 500, "selectSize": 50})

    base_interval_ms: int | None = None
    http_callback_timeout_ms: int | None = None
    select_size: int | None = None
    max_retries: int | None = None
    mode: str | None = Field(default=None, json_schema_extra={"enum": [*MODES, None]})
    host_concurrency: int | None = Field(default=None, description="Null: no limit.")
    host_rate: float | None = Field(default=None, description="Null: no limit.")
    dispatchers: int | None = None
    retry_delays: list[float] | None = None
    keep_done: int | None = None
    keep_done_hours: int | None = None
    keep_stale_days: int | None = None
