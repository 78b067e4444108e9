"""Responses that only the API has: errors, and the results of bulk operations."""

from __future__ import annotations

from dataclasses import dataclass, field

from rq_clock.model.view import View, doc


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(View):
    """A fault of a request."""

    pointer: str | None = field(default=None, metadata=doc("JSON pointer into the body."))
    parameter: str | None = field(default=None, metadata=doc("Name of a parameter or header."))
    message: str
    column: int | None = field(default=None, metadata=doc("Position in the value, from 1."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(View):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[Fault] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkItem(View):
    """The result for one schedule."""

    name: str
    ok: bool
    job: str | None
    problem: Problem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult(View):
    """The result for each schedule."""

    data: list[BulkItem]
    done: int
    failed: int
