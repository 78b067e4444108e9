"""app.json holds to Heroku's schema, and to the files that it speaks of.

The rules are those of app-json.schema.json in heroku/heroku-mcp-server (draft 7), as far as the
file goes. Heroku reads it only when it makes an app: nothing else would notice a fault.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

KEYS = {
    "addons",
    "buildpacks",
    "description",
    "env",
    "environments",
    "formation",
    "image",
    "keywords",
    "logo",
    "name",
    "repository",
    "scripts",
    "stack",
    "success_url",
    "website",
}
SIZES = {
    "eco",
    "basic",
    "standard-1x",
    "standard-2x",
    "performance-m",
    "performance-l",
    "private-s",
    "private-m",
    "private-l",
    "shield-s",
    "shield-m",
    "shield-l",
}


@pytest.fixture(scope="module")
def app() -> Any:
    return json.loads((ROOT / "app.json").read_text())


def test_it_has_only_the_keys_of_the_schema(app: Any) -> None:
    assert app.keys() <= KEYS
    assert re.match(r"[a-zA-Z_.-]", app["name"])
    assert isinstance(app["description"], str)
    assert all(isinstance(word, str) for word in app["keywords"])


def test_the_stack_is_left_to_heroku(app: Any) -> None:
    assert "stack" not in app  # the schema's list ends before the buildpack's


def test_each_process_type_has_a_quantity_and_a_known_size(app: Any) -> None:
    for process in app["formation"].values():
        assert process.keys() <= {"quantity", "size"}
        assert type(process["quantity"]) is int
        assert process["size"] in SIZES


def test_one_of_each_process_runs_at_first(app: Any) -> None:
    formation = {name: p["quantity"] for name, p in app["formation"].items()}
    assert formation == {"web": 1, "clock": 1, "worker": 1}


def test_nobody_gets_in_by_a_token_that_everybody_knows(app: Any) -> None:
    for name in ("RQ_CLOCK_TOKENS", "RQ_CLOCK_COOKIE_SECRET", "RQ_CLOCK_CALLBACKS_KEY"):
        assert app["env"][name]["generator"] == "secret"
        assert "value" not in app["env"][name]


def test_each_process_type_is_in_the_procfile(app: Any) -> None:
    procfile = (ROOT / "Procfile").read_text()
    assert app["formation"].keys() <= set(re.findall(r"^([\w-]+): ", procfile, re.MULTILINE))


def test_each_variable_is_an_object_of_the_schema(app: Any) -> None:
    kinds = {"description": str, "value": str, "required": bool, "generator": str}
    for name, variable in app["env"].items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
        assert all(type(value) is kinds[key] for key, value in variable.items())


def test_each_variable_is_documented(app: Any) -> None:
    example = (ROOT / ".env.example").read_text()
    assert app["env"].keys() <= set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))


def test_it_brings_python_and_redis(app: Any) -> None:
    assert app["buildpacks"] == [{"url": "heroku/python"}]
    assert app["addons"] == ["heroku-redis:mini"]
