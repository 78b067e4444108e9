"""Schedules of other schedulers, read from their own files and tables."""
