"""Alerts: monitor.py finds problems, rules.py what changed, channels.py sends the reports."""
