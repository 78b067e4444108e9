"""What the API takes (taken.py) and gives (given.py), as its OpenAPI document tells it; here what
both are made of, and what an error says.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

NAME = r"^[A-Za-z0-9_-]{1,100}$"
RunState = Literal[
    "ok", "failed", "timed_out", "stopped", "interrupted", "lost", "skipped", "waiting"
]
Missed = Literal["skip", "latest", "all"]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""As it is told: ISO 8601, in UTC unless it says another offset."""


class Model(BaseModel):
    """camelCase outside; nothing that it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True
    )


class Fault(Model):
    """Where a request is wrong, and how: a place in the body, or a parameter."""

    pointer: str | None = Field(
        default=None, description="JSON pointer into the body.", examples=["/cron"]
    )
    parameter: str | None = Field(default=None, description="Name of a parameter or header.")
    message: str = Field(examples=["expected minute 0-59, got '61' in '61 3 * * *'"])
    column: int | None = Field(
        default=None, description="In the text at the pointer; 1 is the first."
    )


class Problem(Model):
    """Problem details, RFC 9457."""

    type: str = Field(examples=["urn:rq-clock:problem:validation"])
    title: str = Field(examples=["The request is wrong"])
    status: int = Field(examples=[422])
    detail: str | None = None
    instance: str | None = None
    errors: list[Fault] | None = None
