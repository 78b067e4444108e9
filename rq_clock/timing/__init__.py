"""Instants, durations, zones, cron expressions and triggers. Pure."""
