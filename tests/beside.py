"""Tests that run at the same time as others of their module, in threads: they mostly wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

Body = Callable[[Path], str]
BODIES: dict[str, Body] = {}
STORMS: set[str] = set()


def beside_others(body: Body) -> Callable[..., None]:
    """Make a test of a function that takes a directory and returns its figures."""
    BODIES[body.__name__] = body

    def test(under_way: dict[str, Future[str]], request: pytest.FixtureRequest) -> None:
        print(under_way[request.node.name].result())

    test.__name__ = body.__name__
    return test


def storm(body: Body) -> Callable[..., None]:
    """The same for a function that starts processes all the time; two of these run at once."""
    STORMS.add(body.__name__)
    return beside_others(body)
