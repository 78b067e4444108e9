"""`rq-clock doctor`: its lines, its JSON, its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rq_clock.cli import main
from tests.doctor.namespace import Namespace
from tests.server import Server, free_url

pytestmark = pytest.mark.integration


Run = Callable[..., Result]


class TestCommand:
    @pytest.fixture
    def run(self, lasting: Server) -> Run:
        """`rq-clock doctor`, where there is no app unless the test makes one."""

        def run(*words: str, color: bool = False, **env: str) -> Result:
            env = {"REDIS_URL": lasting.url, "RQ_CLOCK_APP": "nowhere:clock", **env}
            return CliRunner().invoke(main, ["doctor", *words], env=env, color=color)

        return run

    def test_a_healthy_namespace_is_all_good(self, run: Run, ns: Namespace) -> None:
        result = run()
        assert result.exit_code == 0, result.output
        level, *rest = result.stdout.splitlines()
        assert level.startswith("info     app-unread  ")
        assert rest == ["all good"]

    def test_each_finding_is_a_line_and_its_remedy(self, run: Run, ns: Namespace) -> None:
        ns.leases.release(ns.lease)
        result = run()
        assert result.exit_code == 5
        assert result.stdout.splitlines()[:2] == [
            "error    no-leader  no clock leads: nothing is enqueued",
            "         start one (`heroku ps:scale clock=1`, `python clock.py`)",
        ]
        assert "all good" not in result.stdout
        assert "\x1b[31merror\x1b[0m    no-leader  no clock" in run(color=True).stdout

    def test_as_json_it_is_one_document(self, run: Run, ns: Namespace) -> None:
        ns.redis.zrem(ns.key("due"), "early")
        result = run("--json")
        document = json.loads(result.stdout)
        assert result.exit_code == 5
        assert not document["healthy"]
        assert document["checks"][0] == {
            "level": "error",
            "code": "index-wrong",
            "text": document["checks"][0]["text"],
            "remedy": "`rq-clock doctor --rebuild-index`, also while the clock works",
            "schedules": ["early"],
        }

    def test_the_index_is_rebuilt_before_all_is_examined(self, run: Run, ns: Namespace) -> None:
        ns.redis.delete(ns.key("due"))
        result = run("--rebuild-index")
        assert result.exit_code == 0
        assert result.stderr == "due index: 2 schedules checked, 2 corrected\n"
        document = json.loads(run("--rebuild-index", "--json").stdout)
        assert document["healthy"]
        assert document["rebuilt"] == {"schedules": 2, "corrected": 0}

    def test_the_apps_declarations_are_compared(
        self, run: Run, ns: Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(Path.cwd()))
        head = "from rq_clock import Clock, every\nclock = Clock()\n"
        Path("doctored.py").write_text(head + "clock.add('new', every(hours=1), 'json.dumps')\n")
        Path("broken.py").write_text("raise RuntimeError('no database here')\n")
        differs = json.loads(run("--json", RQ_CLOCK_APP="doctored:clock").stdout)
        assert [f["code"] for f in differs["checks"]] == ["code-differs"]
        assert differs["checks"][0]["schedules"] == ["early", "late", "new"]
        broken = json.loads(run("--json", RQ_CLOCK_APP="broken:clock").stdout)
        assert [f["code"] for f in broken["checks"]] == ["app-faulty"]
        assert "RuntimeError: no database here" in broken["checks"][0]["text"]

    def test_without_redis_it_is_one_line(self, run: Run) -> None:
        result = run(REDIS_URL=free_url())
        assert (result.exit_code, result.stdout) == (4, "")
        assert len(result.stderr.splitlines()) == 1
