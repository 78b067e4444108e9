"""Schedules, targets, entries, decisions: the objects. Pure."""
