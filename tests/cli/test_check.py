"""`rq-clock check`, `python clock.py` with wrong declarations, and warnings of `add`: what a worker
would meet is found before it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rq_clock import Schedules
from tests.cli.terminal import Run, environment
from tests.cli.test_cli import write_app
from tests.helpers import PATIENCE, definition


def write(name: str, text: str) -> None:
    Path(f"{name}.py").write_text(text)


class TestCheck:
    def test_good_declarations_pass(self, run: Run) -> None:
        app = write_app("good_app", "clock.add('x', every(minutes=1), 'gc.collect')")
        result = run("check", RQ_CLOCK_APP=app)
        assert (result.exit_code, result.stdout) == (0, "1 schedule in good_app:clock, all good\n")

    def test_every_fault_of_every_schedule_is_listed(self, run: Run) -> None:
        app = write_app(
            "bad_app",
            "clock.add('one', cron('61 25 * * *'), 'json.dumps', que='x')\n"
            "clock.add('two', every(), 'json.dumps')\n"
            "clock.add('three', every(minutes=1), 'json.nothing')\n"
            "clock.add('four', every(minutes=1), 'no_such_module.task')\n"
            "clock.add('five', cron('0 0 30 2 *'), 'json.dumps')\n"
            "clock.add('six', cron('0 3 * * *', tz='Europe/Berlim'), 'json.dumps')\n",
        )
        lines = run.refused(1, "check", RQ_CLOCK_APP=app).splitlines()
        assert lines[-1] == "8 faults in bad_app:clock"
        output = "\n".join(lines)
        for expected in (
            "error: bad_app.py:3: one: expected minute 0-59, got '61' in '61 25 * * *'",
            "one: expected hour 0-23, got '25' in '61 25 * * *'",
            "one: unknown option 'que'; did you mean 'queue'?",
            "two: expected a period",
            "error: bad_app.py:5: three: no function 'nothing' in 'json'\n",
            "error: bad_app.py:6: four: cannot import target 'no_such_module.task'",
            "five: ",
            "Europe/Berlin",
        ):
            assert expected in output

    def test_a_module_that_breaks_on_import_has_its_own_message(self, run: Run) -> None:
        Path("broken_task.py").write_text("raise RuntimeError('no database here')\n")
        app = write_app("app_broken", "clock.add('x', every(minutes=1), 'broken_task.run')")
        error = run.refused(1, "check", RQ_CLOCK_APP=app)
        text = "cannot import target 'broken_task.run': broken_task.py:1: RuntimeError: no database"
        assert error.startswith(f"error: app_broken.py:3: x: {text} here\n")

    @pytest.mark.parametrize(
        ("app", "reason"),
        [("nowhere:clock", "cannot load the app"), ("json:dumps", "to be a rq_clock.Clock")],
    )
    def test_an_app_that_is_not_there_is_one_line(self, run: Run, app: str, reason: str) -> None:
        error = run.refused(1, "check", RQ_CLOCK_APP=app)
        assert reason in error
        assert "RQ_CLOCK_APP" in error
        assert len(error.splitlines()) == 1

    def test_a_reversed_range_is_a_warning_not_a_fault(self, run: Run) -> None:
        app = write_app("wrapped", "clock.add('x', cron('0 22-2 * * *'), 'gc.collect')")
        result = run("check", RQ_CLOCK_APP=app)
        assert result.exit_code == 0
        assert "warning: wrapped.py:3: x: " in result.stderr


class TestArguments:
    """A function has to take the arguments of its schedule."""

    @pytest.mark.parametrize(
        ("number", "options", "fault"),
        [
            (1, "args=['/']", ""),
            (2, "kwargs={'path': '/', 'limit': 5}", ""),
            (3, "kwargs={'pfad': '/'}", "(path, limit=90), got (pfad=…): missing a required"),
            (4, "", "(path, limit=90), got (): missing a required argument: 'path'"),
            (5, "args=[1, 2, 3]", "got (…, …, …): too many positional arguments"),
            (6, "args=[1], kwargs={'secret': 'hunter2'}", "got an unexpected keyword argument"),
        ],
    )
    def test_arguments_that_do_not_fit_are_a_fault(
        self, run: Run, number: int, options: str, fault: str
    ) -> None:
        write(f"disk{number}", "def space(path: str, limit: int = 90): pass\n")
        app = f"clock.add('x', every(hours=1), 'disk{number}.space', {options})"
        result = run("check", RQ_CLOCK_APP=write_app(f"calls{number}", app))
        assert (result.exit_code, fault in result.stderr) == (int(bool(fault)), True)
        assert "hunter2" not in result.stderr
        if fault:
            place = f"error: calls{number}.py:3: x: expected arguments of disk{number}.space("
            assert result.stderr.startswith(place)

    def test_what_cannot_be_known_is_no_fault(self, run: Run) -> None:
        write(
            "wrapped_tasks",
            "from functools import wraps\n"
            "def with_database(function):\n"
            "    @wraps(function)\n"
            "    def call(*args, **kwargs):\n"
            "        return function('a database', *args, **kwargs)\n"
            "    return call\n"
            "@with_database\n"
            "def task(database, id): pass\n",
        )
        app = write_app(
            "unknown_calls",
            "clock.add('wrapped', every(hours=1), 'wrapped_tasks.task', args=[1])\n"
            "clock.add('builtin', every(hours=1), 'builtins.max', args=[1, 2])\n",
        )
        assert run.ok("check", RQ_CLOCK_APP=app)

    def test_a_similar_name_is_proposed(self, run: Run) -> None:
        write("reports", "def nightly(): pass\n")
        app = write_app("typo", "clock.add('x', every(hours=1), 'reports.nightlyy')")
        error = run.refused(1, "check", RQ_CLOCK_APP=app)
        assert "no function 'nightlyy' in 'reports'; did you mean 'nightly'?" in error


class TestBrokenModules:
    """Errors of the app's own code: file and line, no traceback."""

    def test_a_syntax_error_in_the_app(self, run: Run) -> None:
        app = write_app("unclosed", "clock.add('x',")
        error = run.refused(1, "check", RQ_CLOCK_APP=app)
        assert error == "error: unclosed.py:3: SyntaxError: '(' was never closed\n" + (
            "1 fault in unclosed:clock\n"
        )

    def test_what_breaks_the_app_is_listed_after_the_faults_before_it(self, run: Run) -> None:
        write("settings_of_app", "\nimport a_missing_library\n")
        app = write_app(
            "breaking",
            "clock.add('x', every(), 'json.dumps')\nimport settings_of_app\nclock.add()\n",
        )
        first, second, last = run.refused(1, "check", RQ_CLOCK_APP=app).splitlines()
        assert first.startswith("error: breaking.py:3: x: expected a period")
        missing = "ModuleNotFoundError: No module named 'a_missing_library'"
        assert second == f"error: settings_of_app.py:2: {missing}"
        assert last == "2 faults in breaking:clock"

    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [
            ("bad_syntax", "\ndef run(:", "bad_syntax.py:2: SyntaxError: "),
            ("bad_import", "import json\nfrom json import nothing", "bad_import.py:2: ImportError"),
            ("bad_exit", "raise SystemExit(3)", "bad_exit.py:1: SystemExit: 3"),
        ],
    )
    def test_a_module_of_a_task(self, run: Run, name: str, text: str, reason: str) -> None:
        write(name, text)
        app = write_app(f"app_{name}", f"clock.add('x', every(hours=1), '{name}.run')")
        error = run.refused(1, "check", RQ_CLOCK_APP=app)
        assert f"app_{name}.py:3: x: cannot import target '{name}.run': {reason}" in error
        assert "Traceback" not in error

    def test_an_app_that_calls_run_outside_of_main_starts_no_clock(self, run: Run) -> None:
        app = write_app("unguarded", "clock.add('x', every(hours=1), 'json.loads')\nclock.run()")
        assert "missing a required argument" in run.refused(1, "check", RQ_CLOCK_APP=app)


class TestSetup:
    """RQ_CLOCK_SETUP, as a worker runs it."""

    def test_tasks_are_imported_after_it(self, run: Run) -> None:
        write("shop_setup", "ready = False\ndef prepare():\n    global ready\n    ready = True\n")
        write("shop_tasks", "import shop_setup\nassert shop_setup.ready\ndef task(): pass\n")
        app = write_app("shop", "clock.add('x', every(hours=1), 'shop_tasks.task')")
        assert run.ok("check", RQ_CLOCK_APP=app, RQ_CLOCK_SETUP="shop_setup:prepare")

    def test_when_it_fails_that_is_the_fault_and_the_rest_is_checked(self, run: Run) -> None:
        write("bad_setup", "def prepare():\n    raise ValueError('no settings')\n")
        app = write_app(
            "badly_set_up",
            "clock.add('one', every(hours=1), 'needs_setup.task')\n"
            "clock.add('two', every(), 'a.b')",
        )
        env = {"RQ_CLOCK_APP": app, "RQ_CLOCK_SETUP": "bad_setup:prepare"}
        first, second, last = run.refused(1, "check", **env).splitlines()
        assert first.startswith("error: badly_set_up.py:4: two: expected a period")
        fault = "RQ_CLOCK_SETUP='bad_setup:prepare': ValueError: no settings"
        assert second == f"error: bad_setup.py:2: {fault}"
        assert last == "2 faults in badly_set_up:clock"

    def test_a_wrong_value_is_one_fault(self, run: Run) -> None:
        app = write_app("misnamed", "clock.add('one', every(hours=1), 'needs_setup.task')")
        error = run.refused(1, "check", RQ_CLOCK_APP=app, RQ_CLOCK_SETUP="nowhere:prepare")
        assert error.startswith("error: RQ_CLOCK_SETUP='nowhere:prepare': no module 'nowhere' in")
        assert error.endswith("\n1 fault in misnamed:clock\n")


class TestJson:
    def test_good_declarations(self, run: Run) -> None:
        write("printing", "print('hello')\ndef task(): pass\n")
        app = write_app("good_json", "clock.add('x', cron('0 22-2 * * *'), 'printing.task')")
        result = run("check", "--json", RQ_CLOCK_APP=app)
        found = json.loads(result.stdout)
        assert (result.exit_code, found["app"], found["ok"]) == (0, "good_json:clock", True)
        assert (found["schedules"], found["faults"]) == (1, [])
        [warning] = found["warnings"]
        assert (warning["schedule"], warning["file"]) == ("x", "good_json.py")
        assert [row["name"] for row in found["changes"]["added"]] == ["x"]

    def test_faults(self, run: Run) -> None:
        app = write_app("bad_json", "clock.add('x', every(hours=1), 'json.nothing')")
        result = run("check", "--json", RQ_CLOCK_APP=app)
        found = json.loads(result.stdout)
        assert (result.exit_code, found["ok"], found["changes"]) == (1, False, None)
        assert found["faults"] == [
            {
                "schedule": "x",
                "option": "func",
                "text": "no function 'nothing' in 'json'",
                "file": "bad_json.py",
                "line": 3,
            }
        ]

    def test_without_redis_the_changes_are_null(self, run: Run) -> None:
        app = write_app("json_alone", "clock.add('x', every(hours=1), 'json.loads', args=['1'])")
        found = run.json("check", RQ_CLOCK_APP=app, REDIS_URL="")
        assert (found["ok"], found["changes"]) == (True, None)


@pytest.mark.process
class TestScript:
    """`python clock.py` with wrong declarations."""

    @staticmethod
    def python(script: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script],
            env=environment("redis://127.0.0.1:1/0", **env),
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    @pytest.mark.parametrize(
        "text",
        [
            "clock.add('a', every(), 'a.b')\nclock.add('b', cron('61 * * * *'), 'a.b', que='x')\n",
            "clock.add('new', every(hours=1), 'json.loads', args=['1'], renamed_from='old')\n"
            "clock.add('old', every(hours=1), 'json.loads', args=['1'])\n",
        ],
        ids=["each alone", "between two"],
    )
    def test_it_prints_all_faults_as_check_does_and_exits_with_1(self, text: str) -> None:
        write_app("clock", text + "if __name__ == '__main__':\n    clock.run()\n")
        checked = subprocess.run(
            [sys.executable, "-m", "rq_clock", "check"],
            env=environment("redis://127.0.0.1:1/0"),
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        started = self.python("clock.py")
        assert "error: clock.py:3: " in checked.stderr
        assert (started.stderr, started.returncode) == (checked.stderr, 1)
        assert checked.returncode == 1

    def test_a_script_that_is_not_the_app_runs_once(self) -> None:
        write_app("provision", "print('provisioned')\nclock.add('a', every(), 'a.b')\n")
        done = self.python("provision.py")
        assert (done.stdout, done.returncode) == ("provisioned\n", 1)
        [fault, last] = done.stderr.splitlines()
        assert fault.startswith("error: provision.py:4: expected a period")
        assert last == "1 fault in provision"

    def test_a_caught_error_hides_no_other(self) -> None:
        write_app(
            "clock",
            "try:\n    clock.add('a', every(), 'a.b')\nexcept Exception as error:\n"
            "    print(error)\nraise ValueError('of the script')\n",
        )
        done = self.python("clock.py")
        assert done.stdout.startswith("expected a period")
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith("ValueError: of the script\n")


class TestRunTimeFunctions:
    """`add` and `update` accept any function, and warn when this directory knows better."""

    @pytest.fixture(autouse=True)
    def tasks(self) -> None:
        write("jobs_of_add", "def nightly(day=0): pass\n")

    @pytest.mark.parametrize(
        ("words", "warning"),
        [
            ("--func jobs_of_add.nightly --kwarg day=1", ""),
            ("--func elsewhere.jobs.nightly", ""),
            (
                "--func jobs_of_add.nightlyy",
                "warning: x: no function 'nightlyy' in 'jobs_of_add'; did you mean 'nightly'?\n",
            ),
            (
                "--func jobs_of_add.nightly --kwarg tag=1",
                "warning: x: expected arguments of jobs_of_add.nightly(day=0), got (tag=…): got an "
                "unexpected keyword argument 'tag'\n",
            ),
        ],
    )
    def test_add(self, run: Run, schedules: Schedules, words: str, warning: str) -> None:
        result = run("add", "x", "--every", "1h", *words.split())
        found = "".join(line for line in result.stderr.splitlines(True) if "warning" in line)
        assert (result.exit_code, found) == (0, warning)
        assert definition(schedules).target == words.split()[1]

    def test_update(self, run: Run) -> None:
        run.ok("add", "x", "--every", "1h", "--func", "jobs_of_add.nightly")
        assert "warning" not in run("update", "x", "--every", "2h").stderr
        assert "warning: x: expected arg" in run("update", "x", "--kwarg", "tag=1").stderr

    def test_an_app_that_cannot_be_set_up_here_is_no_warning(self, run: Run) -> None:
        words = ("add", "x", "--every", "1h", "--func", "jobs_of_add.nightlyy")
        result = run(*words, RQ_CLOCK_SETUP="nowhere:prepare")
        assert (result.exit_code, "warning" in result.stderr) == (0, False)
