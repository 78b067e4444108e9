"""Schedules at run time: see them, change them, operate on them."""

from __future__ import annotations

from rq_clock.schedules.service import Schedules

__all__ = ["Schedules"]
