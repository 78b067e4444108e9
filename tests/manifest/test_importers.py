"""What all importers keep to. No server."""

from __future__ import annotations

import inspect
import json
import re
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rq_clock.manifest.importers import cron_to_go, crontab, heroku, result
from rq_clock.manifest.importers.cron_to_go import from_cron_to_go
from rq_clock.manifest.importers.crontab import from_crontab
from rq_clock.manifest.importers.heroku import from_heroku_scheduler
from rq_clock.model.schedule import from_definition
from rq_clock.timing.triggers import Every
from tests.manifest.importing import job, names


class TestAnyText:
    PARSERS = (from_crontab, from_heroku_scheduler, from_cron_to_go)

    @given(
        st.text(max_size=200)
        | st.text("01*/-,@ab=%\\\"' \t\n#{}[]:|>$", max_size=200)
        | st.lists(
            st.sampled_from(["0 0 * * *", "@daily", "jobs:", "  - ", "command: ", "$ x", "\t", "\n",
                             "Daily at 3:30 AM", "A=", "'", '"', "|", "{", "[", "#", "root ", "%"])
        ).map("".join)
    )  # fmt: skip
    def test_no_text_makes_it_raise_and_its_schedules_can_be_stored(self, text: str) -> None:
        for parser in self.PARSERS:
            imported = parser(text)
            assert len(set(names(imported))) == len(imported.schedules)
            for schedule in imported.schedules:
                assert from_definition(schedule.name, schedule.definition()) == schedule

    @pytest.mark.parametrize(
        "text",
        [
            "DB_PASSWORD=hunter22\nDSN=postgres://joe:hunter22@db/x\n0 0 * * * x --token hunter22",
            "# token: hunter22\n0 0 * * * curl https://joe:hunter22@example.com/",
            "'A B'=https://joe:hunter22@example.com",
            "API-KEY=hunter22\n'API KEY'=hunter22",
            "export API_KEY=hunter22 a b c d\n--password hunter22 b c d e f\n",
            "61 * * * * mysql --password hunter22\n@boot SECRET=hunter22 x",
            "0 0 * * * x%password=hunter22\n",
            "$ x --password hunter22\tDaily\n",
            json.dumps([job(command="x --token hunter22"), job(api_key="hunter22", state="off")]),
            json.dumps([job(state={"password": "hunter22"}), job(jitter="token=hunter22")]),
            json.dumps([job(jitter={"password": "hunter22"}), ["api_key=hunter22"]]),
            'jobs:\n  - api_key: hunter22\n    command: *x\n  - password: "hunter22\n',
            '[{"api_key": "hunter22",,}]',
        ],
    )
    def test_no_secret_is_ever_shown(self, text: str) -> None:
        for parser in self.PARSERS:
            assert "hunter22" not in repr(parser(text))

    def test_a_setting_left_out_shows_no_value_of_a_secret_name(self) -> None:
        [left] = from_crontab("'PASSWORD PHRASE' = hunter22\n").left_out
        assert left.text == "'PASSWORD PHRASE' =****"

    def test_the_queue_is_the_argument(self) -> None:
        found = (
            from_crontab("0 0 * * * x", queue="low"),
            from_heroku_scheduler("$ x\tHourly at :10", queue="low"),
            from_cron_to_go(json.dumps([job()]), queue="low"),
        )
        assert [s.queue for imported in found for s in imported.schedules] == ["low"] * 3
        assert from_crontab("0 0 * * * x", queue="").schedules == []

    def test_a_rate_is_an_interval_and_not_a_cron_expression(self) -> None:
        [schedule] = from_cron_to_go(json.dumps([job(schedule="90 minutes")])).schedules
        assert schedule.trigger == Every(5_400_000)

    def test_a_note_names_few_schedules_and_counts_the_rest(self) -> None:
        text = "".join(f"# job {n}\n0 0 * * * x\n" for n in range(7)) + "A=\\\n0 0 * * * y\n"
        imported = from_crontab("TZ=Asia/Tokyo\n" + text, system=False)
        assert any(note.startswith("all 8 schedules: TZ is") for note in imported.notes)
        imported = from_crontab(text.replace("A=", "PATH="), system=False)
        assert any(note.startswith("y: PATH is") for note in imported.notes)
        imported = from_crontab("0 0 * * * y\nPATH=/x\n" + text, system=False)
        assert any(
            note.startswith("job-0, job-1, job-2, job-3, job-4 and 3 more: PATH is")
            for note in imported.notes
        )

    @pytest.mark.parametrize("module", [crontab, cron_to_go, heroku, result])
    def test_it_is_pure(self, module: ModuleType) -> None:
        loaded = set(re.findall(r"^(?:from|import) (\w+)", inspect.getsource(module), re.MULTILINE))
        assert not loaded & {"redis", "rq", "os", "time", "click", "subprocess", "pathlib"}
