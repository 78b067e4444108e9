"""The app's own packages: those of its declared functions, without those that pip has installed.

Nothing of the app is imported. An app that declares `django.core.management.call_command` does not
let every token call all of Django.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}


def own_packages(packages: Iterable[str]) -> list[str]:
    """Return those of these top-level packages that are not installed ones."""
    return [name for name in packages if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # not where this process looks
        return False
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return any(_INSTALLED & set(Path(place).parts) for place in places)
