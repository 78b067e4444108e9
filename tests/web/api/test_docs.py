"""docs/api.md is true: a web process gives its commands the answers that it shows, and it lists all
kinds of problem."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rq_clock.web.problems import KINDS
from tests.helpers import needs
from tests.process import ROOT
from tests.web.test_server import TOKEN, WebProcess

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "api.md").read_text()


def examples(page: str) -> list[tuple[str, Any]]:
    """Commands, and what is shown of their answers; None where nothing is."""
    found: list[tuple[str, Any]] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = example.splitlines(keepends=True)
            answer = [n for n, line in enumerate(lines) if line.startswith("{")]
            start = answer[0] if answer else len(lines)
            shown = "".join(lines[start:])
            found.append(("".join(lines[:start]), json.loads(shown) if shown.strip() else None))
    return found


def holds(shown: Any, answer: Any) -> bool:
    """Whether an answer says what is shown of it."""
    if isinstance(shown, dict):
        return all(key in answer and holds(part, answer[key]) for key, part in shown.items())
    if isinstance(shown, list):
        return len(shown) == len(answer) and all(map(holds, shown, answer))
    return bool(shown == answer)


@needs("curl")
def test_its_commands_get_the_answers_it_shows(redis_url: str, tmp_path: Path) -> None:
    commands = examples(PAGE)
    assert len(commands) > 15
    with WebProcess(tmp_path, redis_url, RQ_CLOCK_TARGETS="tasks") as web:
        host, port = web.place
        env = {"PATH": "/usr/bin:/bin", "TOKEN": TOKEN, "URL": f"http://{host}:{port}"}
        for command, shown in commands:
            ran = subprocess.run(
                ["/bin/sh", "-c", command],
                env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
            if shown is not None:
                assert holds(shown, json.loads(ran.stdout)), f"{command}\n{ran.stdout}"


def test_its_errors_are_all_kinds_of_problem() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert listed == [(kind, str(status)) for kind, (status, _) in KINDS.items()]
