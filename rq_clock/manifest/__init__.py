"""Schedules in and out: definitions, manifests, the changes that one makes, and the importers of
other schedulers' files."""
