"""A module that takes a second to import, as a framework with its models does."""

import time

time.sleep(1)


def task() -> None:
    """Do nothing."""
