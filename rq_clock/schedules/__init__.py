"""Schedules at run time: see them, change them, operate on them."""
