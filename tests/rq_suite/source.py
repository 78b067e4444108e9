"""The source distribution of the RQ that requirements.txt pins: it holds RQ's tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv" / "rq-suite"
"""Everything that the suite writes, but for what the repository keeps."""


def fetch() -> Path:
    """Return the folder with RQ's `tests`, downloaded and unpacked unless it is there.

    pip verifies the hash that requirements.txt pins. RQ itself is not unpacked: the tests import
    the installed one. Their fixed paths in /tmp become paths of each file's own, so that files can
    run side by side.
    """
    pin = re.search(r"^rq==(\S+) (?:.*\\\n)+.*", (ROOT / "requirements.txt").read_text(), re.M)
    assert pin, "expected requirements.txt to pin rq with its hashes"
    folder = FOLDER / f"rq-{pin[1]}"
    if not folder.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        (FOLDER / "rq.txt").write_text(pin[0])
        _unpack(_download(FOLDER / "rq.txt"), folder)
    return folder


def _download(requirement: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--no-binary", "rq", "--no-build-isolation"]
    command += ["--dest", str(FOLDER), "--requirement", str(requirement)]
    subprocess.run(command, check=True)
    return next(FOLDER.glob("rq-*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> None:
    fresh = folder.with_suffix(".part")  # a run that ended half way leaves no half of a suite
    with tarfile.open(archive) as tar:
        for member in tar:
            member.name = member.name.partition("/")[2]
            if member.name.startswith("tests/") or member.name == "pyproject.toml":
                tar.extract(member, fresh, filter="data")
    for path in (fresh / "tests").glob("test_*.py"):
        path.write_text(path.read_text().replace("'/tmp/", f"'{scratch_of(path.name)}/"))
    fresh.rename(folder)


def scratch_of(name: str) -> Path:
    """Return the folder that a file of tests uses as /tmp."""
    return FOLDER / "tmp" / name
