"""The one place that says which release this is."""

from functools import cache
from importlib import metadata

__version__ = "0.1.0.dev0"


@cache
def releases() -> dict[str, str]:
    """What this process runs and all others should run too; so it also stands on the lease."""
    packages = {"tzdata": "tzdata", "rq": "rq", "redis_py": "redis"}
    return {"version": __version__} | {key: _version(name) for key, name in packages.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # installed without its metadata
        return "unknown"
