"""Schedules moved in and out by the command line, and what it tells before it changes anything."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from rq_clock import Clock, Schedules, command, cron, every, once, webhook
from rq_clock.cli import main
from rq_clock.model.entry import Lease
from rq_clock.store.lease import Leases
from rq_clock.store.store import Change, Store
from tests.cli.terminal import Run, Terminal, everything
from tests.cli.terminal import command as command_line
from tests.helpers import PATIENCE, definition

TASK = "gc.collect"
DAILY = cron("0 3 * * *")
FAR_AWAY = datetime(2099, 1, 1, tzinfo=UTC)
SECRET = webhook("https://example.com", headers={"Authorization": "Bearer hunter2"})
HEAD = "version: 1\nschedules:\n"


def piped(url: str, text: str, *words: str) -> Result:
    return CliRunner().invoke(main, words, input=text, env={"REDIS_URL": url})


def write(text: str, name: str = "jobs.yaml") -> str:
    Path(name).write_text(text)
    return name


def names(connection: Redis) -> list[str]:
    return Store(connection, "default").all_names()


# ---- export -----------------------------------------------------------------------------------


class TestExport:
    def test_run_time_schedules_are_written(
        self, run: Run, schedules: Schedules, connection: Redis
    ) -> None:
        deploy(connection, "clock.add('declared', cron('0 3 * * *'), 'gc.collect')")
        schedules.add("b", every(minutes=15), command("df -h /"), tags=["ops"])
        schedules.add("a", DAILY, TASK, args=[42])
        schedules.pause("a", reason="on holiday", until=FAR_AWAY)
        schedules.pause("*", reason="of no single one")
        schedules.once(FAR_AWAY, TASK)
        result = run("export")
        assert result.exit_code == 0
        assert result.stdout == (
            "version: 1\nschedules:\n"
            "  a:\n    cron: 0 3 * * *\n    tz: UTC\n    func: gc.collect\n    args:\n    - 42\n"
            "    paused:\n      reason: on holiday\n      until: '2099-01-01T00:00:00Z'\n"
            "  b:\n    every: 15m\n    command:\n      shell: df -h /\n    tags:\n    - ops\n"
        )
        assert result.stderr == "rq-clock: 1 waiting one-off job left out\n"

    def test_without_any_it_is_an_empty_manifest(self, run: Run) -> None:
        assert run("export").stdout == "version: 1\nschedules: {}\n"

    def test_tags_choose(self, run: Run, schedules: Schedules) -> None:
        for name, tags in (("a", ["x"]), ("b", ["y", "z"]), ("c", [])):
            schedules.add(name, DAILY, TASK, tags=tags)
        document = json.loads(run("export", "--format", "json", "--tag", "x", "--tag", "z").stdout)
        assert list(document["schedules"]) == ["a", "b"]

    def test_secrets_are_masked_and_listed(self, run: Run, schedules: Schedules) -> None:
        schedules.add("hook", DAILY, SECRET)
        masked, clear = run("export"), run("export", "--with-secrets")
        assert "Authorization: '****'" in masked.stdout
        assert masked.stderr.splitlines() == [
            "rq-clock: masked as possible secrets (--with-secrets writes them):",
            "    hook: webhook.headers.Authorization",
        ]
        assert "Authorization: Bearer hunter2" in clear.stdout
        assert clear.stderr == ""

    def test_a_file_with_secrets_is_its_owners(self, run: Run, schedules: Schedules) -> None:
        schedules.add("hook", DAILY, SECRET)
        result = run("export", "-o", "jobs.json", "--with-secrets")
        assert (result.stdout, result.stderr) == ("", "rq-clock: 1 schedule in jobs.json\n")
        path = Path("jobs.json")
        assert json.loads(path.read_text())["secrets"] == "included"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        run.ok("export", "-o", "jobs.json")
        assert "hunter2" not in path.read_text()
        assert list(Path().iterdir()) == [path]

    def test_a_link_and_a_pipe_stay_what_they_are(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", DAILY, TASK)
        link, pipe = Path("link.json"), Path("pipe")
        link.symlink_to("jobs.json")
        os.mkfifo(pipe)
        run.ok("export", "-o", "link.json")
        assert link.is_symlink()
        assert list(json.loads(Path("jobs.json").read_text())["schedules"]) == ["a"]
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        run.ok("export", "-o", "pipe", "--format", "json")
        assert pipe.is_fifo()
        assert list(json.loads(os.read(reader, 100_000))["schedules"]) == ["a"]
        os.close(reader)

    @pytest.mark.process
    def test_standard_output_has_a_name_of_a_file(
        self, redis_url: str, schedules: Schedules
    ) -> None:
        schedules.add("a", DAILY, TASK)
        words = ("export", "-o", "/dev/stdout", "--format", "json")
        out, _ = command_line(redis_url, *words).communicate(timeout=PATIENCE)
        assert list(json.loads(out)["schedules"]) == ["a"]

    def test_an_unwritable_file_is_reported(self, run: Run) -> None:
        assert "nowhere/jobs.yaml" in run.refused(1, "export", "-o", "nowhere/jobs.yaml")

    def test_an_unreadable_definition_fails(
        self, run: Run, schedules: Schedules, connection: Redis
    ) -> None:
        schedules.add("a", DAILY, TASK)
        schedules.add("b", DAILY, TASK)
        connection.hset("rq-clock:default:definitions", "a", '{"from": "a later release"}')
        result = run("export")
        assert result.exit_code == 1
        assert list(result.stdout.splitlines()[2:3]) == ["  b:"]
        assert "left out: a: cannot read the stored definition" in result.stderr


# ---- apply ------------------------------------------------------------------------------------

JOBS = (
    f"{HEAD}"
    "  new: {every: 15m, command: df -h /, paused: {reason: not yet}}\n"
    "  other: {cron: 0 3 * * *, func: gc.collect, queue: reports, args: [1]}\n"
    "  same: {cron: 0 3 * * *, func: gc.collect}\n"
)
SHOWN = [
    "+ new: every 15 minutes; $ df -h / (paused)",
    "~ other",
    "    args: (default) → [1]",
    "    queue: (default) → reports",
    "- gone: at 03:00 every day, UTC; gc.collect",
    "1 added, 1 changed, 1 removed, 1 unchanged",
]


@pytest.fixture
def three(schedules: Schedules) -> None:
    """Schedules that are to be changed, removed, and left."""
    for name in ("other", "gone", "same"):
        schedules.add(name, DAILY, TASK)


class TestApply:
    @pytest.mark.usefixtures("three")
    def test_it_shows_the_changes_and_makes_them(self, run: Run, connection: Redis) -> None:
        result = run("apply", write(JOBS), "--prune", "--yes")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == SHOWN
        assert result.stderr.splitlines() == [
            "3 changes made",
            "rq-clock: no clock leads now; they fire when one does",
        ]
        assert names(connection) == ["new", "other", "same"]
        again = run("apply", "jobs.yaml", "--prune", "--yes")
        assert again.stdout == "3 unchanged\n"
        assert again.stderr == "rq-clock: nothing to change\n"

    @pytest.mark.usefixtures("three")
    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("--dry-run",), 0, "rq-clock: nothing was changed: --dry-run\n"),
            (("--dry-run", "--yes"), 0, "rq-clock: nothing was changed: --dry-run\n"),
            ((), 2, "scripts must pass --yes"),
        ],
    )
    def test_without_yes_it_writes_nothing(
        self, run: Run, connection: Redis, words: tuple[str, ...], code: int, message: str
    ) -> None:
        before = everything(connection)
        result = run("apply", write(JOBS), "--prune", *words)
        assert result.exit_code == code
        assert result.stdout.splitlines() == SHOWN
        assert message in result.stderr
        assert everything(connection) == before

    def test_it_reads_standard_input(self, redis_url: str, connection: Redis) -> None:
        result = piped(redis_url, JOBS, "apply", "-", "--yes")
        assert result.exit_code == 0
        assert names(connection) == ["new", "other", "same"]

    def test_one_wrong_entry_changes_nothing(self, run: Run) -> None:
        entries = [f"  job-{n:02}: {{every: 5m, func: gc.collect}}\n" for n in range(100)]
        entries[50] = "  job-50: {every: 5m, fun: gc.collect, queue: 7}\n"
        assert run.refused(1, "apply", write(HEAD + "".join(entries)), "--yes").splitlines() == [
            "rq-clock: line 53: job-50: unknown 'fun'; did you mean 'func'?",
            "rq-clock: line 53: job-50: expected one of func, command, dyno and webhook, got none",
            "rq-clock: line 53: job-50: expected queue to be a name of 1-200 characters, got 7",
        ]

    def test_a_schedule_declared_in_code_is_a_fault(self, run: Run, connection: Redis) -> None:
        deploy(connection, "clock.add('new', cron('0 3 * * *'), 'gc.collect')")
        error = run.refused(1, "apply", write(JOBS), "--yes")
        assert "new: is declared in code; change it there and deploy" in error
        assert names(connection) == ["new"]

    def test_a_mask_stands_for_the_stored_secret(self, run: Run, schedules: Schedules) -> None:
        schedules.add("hook", DAILY, SECRET)
        run.ok("export", "-o", "jobs.yaml")
        text = Path("jobs.yaml").read_text()
        write(text.replace("0 3 * * *", "0 4 * * *"))
        result = run("apply", "jobs.yaml", "--yes")
        assert result.stdout.splitlines()[:2] == ["~ hook", "    cron: 0 3 * * * → 0 4 * * *"]
        assert definition(schedules, "hook").target == SECRET
        schedules.remove("hook")
        error = run.refused(1, "apply", "jobs.yaml", "--yes")
        assert (
            "hook: webhook.headers.Authorization is masked, and there is no stored value" in error
        )

    def test_a_bomb_is_one_line(self, run: Run) -> None:
        bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        error = run.refused(1, "apply", write(f"a0: &a0 [x]\n{bomb}"), "--yes")
        assert error == "rq-clock: line 1: expected no anchors and aliases, got &a0\n"

    def test_a_file_that_is_not_utf8_is_reported(self, run: Run) -> None:
        Path("jobs.yaml").write_bytes(b"version: 1\xff")
        assert "jobs.yaml: expected UTF-8" in run.refused(1, "apply", "jobs.yaml")

    def test_a_missing_file_is_a_usage_error(self, run: Run) -> None:
        run.refused(2, "apply", "nothing.yaml")

    def test_many_changes_are_made_in_batches(
        self, run: Run, redis_url: str, connection: Redis
    ) -> None:
        text = HEAD + "".join(f"  j{n}: {{every: 5m, func: gc.collect}}\n" for n in range(5001))
        result = run("apply", write(text), "--yes")
        assert result.exit_code == 0
        assert "rq-clock: 5,001 changes are made in 2 batches, each one whole" in (result.stderr)
        assert "… and 4,901 more added" in result.stdout
        assert len(names(connection)) == 5001
        write(text.replace("every: 5m", "every: 6m"))
        with Terminal(redis_url, "apply", "jobs.yaml", "--yes") as terminal:
            assert terminal.ends() == 0
        assert "5000/5001" in terminal.plain
        assert "5001/5001" in terminal.plain


class TestAsking:
    def test_yes_on_the_terminal_makes_the_changes(self, redis_url: str, connection: Redis) -> None:
        with Terminal(redis_url, "apply", write(JOBS)) as terminal:
            terminal.shows("Make 3 changes in namespace 'default'? [y/N]: ")
            assert names(connection) == []
            terminal.type("y\n")
            assert terminal.ends() == 0
        assert "3 changes made" in terminal.plain
        assert names(connection) == ["new", "other", "same"]

    def test_anything_else_changes_nothing(self, redis_url: str, connection: Redis) -> None:
        before = everything(connection)
        with Terminal(redis_url, "apply", write(JOBS)) as terminal:
            terminal.shows("[y/N]: ")
            terminal.type("\n")
            assert terminal.ends() == 1
        assert "nothing was done" in terminal.plain
        assert everything(connection) == before

    def test_an_overtaken_plan_changes_nothing(
        self, redis_url: str, connection: Redis, schedules: Schedules, three: None
    ) -> None:
        with Terminal(redis_url, "apply", write(JOBS), "--prune") as terminal:
            terminal.shows("[y/N]: ")
            schedules.update("gone", queue="in-use-again")
            before = everything(connection)
            terminal.type("y\n")
            assert terminal.ends() == 1
        assert "gone: was changed by someone else meanwhile" in terminal.plain
        assert "nothing was changed; run it again" in terminal.plain
        assert everything(connection) == before


# ---- diff -------------------------------------------------------------------------------------


class TestDiffOfAFile:
    @pytest.mark.usefixtures("three")
    def test_it_shows_the_changes_of_apply(self, run: Run, connection: Redis) -> None:
        before = everything(connection)
        result = run("diff", write(JOBS), "--prune")
        assert (result.exit_code, result.stdout.splitlines()) == (5, SHOWN)
        assert everything(connection) == before

    @pytest.mark.usefixtures("three")
    def test_as_json_it_is_one_document(self, run: Run) -> None:
        result = run("diff", write(JOBS), "--prune", "--json")
        assert result.exit_code == 5
        nothing: dict[str, Any] = {
            "was": None, "words": None, "runs": None, "queue": None, "paused": False, "fields": [],
        }  # fmt: skip
        daily = {"words": "at 03:00 every day, UTC", "runs": "gc.collect", "queue": "default"}
        assert json.loads(result.stdout) == {
            "namespace": "default",
            "equal": False,
            "added": [
                nothing
                | {"name": "new", "words": "every 15 minutes", "runs": "$ df -h /",
                   "queue": "default", "paused": True}
            ],
            "changed": [
                nothing
                | {
                    "name": "other",
                    "fields": [
                        {"field": "args", "from": None, "to": "[1]"},
                        {"field": "queue", "from": None, "to": "reports"},
                    ],
                }
            ],
            "removed": [nothing | {"name": "gone", **daily}],
            "renamed": [],
            "past": [],
            "caughtUp": [],
            "notes": [],
            "unchanged": 1,
            "dryRun": True,
        }  # fmt: skip

    def test_equal_is_zero(self, run: Run, schedules: Schedules) -> None:
        schedules.add("a", DAILY, TASK)
        write(run("export").stdout)
        result = run("diff", "jobs.yaml")
        assert (result.exit_code, result.stdout) == (0, "1 unchanged\n")

    def test_a_past_once_is_reported_and_is_no_difference(self, run: Run) -> None:
        text = f"{HEAD}  a: {{once: 2026-03-01T00:00Z, func: gc.collect}}\n"
        first, *_ = run.ok("diff", write(text)).splitlines()
        assert first == "past: a: its only instant has passed, so it never runs"

    def test_prune_goes_with_a_file(self, run: Run) -> None:
        run.refused(2, "diff", "--prune")

    def test_a_manifest_sends_no_control_characters(self, run: Run) -> None:
        text = '  a: {every: 5m, command: "x\\e[31m\\n", queue: "\\e[2J"}\n'
        result = run("diff", write(HEAD + text))
        assert "\x1b" not in result.output
        assert "$ x" in result.output


def write_app(name: str, text: str) -> str:
    head = "from rq_clock import Clock, command, cron, every, once\nclock = Clock()\n"
    Path(f"{name}.py").write_text(head + text)
    return f"{name}:clock"


def deploy(connection: Redis, text: str, *, at: datetime | None = None, release: int = 0) -> None:
    """What is declared becomes what runs, as of an instant."""
    at = at or datetime.now(UTC)
    found: dict[str, Clock] = {}
    exec(f"from rq_clock import *\nclock = Clock()\n{text}", found)
    store = Store(connection, "default")
    lease = Leases(store).acquire("clock.1", ("test", ""), "starting", at)
    assert isinstance(lease, Lease)
    changes = [
        Change("put", s.name, s.definition(), s.next_after(at), since=at)
        for s in found["clock"].declared.values()
    ]
    assert all(store.reconcile(lease, release, at, changes))
    Leases(store).release(lease)


class TestDiffOfADeploy:
    OLD = (
        "clock.add('same', every(hours=1), 'gc.collect')\n"
        "clock.add('changed', cron('0 3 * * *'), 'gc.collect', queue='reports')\n"
        "clock.add('gone', every(hours=1), 'gc.collect')\n"
        "clock.add('old-name', every(hours=1), 'gc.collect')\n"
    )
    NEW = (
        "clock.add('same', every(hours=1), 'gc.collect')\n"
        "clock.add('changed', cron('0 4 * * *', tz='Europe/Berlin'), 'gc.collect')\n"
        "clock.add('new', every(minutes=5), command('df -h /'))\n"
        "clock.add('new-name', every(hours=1), 'gc.collect', tags=['x'], renamed_from='old-name')\n"
    )

    def test_it_shows_the_changes_of_a_clock(self, run: Run, connection: Redis) -> None:
        deploy(connection, self.OLD)
        before = everything(connection)
        result = run("diff", RQ_CLOCK_APP=write_app("deploy_diff", self.NEW))
        assert result.exit_code == 5
        assert result.stdout.splitlines() == [
            "+ new: every 5 minutes; $ df -h /",
            "> old-name is now new-name",
            '    tags: (default) → ["x"]',
            "~ changed",
            "    cron: 0 3 * * * → 0 4 * * *",
            "    queue: reports → (default)",
            "    tz: UTC → Europe/Berlin",
            "- gone",
            "1 added, 1 renamed, 1 changed, 1 removed, 1 unchanged",
        ]
        assert everything(connection) == before

    def test_overdue_schedules_follow_the_new_definition(self, run: Run, connection: Redis) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        fires = [now - timedelta(minutes=m) for m in (25, 15, 5)]
        head = "from datetime import *\n"
        head += f"t = every(minutes=10, anchor=datetime.fromisoformat('{fires[0].isoformat()}'))\n"
        old = head + "".join(
            f"clock.add('{name}', t, 'gc.collect')\n"
            for name in ("newest", "each", "none", "gone", "old-name")
        )
        new = head + (
            "clock.add('newest', t, 'gc.collect')\n"
            "clock.add('each', t, 'gc.collect', catch_up='all')\n"
            "clock.add('none', cron('0 3 * * *'), 'gc.collect', catch_up='none')\n"
            "clock.add('new-name', t, 'gc.collect', renamed_from='old-name')\n"
        )
        deploy(connection, old, at=now - timedelta(minutes=32))
        app = write_app("overdue", new)
        view = run.json("diff", RQ_CLOCK_APP=app)
        first, _, last = (t.isoformat().replace("+00:00", "Z") for t in fires)
        newest = {"enqueued": 1, "first": last, "last": last, "more": False}
        newest |= {"skipped": [{"reason": "limit", "count": 2}]}
        none = {"enqueued": 0, "first": None, "last": None, "more": False}
        assert sorted(view["caughtUp"], key=lambda row: str(row["name"])) == [
            {"name": "each", "enqueued": 3, "first": first, "last": last, "more": False,
             "skipped": []},
            {"name": "new-name", **newest},
            {"name": "newest", **newest},
            {"name": "none", **none, "skipped": [{"reason": "window", "count": 3}]},
        ]  # fmt: skip
        lines = run("diff", RQ_CLOCK_APP=app).stdout.splitlines()
        assert f"! each: 3 late fire times enqueued at once ({first} to {last})" in lines
        assert "! newest: 1 late fire time enqueued at once, 2 skipped (limit)" in lines
        assert "! none: 3 skipped (window)" in lines

    def test_equal_is_zero(self, run: Run, connection: Redis) -> None:
        deploy(connection, self.OLD)
        result = run("diff", RQ_CLOCK_APP=write_app("deploy_equal", self.OLD))
        assert (result.exit_code, result.stdout) == (0, "4 unchanged\n")

    def test_a_schedule_taken_over_by_code_is_shown(self, run: Run, schedules: Schedules) -> None:
        schedules.add("same", every(hours=1), TASK)
        app = write_app("takes_over", "clock.add('same', every(hours=1), 'gc.collect')")
        result = run("diff", RQ_CLOCK_APP=app)
        assert result.exit_code == 5
        assert result.stdout.splitlines()[:2] == ["~ same", "    origin: run-time → declared"]

    def test_a_declared_once_in_the_past_is_reported(self, run: Run) -> None:
        text = "from datetime import UTC, datetime\n"
        text += "clock.add('a', once(datetime(2026, 3, 1, tzinfo=UTC)), 'gc.collect')"
        result = run("diff", RQ_CLOCK_APP=write_app("over", text))
        assert "past: a: its only instant has passed, so it never runs" in result.stdout

    def test_an_older_release_changes_nothing(self, run: Run, connection: Redis) -> None:
        deploy(connection, self.OLD, release=42)
        app = write_app("older", self.NEW)
        text = run.ok("diff", RQ_CLOCK_APP=app, HEROKU_RELEASE_VERSION="v41")
        assert text.startswith("note: release 41 changes nothing: release 42 has declared here\n")
        assert run("diff", RQ_CLOCK_APP=app, HEROKU_RELEASE_VERSION="v43").exit_code == 5

    def test_code_without_schedules_removes_none(self, run: Run, connection: Redis) -> None:
        deploy(connection, self.OLD)
        output = run.ok("diff", RQ_CLOCK_APP=write_app("none_declared", ""))
        assert "start once with --remove-all" in output

    def test_faulty_code_is_reported(self, run: Run) -> None:
        app = write_app("faulty_diff", "clock.add('a', cron('61 * * * *'), 'gc.collect')")
        assert "a: expected minute 0-59" in run.refused(1, "diff", RQ_CLOCK_APP=app)


# ---- check ------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of what takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


class TestCheck:
    APP = "clock.add('a', every(hours=1), 'gc.collect')"

    def test_it_prints_the_changes_of_a_deploy(self, run: Run, connection: Redis) -> None:
        deploy(connection, TestDiffOfADeploy.OLD)
        before = everything(connection)
        result = run("check", RQ_CLOCK_APP=write_app("check_diff", TestDiffOfADeploy.NEW))
        assert result.exit_code == 0
        assert result.stdout == "4 schedules in check_diff:clock, all good\n"
        lines = result.stderr.splitlines()
        assert lines[0] == "a deploy changes in namespace 'default':"
        assert "> old-name is now new-name" in lines
        assert lines[-1] == "1 added, 1 renamed, 1 changed, 1 removed, 1 unchanged"
        assert everything(connection) == before

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("", "expected REDIS_URL to name a Redis"),
            ("redis://127.0.0.1:1/0", "no Redis at redis://127.0.0.1:1"),
            ("http://127.0.0.1/", "cannot understand the Redis URL"),
        ],
    )
    def test_without_redis_it_passes_and_reports_unknown_changes(
        self, run: Run, url: str, reason: str
    ) -> None:
        result = run("check", REDIS_URL=url, RQ_CLOCK_APP=write_app("check_alone", self.APP))
        assert (result.exit_code, result.stdout) == (
            0,
            "1 schedule in check_alone:clock, all good\n",
        )
        [line] = result.stderr.splitlines()
        assert line.startswith("rq-clock: the changes of a deploy are unknown: ")
        assert reason in line

    def test_a_silent_redis_does_not_delay_a_release(self, run: Run, silent: str) -> None:
        app = write_app("check_silent", self.APP)
        result = run("check", REDIS_URL=silent, RQ_CLOCK_APP=app)
        assert result.exit_code == 0
        [line] = result.stderr.splitlines()
        assert line.endswith("does not answer in time")

    def test_unreadable_data_fails_no_release(self, run: Run, connection: Redis) -> None:
        connection.set("rq-clock:default:declared", "no set")
        result = run("check", RQ_CLOCK_APP=write_app("check_odd", self.APP))
        assert result.exit_code == 0
        assert "the changes of a deploy are unknown: " in result.stderr


# ---- import -----------------------------------------------------------------------------------

CRONTAB = (
    "CRON_TZ=Europe/Berlin\n"
    "# nightly report\n"
    "0 3 * * * cd /srv/app && ./report --token hunter2\n"
    "*/10 * * * * ./feeds\n"
    "0 25 * * * ./never\n"
    "@reboot ./start\n"
)


class TestImport:
    def test_a_crontab(self, redis_url: str, connection: Redis, schedules: Schedules) -> None:
        shown = piped(redis_url, CRONTAB, "import", "crontab", "-", "--dry-run")
        assert (shown.exit_code, names(connection)) == (0, [])
        assert [line.partition(":")[0] for line in shown.stdout.splitlines()] == [
            "+ feeds", "+ nightly-report", "2 added, 0 unchanged",
        ]  # fmt: skip
        assert "rq-clock: 2 left out:" in shown.stderr
        assert "    5: 0 25 * * * ./never: expected hour 0-23, got '25'" in shown.stderr
        assert "    6: @reboot ./start: " in shown.stderr
        assert "rq-clock: notes:" in shown.stderr
        assert "hunter2" not in shown.output
        made = piped(redis_url, CRONTAB, "import", "crontab", "-", "--yes", "--queue", "reports")
        assert made.exit_code == 0
        assert "2 changes made" in made.stderr
        entry = schedules.get("nightly-report")
        assert entry
        assert entry.schedule
        assert entry.schedule.trigger == cron("0 3 * * *", tz="Europe/Berlin")
        assert entry.schedule.queue == "reports"
        assert entry.next_fire
        audited = schedules.audit()[0]
        assert (audited.verb, audited.reason) == ("apply", "import crontab")
        again = piped(redis_url, CRONTAB, "import", "crontab", "-", "--yes", "--queue", "reports")
        assert again.exit_code == 0
        assert "nothing to change" in again.stderr

    def test_nothing_is_written_without_a_yes(self, redis_url: str, connection: Redis) -> None:
        result = piped(redis_url, CRONTAB, "import", "crontab", "-")
        assert result.exit_code == 2
        assert "must pass --yes" in result.stderr
        assert names(connection) == []
        with Terminal(redis_url, "import", "crontab", write(CRONTAB, "crontab")) as terminal:
            terminal.shows("Make 2 changes in namespace 'default'? [y/N]: ")
            terminal.type("y\n")
            assert terminal.ends() == 0
        assert names(connection) == ["feeds", "nightly-report"]

    def test_a_prefix_avoids_conflicts(
        self, run: Run, schedules: Schedules, connection: Redis
    ) -> None:
        schedules.add("feeds", DAILY, TASK)
        error = run.refused(1, "import", "crontab", write(CRONTAB, "crontab"), "--yes")
        assert error.splitlines() == [
            "rq-clock: feeds: exists already with another definition",
            "rq-clock: nothing was imported; pass --prefix, or remove them first",
        ]
        run.ok("import", "crontab", "crontab", "--prefix", "cron-", "--yes")
        assert names(connection) == ["cron-feeds", "cron-nightly-report", "feeds"]

    def test_a_paused_job_is_added_paused_once(
        self, run: Run, schedules: Schedules, connection: Redis
    ) -> None:
        job = {"nickname": "sync", "schedule": "0 3 * * *", "command": "./sync", "state": "paused"}
        file = write(json.dumps([job]), "jobs.json")
        assert "(paused)" in run.ok("import", "crontogo", file, "--yes", "--prefix", "x-")
        assert Store(connection, "default").pauses(["x-sync"])["x-sync"].by == "ana"
        schedules.resume("x-sync")
        before = everything(connection)
        assert "nothing to change" in run("import", "crontogo", file, "--prefix", "x-").stderr
        assert everything(connection) == before

    def test_herokus_table(self, redis_url: str, connection: Redis) -> None:
        table = "$ ./report\tStandard-1X\tDaily at 3:30 AM UTC\n"
        result = piped(redis_url, table, "import", "heroku", "-", "--yes")
        assert result.exit_code == 0
        assert names(connection) == ["report"]

    def test_the_zone_is_that_of_a_crontab(self, run: Run) -> None:
        file = write("0 3 * * * ./report\n", "crontab")
        result = run("import", "crontab", file, "--tz", "Asia/Tokyo", "--dry-run")
        assert "Asia/Tokyo" in result.stdout
        run.refused(2, "import", "heroku", file, "--tz", "Asia/Tokyo")
        run.refused(2, "import", "crontogo", file, "--system")

    def test_the_option_system_makes_the_sixth_field_a_user(self, run: Run) -> None:
        file = write("0 3 * * * ana ./report\n", "crontab")
        assert "$ ./report" in run("import", "crontab", file, "--system", "--dry-run").stdout
        assert "$ ana ./report" in run("import", "crontab", file, "--user", "--dry-run").stdout

    def test_when_all_is_left_out_it_fails(self, run: Run, connection: Redis) -> None:
        result = run("import", "crontab", write("@reboot ./start\n", "crontab"), "--yes")
        assert result.exit_code == 1
        assert "rq-clock: 1 left out:" in result.stderr
        assert names(connection) == []


def test_an_export_applied_elsewhere_is_the_same(run: Run, schedules: Schedules) -> None:
    schedules.add("hook", every(minutes=7), SECRET, jitter=3, ping="https://hc-ping.com/abc?x=1")
    schedules.add("launch", once(FAR_AWAY), TASK, kwargs={"on": True, "at": "12:30"})
    schedules.pause("hook", reason="x: 'y'", missed="all")
    text = run("export", "--with-secrets").stdout
    there = {"RQ_CLOCK_NAMESPACE": "elsewhere"}
    run.ok("apply", write(text), "--yes", **there)
    assert run("export", "--with-secrets", **there).stdout == text
