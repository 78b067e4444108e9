"""The release."""

from functools import cache

__version__ = "0.1.0.dev0"


@cache
def releases() -> dict[str, str]:
    """Return the versions that this process runs; all processes should run the same."""
    packages = {"tzdata": "tzdata", "rq": "rq", "redis_py": "redis"}
    return {"version": __version__} | {key: _version(name) for key, name in packages.items()}


def _version(package: str) -> str:
    from importlib import metadata  # it takes longer than the rest of `rq-clock --help`

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # installed without its metadata
        return "unknown"
