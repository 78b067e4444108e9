"""What is installed is what is here: the wheel, and the pins that Heroku's buildpack installs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = [f"requirements{of}.txt" for of in ("", "-dev", "-bench", "-ecosystem")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*build, "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return ZipFile(file)


def pins(lock: str) -> dict[str, str]:
    """The requirements of a lock file, by name; the text of each holds its version and hashes."""
    lines = re.sub(r"#.*", "", (ROOT / lock).read_text()).replace("\\\n", " ").splitlines()
    return {line.partition("==")[0]: line for line in lines if line.strip()}


def test_the_wheel_has_every_file_of_the_package(wheel: ZipFile) -> None:
    here = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("rq_clock/**/*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {Path(name).suffix for name in here} >= {".py", ".lua", ".typed", ".html", ".css", ".js"}
    assert here == {name for name in wheel.namelist() if name.startswith("rq_clock/")}


def test_the_wheel_installs_the_command(wheel: ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "rq-clock = rq_clock.cli:main" in wheel.read(name).decode()


def test_the_wheel_installs_the_plugin_for_pytest(wheel: ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    pytest11 = wheel.read(name).decode().partition("[pytest11]")[2]
    assert pytest11.split("\n\n")[0].strip() == "rq_clock = rq_clock.pytest_plugin"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_to_fetch_from(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_each_pin_is_exact_and_has_its_hashes(lock: str) -> None:
    for pin in pins(lock).values():
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", pin), pin


def test_the_lock_has_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"\W*[\[<>=]", need)[0] for need in project["dependencies"]}
    assert needed <= pins("requirements.txt").keys()


def test_development_runs_on_the_pins_of_production() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()
