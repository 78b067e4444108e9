"""The project: its documents are true, its imports point one way, its promises have names."""

from __future__ import annotations

import ast
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import rq_clock
import rq_clock.web
from bench.house import banned_names
from rq_clock.cli import main
from rq_clock.manifest.document import parse

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rq_clock"
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()

LEVELS = [
    {"errors", "version", "redaction", "run", "similar"},
    {"timing", "outbound"},
    {"model", "settings", "log"},
    {"store", "manifest"},
    {"runtime"},
    {"jobs", "runners", "lock", "devserver"},
    {"schedules", "alerts", "doctor"},
    {"callbacks"},
    {"serializers"},
    {"clock", "worker", "web"},
    {"loader", "testing"},
    {"cli", "pytest_plugin"},
    {"__init__", "__main__"},
]
"""A module imports only from the lines above its own; nothing imports its neighbours."""


def imports(path: Path) -> set[str]:
    """The package's modules that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rq_clock"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found & {p.stem for p in PACKAGE.iterdir()}


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def third_party(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def readers_of(pattern: re.Pattern[str]) -> set[str]:
    """The modules whose source matches."""
    found = (p for p in PACKAGE.rglob("*.py") if pattern.search(p.read_text()))
    return {str(p.relative_to(PACKAGE).with_suffix("")) for p in found}


def test_imports_point_one_way() -> None:
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    assert set(level) == {p.stem for p in PACKAGE.iterdir() if holds_code(p)}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(path) - {module}:
            assert level[name] < level[module], f"{path.relative_to(PACKAGE)} imports {name}"


def test_the_drawing_shows_these_levels() -> None:
    drawn = re.findall(r'\["([^"]+)"\]', blocks("mermaid", ARCHITECTURE)[0])
    assert [set(line.split(" · ")) for line in reversed(drawn)] == LEVELS[:-1]


def test_the_map_leads_to_files_that_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## To change")[2]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for code, tests in rows:
        for root, cell in ((PACKAGE, code), (ROOT / "tests", tests)):
            for name in re.findall(r"`([^`]+)`", cell):
                assert list(root.glob(name)), name


def test_time_and_decision_are_pure() -> None:
    pure = [
        *PACKAGE.glob("timing/*.py"),
        *PACKAGE.glob("model/*.py"),
        *PACKAGE.glob("manifest/**/*.py"),
    ]
    names = ("redaction", "outbound/addresses", "store/counters", "jobs/results",
             "serializers/schedules", "serializers/jobs", "serializers/runs",
             "serializers/clock", "schedules/upcoming",
             "alerts/rules", "clock/reconcile",
             "doctor/server_checks", "doctor/schedule_checks")  # fmt: skip
    for path in [*pure, *(PACKAGE / f"{name}.py" for name in names)]:
        used = third_party(path) & {"redis", "rq", "os", "time", "click"}
        assert not used, f"{path.relative_to(PACKAGE)} imports {used}"


def test_only_the_loop_and_the_command_line_read_the_wall_clock() -> None:
    reading = re.compile(r"datetime\.now\(|time\.time\(|utcnow\(|\.today\(")
    assert readers_of(reading) == {"runtime", "cli/common"}


def test_clock_process_workers_and_locks_read_time_through_their_runtime() -> None:
    reading = re.compile(r"\bimport time\b|from time import")
    through = {"clock", "worker", "lock", "jobs"}
    assert not {name for name in readers_of(reading) if name.partition("/")[0] in through}


def test_tasks_never_import_the_clock() -> None:
    for path in (ROOT / "tasks").rglob("*.py"):
        assert "clock" not in third_party(path)
        assert imports(path) <= {"run", "web"}


def test_the_app_uses_only_public_names() -> None:
    public = {"rq_clock": rq_clock.__all__, "rq_clock.web": rq_clock.web.__all__}
    app = [ROOT / "clock.py", ROOT / "worker.py", ROOT / "web.py", *(ROOT / "tasks").rglob("*.py")]
    for path in app:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rq_clock"):
                assert {alias.name for alias in node.names} <= set(public[node.module or ""])


def test_public_names_are_sorted_exist_and_stay_few() -> None:
    assert rq_clock.__all__ == sorted(rq_clock.__all__)
    assert all(getattr(rq_clock, name) is not None for name in rq_clock.__all__)
    assert len(rq_clock.__all__) <= 25
    with pytest.raises(AttributeError, match="no attribute 'Clok'"):
        rq_clock.Clok  # noqa: B018 - the access is the test


def test_every_setting_is_documented() -> None:
    readers = (PACKAGE, ROOT / "tasks" / "reports")
    source = "".join((path / "settings.py").read_text() for path in readers)
    source += (ROOT / "worker.py").read_text()
    read = set(re.findall(r'"([A-Z][A-Z_]{3,})"', source)) - {"HONCHO_PROCESS_NAME", "WARNING"}
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"\b([A-Z][A-Z_]*[A-Z])\b", example)) - {"TLS", "SIGTERM"}
    documented -= {"HEROKU_REDIS_GREEN_URL", "CRM_KEY"}
    assert read == documented


def test_no_other_module_reads_the_environment() -> None:
    reading = re.compile(r"os\.environ|getenv")
    # cli/group: NO_COLOR and FORCE_COLOR, not ours; perform: sets what RQ sets for a job; hygiene:
    # puts back what a job has changed; pytest_plugin: sets RQ_CLOCK_DISABLED
    allowed = {"settings", "cli/group", "worker/perform", "worker/hygiene", "pytest_plugin"}
    assert readers_of(reading) == allowed


def keys_used() -> set[str]:
    """The key names that the package's Python and Lua spell, without what stands behind a colon."""
    used: set[str] = set()
    for source in map(Path.read_text, PACKAGE.rglob("*.py")):
        used |= set(re.findall(r'key(?:_of)?\((?:[\w.]+, )?f?"([a-z-]+)', source))
        for call in re.findall(r"store\.keys\(([^)]*)\)|self\.keys\(([^)]*)\)", source, re.DOTALL):
            used |= set(re.findall(r'"([a-z-]+)', "".join(call)))
    for source in map(Path.read_text, PACKAGE.rglob("*.lua")):
        used |= set(re.findall(r"\bkey\('([a-z-]+)", source))
        for table in re.findall(r"HASHES = \{([^}]*)\}", source):
            used |= set(re.findall(r"'([a-z-]+)'", table))
    return used


def test_every_key_stands_in_the_table() -> None:
    table = (PACKAGE / "store" / "keys.py").read_text().split('"""')[1]
    types = "hash|number|string|stream|channel|set|zset|list"
    documented = re.findall(
        rf"^    ([a-z-]+)\S*(?: <[^>]*>)*(?: id>)? +(?:{types}) ", table, re.MULTILINE
    )
    assert keys_used() == set(documented)


def test_every_script_says_what_it_takes_and_gives() -> None:
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        source = path.read_text()
        head = source.partition("\n\n")[0]
        assert all(word in head for word in ("KEYS", "ARGV", "Returns")), path.name
        numbers = re.findall(r"KEYS\[(\d+)\]", source)
        implied = int(source.startswith(("--! keys", "--! audit")))  # keys.lua reads the first
        used = max((int(n) for n in numbers), default=implied)
        listed = head.partition("KEYS")[2].partition("ARGV")[0]
        assert len(re.findall(r"(?<!\d)\d+ (?=[a-z\"])", listed)) == used, path.name


def test_no_script_composes_a_key_by_itself() -> None:
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        spelled = re.findall(r"rq-clock|KEYS\[\d+\] \.\.", path.read_text())
        assert not spelled, f"{path.name} composes a key: {spelled}"


def test_names_are_plain() -> None:
    banned = {
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in PACKAGE.rglob("*.py")
        for name, line in banned_names(path.read_text())
    }
    assert not banned


def test_no_test_sleeps() -> None:
    sleeping = re.compile(r"\bsleep\(")
    sleepers = {
        p.name for p in (ROOT / "tests").rglob("*.py") if sleeping.search(p.read_text())
    } - {Path(__file__).name}
    assert sleepers == {"helpers.py"}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_is_short_and_shows_code_first() -> None:
    lines = README.splitlines()
    assert len(lines) <= 178
    assert lines.index("clock = Clock()") < 20


def test_the_readmes_code_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    later = datetime.now(UTC) + timedelta(days=1)
    namespace: dict[str, Any] = {"__name__": "readme", "datetime": datetime}
    namespace |= {"monday": later, "tomorrow": later}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert list(namespace["clock"].declared) == ["refresh-feeds", "nightly-report", "month-end"]
    assert [entry.name for entry in namespace["schedules"]] == ["once-welcome-7", "report-42"]


def test_commands_print_what_the_page_on_time_shows() -> None:
    page = (ROOT / "docs" / "internals" / "time.md").read_text()
    shown = [block for block in blocks("console", page) if block.startswith("$ rq-clock")]
    assert shown
    for block in shown:
        command, _, output = block.partition("\n")
        words = shlex.split(command.removeprefix("$ rq-clock "))
        assert CliRunner().invoke(main, words).output == output


def test_the_readmes_procfile_is_the_projects() -> None:
    assert blocks("procfile") == [(ROOT / "Procfile").read_text()]


def test_every_option_of_a_schedule_is_in_the_readme() -> None:
    from rq_clock.model.schedule import Schedule

    for option in set(Schedule.__dataclass_fields__) - {
        "name",
        "trigger",
        "target",
        "allowed_targets",
    }:
        assert f"`{option}`" in README, option


def test_every_link_leads_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_operators_page_names_commands_and_settings_that_exist() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    named = set(re.findall(r"rq-clock ([a-z-]+)", page))
    assert named <= set(main.list_commands(click.Context(main))), named
    settings = (PACKAGE / "settings.py").read_text()
    assert all(name in settings for name in re.findall(r"RQ_CLOCK_[A-Z_]+", page))
    [manifest] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [item.schedule.name for item in parse(manifest)] == ["sync-the-shop"]
