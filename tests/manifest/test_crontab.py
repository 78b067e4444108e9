"""What comes of crontabs. No server.

How Debian's cron reads settings, `%` and backslashes was measured with the cron of Debian 12.
"""

from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rq_clock.manifest.importers.crontab import from_crontab
from rq_clock.model.schedule import from_definition
from rq_clock.model.targets import Command
from rq_clock.timing.triggers import Cron
from tests.manifest.importing import ZONES, assert_fires_as_cron, names, target_of

ETC_CRONTAB = r"""# /etc/crontab: system-wide crontab
SHELL=/bin/sh
# You can also override PATH
#PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

# Example of job definition:
# .---------------- minute (0 - 59)
# |  .------------- hour (0 - 23)
# |  |  .---------- day of month (1 - 31)
# |  |  |  .------- month (1 - 12) OR jan,feb,mar,apr ...
# |  |  |  |  .---- day of week (0 - 6) (Sunday=0 or 7) OR sun,mon,tue,wed,thu,fri,sat
# |  |  |  |  |
# *  *  *  *  * user-name command to be executed
17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )
47 6	* * 7	root	test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.weekly )
52 6	1 * *	root	test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.monthly )
#
"""  # noqa: E501
CRON_D = r"""
# The cron.d of a server: anacron, certbot, e2fsprogs, mdadm, munin, php, popcon, sysstat

SHELL=/bin/sh

30 7-23 * * *   root	[ -x /etc/init.d/anacron ] && if [ ! -d /run/systemd/system ]; then /usr/sbin/invoke-rc.d anacron start >/dev/null; fi
0 */12 * * * root test -x /usr/bin/certbot -a \! -d /run/systemd/system && perl -e 'sleep int(rand(43200))' && certbot -q renew --no-random-sleep-on-renew
30 3 * * 0 root test -e /run/systemd/system || SERVICE_MODE=1 /usr/lib/x86_64-linux-gnu/e2fsprogs/e2scrub_all_cron
10 3 * * * root test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all -A -r

# By default at 00:57 on Sundays, but only
# on the first of a month.
57 0 * * 0 root if [ -x /usr/share/mdadm/checkarray ] && [ $(date +\%d) -le 7 ]; then /usr/share/mdadm/checkarray --cron --all --idle --quiet; fi
MAILTO=root
*/5 * * * *     munin if [ -x /etc/munin/plugins/apt_all ]; then munin-run apt_all update 7200 12 >/dev/null; fi
# Look for and purge old sessions every 30 minutes
09,39 *     * * *     root   [ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/sessionclean; fi
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin
27 4 * * *   root    test -x /etc/cron.daily/popularity-contest && /etc/cron.daily/popularity-contest --crond
5-55/10 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1
59 23 * * * root command -v debian-sa1 > /dev/null && debian-sa1 60 2
@reboot         logcheck    if [ -x /usr/sbin/logcheck ]; then nice -n10 /usr/sbin/logcheck -R; fi
2 * * * *       logcheck    if [ -x /usr/sbin/logcheck ]; then nice -n10 /usr/sbin/logcheck; fi
"""  # noqa: E501
USERS = r"""# m h  dom mon dow   command
CRON_TZ=Europe/Berlin

#Ansible: rotate the logs
30 2 * * * /usr/sbin/logrotate -s /home/joe/state /home/joe/logrotate.conf
*/20 1-3 * * * cd /srv/app && venv/bin/python manage.py sync_orders --quiet
# 0 4 * * * /srv/old/nightly.sh
0 0,12 1 */2 * /usr/bin/flock -n /tmp/report.lock php /srv/app/artisan report:send
CRON_TZ = "America/New_York"
0 2 * mar,nov sun bin/both-day-fields-of-which-one-is-a-star
# --- Month's end, in Ćeský Krumlov ---
59 1 28-31 * * bin/close-books.sh
0 0 13 * fri bin/either
CRON_TZ=Australia/Lord_Howe
45 1,2 * * 6-7 bin/half-an-hour-of-dst
@weekly bin/either
CRON_TZ=Asia/Kolkata
*/30 5 1-7 1-3 1-5/2 bin/no-dst
"""


def entry(line: str, **options: Any) -> Command:
    return target_of(from_crontab(f"0 0 * * * {line}\n", system=False, **options))


def reason(text: str) -> str:
    """Why an entry of a user's crontab is left out."""
    imported = from_crontab(text, system=False)
    assert not imported.schedules
    [left] = imported.left_out
    return left.reason


def output(target: Command) -> str:
    """What a command prints, started as a worker starts it."""
    words, env = ["/bin/sh", "-c", target.shell, "sh"], {"PATH": "/usr/bin:/bin", **target.env}
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=True)
    return done.stdout.decode()


class TestRealCrontabs:
    def test_debians_own_crontab_is_carried_over(self) -> None:
        imported = from_crontab(ETC_CRONTAB)
        assert imported.left_out == []
        assert {s.name: (s.trigger, s.target.shell) for s in imported.schedules} == {  # type: ignore[union-attr]
            "run-parts-cron-hourly": (
                Cron("17 * * * *"), "cd / && run-parts --report /etc/cron.hourly",
            ),
            "run-parts-cron-daily": (
                Cron("25 6 * * *"),
                "test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )",
            ),
            "run-parts-cron-weekly": (
                Cron("47 6 * * 7"),
                "test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.weekly )",
            ),
            "run-parts-cron-monthly": (
                Cron("52 6 1 * *"),
                "test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.monthly )",
            ),
        }  # fmt: skip
        assert "all 4 schedules: was run as the user root; here as the worker's" in imported.notes

    def test_a_servers_cron_d_is_carried_over_without_boot_jobs(self) -> None:
        imported = from_crontab(CRON_D)
        assert names(imported) == [
            "invoke-rc-d", "certbot", "e2scrub_all_cron", "e2scrub_all",
            "by-default-at-00-57-on-sundays-but-only", "munin-run",
            "look-for-and-purge-old-sessions-every-30-minutes", "popularity-contest", "debian-sa1",
            "debian-sa1-2", "logcheck",
        ]  # fmt: skip
        [left] = imported.left_out
        assert left.text.startswith("@reboot")
        assert left.reason.endswith("a restart is not a time; enqueue the job where the app starts")
        checkarray = imported.schedules[4].target
        assert isinstance(checkarray, Command)
        assert "[ $(date +%d) -le 7 ]" in checkarray.shell

    @pytest.mark.parametrize(
        ("text", "tz", "count"),
        [
            (ETC_CRONTAB, "UTC", 4),
            (ETC_CRONTAB, "Europe/Berlin", 4),
            (CRON_D, "America/New_York", 11),
            (USERS, "UTC", 9),
        ],
    )
    def test_they_fire_as_by_cron(self, text: str, tz: str, count: int) -> None:
        imported = from_crontab(text, tz=tz)
        assert len(imported.schedules) == count
        for schedule in imported.schedules:
            assert assert_fires_as_cron(schedule) >= 9

    def test_a_users_crontab_gets_names_and_zones_line_by_line(self) -> None:
        imported = from_crontab(USERS)
        assert [(s.name, s.trigger.tz) for s in imported.schedules] == [
            ("rotate-the-logs", "Europe/Berlin"),
            ("manage-sync_orders", "Europe/Berlin"),
            ("artisan-report-send", "Europe/Berlin"),
            ("both-day-fields-of-which-one-is-a-star", "America/New_York"),
            ("months-end-in-cesky-krumlov", "America/New_York"),
            ("either", "America/New_York"),
            ("half-an-hour-of-dst", "Australia/Lord_Howe"),
            ("either-2", "Australia/Lord_Howe"),
            ("no-dst", "Asia/Kolkata"),
        ]
        assert imported.left_out == []

    @pytest.mark.parametrize("text", [ETC_CRONTAB, CRON_D, USERS])
    def test_imported_schedules_can_be_stored(self, text: str) -> None:
        for schedule in from_crontab(text).schedules:
            assert from_definition(schedule.name, schedule.definition()) == schedule


# Generated crontabs: fields by the grammar of crontab(5), at most some thousand times a year.


@st.composite
def items(draw: st.DrawFn, low: int, high: int, words: tuple[str, ...] = ()) -> str:
    a, b = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))

    def spell(n: int) -> str:
        word = words[n - low] if words and n - low < len(words) else f"{n}"
        return draw(st.sampled_from([word, word.upper(), f"{n}", f"{n:02}"]))

    match draw(st.sampled_from(["a", "a", "a-b", "a-b/n"])):
        case "a-b" if a < b:
            return f"{a}-{b}" if not words else f"{spell(a)}-{b}"
        case "a-b/n" if a < b:  # cronsim reads 5-5/2 as 5/2
            return f"{a}-{b}/{draw(st.integers(1, b - a))}"
    return spell(a)


def field(low: int, high: int, words: tuple[str, ...] = (), star: str = "*") -> Any:
    listed = st.lists(items(low, high, words), min_size=1, max_size=3).map(",".join)
    stars = st.sampled_from([star, f"{star}/2", f"{star}/5", f"{star},{low}", f"{high},{star}"])
    return st.just(star) | listed | stars


SOME = st.lists(st.integers(0, 59).map(str), min_size=1, max_size=2).map(",".join)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
EXPRESSIONS = (
    st.tuples(SOME, field(0, 23), field(1, 28), field(1, 12, MONTHS), field(0, 6, DAYS))
    | st.tuples(
        st.sampled_from(["*/20", "*/31", "7,*/20"]), st.just("1-3"),
        field(1, 28), field(1, 12, MONTHS), field(0, 6, DAYS),
    )
).map(" ".join)  # fmt: skip
COMMANDS = st.sampled_from(
    ["true", "cd / && ls", "echo 'a b' > /dev/null 2>&1", "/srv/x.sh --day=$(date +\\%F)", "a=1 b"]
)
BLANKS = st.sampled_from([" ", "\t", "  ", " \t "])
REFUSED = st.sampled_from(
    [
        "@reboot x",
        "61 * * * * x",
        "* * * *",
        "0 0 * * *",
        "hello",
        "0 0 L * * x",
        "A-B=c",
        'A="b" c',
    ]
)
IDLE = st.sampled_from(["", " ", "# a comment", "#0 0 * * * x", "\t# m h dom mon dow command"])


class TestGeneratedCrontabs:
    @settings(max_examples=settings().max_examples // 8)
    @given(st.lists(st.tuples(EXPRESSIONS, st.sampled_from(ZONES)), min_size=1, max_size=3))
    def test_entries_fire_as_by_cron(self, expected: list[tuple[str, str]]) -> None:
        text = "".join(f"CRON_TZ={key}\n{expression} true\n" for expression, key in expected)
        imported = from_crontab(text, system=False)
        assert imported.left_out == []
        assert len(imported.schedules) == len(expected)
        for schedule, (expression, key) in zip(imported.schedules, expected, strict=True):
            assert schedule.trigger == Cron(expression, key)
            assert_fires_as_cron(schedule)

    @given(st.data())
    def test_every_line_is_carried_over_or_left_out_or_idle(self, data: st.DataObject) -> None:
        lines: list[str] = []
        expected: list[tuple[str, str, dict[str, str]]] = []
        refused: list[int] = []
        tz, env = "UTC", dict[str, str]()
        for kind in data.draw(st.lists(st.sampled_from("eeezsri"), max_size=12)):
            match kind:
                case "e":
                    blank = data.draw(BLANKS)
                    expression, line = data.draw(EXPRESSIONS), data.draw(COMMANDS)
                    lines.append(data.draw(BLANKS) + expression.replace(" ", blank) + blank + line)
                    expected.append((f"{expression} {tz}", line.replace("\\%", "%"), env))
                case "z":
                    tz = data.draw(st.sampled_from(ZONES))
                    lines.append(
                        data.draw(st.sampled_from(["CRON_TZ={}", " CRON_TZ = '{}' "])).format(tz)
                    )
                case "s":
                    name, value = (
                        data.draw(st.sampled_from("ABC")),
                        data.draw(st.sampled_from("xyz")),
                    )
                    lines.append(f'{name} = "{value}"')
                    env = env | {name: value}
                case "r":
                    lines.append(data.draw(REFUSED))
                    refused.append(len(lines))
                case _:
                    lines.append(data.draw(IDLE))
        imported = from_crontab("\n".join(lines), system=False)
        found = [
            (f"{s.trigger.expression} {s.trigger.tz}", s.target.shell, s.target.env)  # type: ignore[union-attr]
            for s in imported.schedules
        ]
        assert found == expected
        assert [left.line for left in imported.left_out] == refused
        assert len(set(names(imported))) == len(expected)


class TestSettings:
    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("A=plain value  ", "plain value"),
            ("A = spaced = x  # not comment", "spaced = x  # not comment"),
            ('A="quoted  "   ', "quoted  "),
            ("A='single \"inner\" '", 'single "inner" '),
            ("'A'='q'", "q"),
            ('A=a "b" c', 'a "b" c'),
            ("\tA\t=\tlead", "lead"),
            ("A=$HOME/x", "$HOME/x"),
            (r"A=last%percent\%x", r"last%percent\%x"),
            ('A=""', ""),
            ("A=", ""),  # cronie; Debian's cron wants the quotes
            ("A==b", "=b"),
        ],
    )
    def test_a_setting_is_read_as_cron_reads_it(self, line: str, value: str) -> None:
        assert target_of(from_crontab(f"{line}\n0 0 * * * x", system=False)).env == {"A": value}

    @pytest.mark.parametrize("line", ['A="unbalanced', 'A="a" b', "A B=c", "1A=b", "@a=b", "=b"])
    def test_a_setting_with_an_invalid_name_is_left_out(self, line: str) -> None:
        imported = from_crontab(f"A=first\n{line}\n0 0 * * * x", system=False)
        assert [(left.line, left.text) for left in imported.left_out] == [(2, line)]
        assert target_of(imported).env == {"A": "first"}

    def test_a_setting_counts_for_the_entries_below_it(self) -> None:
        imported = from_crontab(
            "0 0 * * * a\nA=1\n0 0 * * * b\nA=2\nB=3\n0 0 * * * c", system=False
        )
        envs = [s.target.env for s in imported.schedules]  # type: ignore[union-attr]
        assert envs == [{}, {"A": "1"}, {"A": "2", "B": "3"}]

    def test_crons_own_settings_are_not_in_the_commands_environment(self) -> None:
        text = (
            "MAILTO=joe\nMAILFROM=x\nLOGNAME=root\nCRON_TZ=:Asia/Tokyo\nTZ=Asia/Tokyo\n@daily x\n"
        )
        imported = from_crontab(text, system=False)
        assert target_of(imported).env == {"TZ": "Asia/Tokyo"}
        assert imported.schedules[0].trigger == Cron("@daily", "Asia/Tokyo")
        assert sum("MAILTO" in note for note in imported.notes) == 1

    def test_tz_is_the_commands_and_not_the_times(self) -> None:
        imported = from_crontab("TZ=Asia/Tokyo\n0 0 * * * x", tz="Europe/Paris", system=False)
        assert imported.schedules[0].trigger == Cron("0 0 * * *", "Europe/Paris")
        assert "x: TZ is for the command alone, as in cron; its times are not of that zone" in (
            imported.notes
        )

    def test_home_is_where_the_command_starts(self) -> None:
        target = target_of(from_crontab("HOME=/srv/app\n0 0 * * * bin/x", system=False))
        assert (target.cwd, target.env) == ("/srv/app", {"HOME": "/srv/app"})

    @pytest.mark.process
    def test_the_shell_of_the_crontab_runs_the_command(self) -> None:
        text = 'SHELL=/bin/bash\n0 0 * * * [[ a == a ]] && echo "it\'s" ${BASH_VERSION:+bash}\n'
        target = target_of(from_crontab(text, system=False))
        assert output(target) == "it's bash\n"
        assert reason("SHELL=bash\n0 0 * * * x").startswith("expected SHELL with its path")

    def test_a_random_delay_becomes_jitter(self) -> None:
        imported = from_crontab("RANDOM_DELAY=30\n0 0 * * * x\nRANDOM_DELAY=soon\n0 0 * * * x\n")
        assert [s.jitter for s in imported.schedules] == [timedelta(minutes=30), None]

    def test_a_command_may_take_as_long_as_in_cron(self) -> None:
        [schedule] = from_crontab("0 0 * * * x\n").schedules
        assert schedule.call()["timeout"] == -1


class TestCommands:
    @pytest.mark.parametrize(
        ("line", "shell"),
        [
            (r"01 a\\b", r"01 a\b"),
            (r"02 a\nb", r"02 a\nb"),
            (r"03 a\%b", "03 a%b"),
            (r"05 a\\\%b", r"05 a\%b"),
            (r"06 a\\\\b", r"06 a\\b"),
            ("07 trailing\\", "07 trailing\\"),
            ("08 trailing\\\\", "08 trailing\\"),
            (r"15 sed 's/\\./\\\./'", r"15 sed 's/\./\\./'"),
            ("17 x   y", "17 x   y"),
            ("18 x%", "18 x"),
        ],
    )
    def test_the_command_is_the_one_that_cron_runs(self, line: str, shell: str) -> None:
        assert entry(line).shell == shell

    @pytest.mark.parametrize(
        ("line", "printed"),
        [
            (r"cat%one%two\%three\x\\%%end", "one\ntwo%three\\x\\%\nend\n"),
            (r"cat%in\\a\nb\%c\\%d%%e", "in\\\\a\\nb%c\\%d\n\ne\n"),
            ("cat%end\\", "end\\\n"),
            ("cat%end\\\\", "end\\\\\n"),
            ("cat%%", "\n"),
            ("cat%a%", "a\n"),
            (r"cat a\\%INPUT%$HOME `x` 'y'%INPUT_", "INPUT\n$HOME `x` 'y'\nINPUT_\n"),
            ('read a; cat; echo "$a, it\'s"%1%2', "2\n1, it's\n"),
        ],
    )
    @pytest.mark.process
    def test_the_command_reads_the_text_after_a_percent(self, line: str, printed: str) -> None:
        assert output(entry(line.replace(r"cat a\\", "cat "))) == printed

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("/usr/local/bin/backup.sh --all", "backup"),
            ("cd /srv && ./bin/run 2>&1", "run-2"),
            ("FOO=bar nice -n 10 ionice -c3 /usr/bin/python3.11 -u /srv/tasks/sync.py x", "sync"),
            ("python -m app.jobs.cleanup", "app-jobs-cleanup"),
            ("sudo -u joe /usr/bin/flock -n /tmp/l bash -lc 'cd /a && ./go.sh'", "go"),
            ("su -s /bin/sh www-data -c 'php /srv/index.php'", "index"),
            ("bundle exec rake db:prune", "rake-db-prune"),
            ("curl -s https://joe:hunter22@example.com/token/hunter22", "curl"),
            ("PGPASSWORD=hunter22 pg_dump x", "pg_dump"),
            ("cd /x%hunter22", "sh"),
            ("[ -x /x ] && /x/y.rb || true", "y"),
            ("'/opt/my tool/x y'", "my"),
        ],
    )
    def test_a_name_is_made_of_the_program(self, line: str, name: str) -> None:
        text = f"0 0 * * * ./run\n0 0 * * * {line}\n"
        assert names(from_crontab(text, system=False)) == ["run", name]

    @pytest.mark.parametrize(
        ("comment", "name"),
        [
            ("# Purge the old sessions", "purge-the-old-sessions"),
            ("## Backups ##\n# take twenty minutes", "backups"),
            ("# Backups\n\n", "x"),
            ("# Backups\nA=1", "x"),
            ("# Backups\n#\n", "x"),
            ("# Backups\n#0 0 * * * old", "x"),
            ("# Backups\n#@daily old", "x"),
            ("# Backups\n# A=1", "x"),
            ("# m h dom mon dow command", "x"),
            ("# DO NOT EDIT THIS FILE - edit the master\n# (/tmp/crontab.x installed)", "x"),
            ("# ----------------", "x"),
            ("# バックアップ", "x"),
            ("# " + "long " * 40, "-".join(["long"] * 12)),
            ("# API_KEY=hunter22", "x"),
            ("# Ping with token=hunter22, hourly", "ping-with-token-hourly"),
        ],
    )
    def test_the_comment_above_an_entry_is_its_name(self, comment: str, name: str) -> None:
        assert names(from_crontab(f"{comment}\n0 0 * * * x\n", system=False)) == [name]

    def test_equal_names_get_numbers(self) -> None:
        text = "# x 2\n@daily a\n@daily x\n@daily x\n# x\n@daily b\n"
        assert names(from_crontab(text, system=False)) == ["x-2", "x", "x-3", "x-4"]


class TestWhatCronReadsOtherwise:
    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("61 * * * * x", "expected minute 0-59, got '61' in '61 * * * *'"),
            ("0 0 30 2 * x", "expected a day that comes within 50 years, got '0 0 30 2 *'"),
            ("*/70 * * * * x", "expected minute step 1-60, got '*/70'"),
            ("0 0 L * * x", "crontab(5) has no 'L'"),
            ("0 0 15W * * x", "crontab(5) has no '15W'"),
            ("0 0 ? * * x", "crontab(5) has no '?'"),
            ("0 0 * * 5#2 x", "crontab(5) has no '5#2'"),
            ("0 0 * * mon,5L x", "crontab(5) has no '5L'"),
            ("5/10 * * * * x", "crontab(5) has no '5/10'"),
            ("0 22-2 * * * x", "cron finds no time in '22-2', which goes backwards"),
            ("0 0 * * sat-SUN x", "cron finds no time in 'sat-SUN'"),
            ("0 0 * nov-jan * x", "cron finds no time in 'nov-jan'"),
            ("0~30 * * * * x", "expected minute 0-59, got '0~30'"),
            ("@Daily x", "cron knows @daily in lower case only"),
            ("@every_minute x", "expected @hourly, @daily"),
            ("@reboot x", "expected @hourly, @daily"),
            ("0 0 * * * * x", "expected a command after five fields of time, got one more field"),
            ("0 0 * * *", "expected a command after the fields of time"),
            ("@daily", "expected a command after the fields of time"),
            ("0 0 * * * %x", "expected a command before the first %"),
            ("make it so", "expected five fields of time and a command, or NAME=value"),
            ("0 0 * * * x\0y", "expected a command line of at most 10,000 characters"),
            ("0 0 * * * " + "x" * 10_001, "expected a command line of at most 10,000 characters"),
            ("CRON_TZ=Europe/Berlinn\n0 0 * * * x", "expected a time zone such as 'Europe/Berlin'"),
            ("CRON_TZ=\n0 0 * * * x", "expected a time zone such as 'Europe/Berlin', got ''"),
        ],
    )
    def test_it_is_left_out_with_the_reason(self, line: str, why: str) -> None:
        assert reason(line).startswith(why)

    def test_days_of_the_week_end_with_sunday_as_in_cron(self) -> None:
        [schedule] = from_crontab("0 0 * * 5-7 x", system=False).schedules
        assert_fires_as_cron(schedule)

    def test_the_options_of_cronie_are_noted_and_dropped(self) -> None:
        imported = from_crontab("-*/5 * * * * -n x\n", system=False)
        assert target_of(imported).shell == "x"
        assert imported.schedules[0].trigger == Cron("*/5 * * * *")
        assert set(imported.notes) >= {
            "x: the option -n is not carried over",
            "x: the '-' before it is not carried over: runs are logged and recorded",
        }

    def test_windows_line_ends_and_a_missing_last_one_are_no_harm(self) -> None:
        imported = from_crontab("\ufeff# Backups\r\n0 0 * * * x\r\n@daily y", system=False)
        assert names(imported) == ["backups", "y"]
        assert [s.target.shell for s in imported.schedules] == ["x", "y"]  # type: ignore[union-attr]


class TestUsers:
    @pytest.mark.parametrize(
        ("text", "is_system"),
        [
            ("0 0 * * * root /x\n", True),
            ("0 0 * * * root /x\n0 0 * * * joe /y\n", True),
            ("# m h dom mon dow user  command\n0 0 * * * joe /y\n", True),
            ("0 0 * * * python /y\n", False),
            ("0 0 * * * root /x\n0 0 * * * /y z\n", False),
            ("0 0 * * * root\n", False),
        ],
    )
    def test_a_guess_about_users_is_noted(self, text: str, is_system: bool) -> None:
        imported = from_crontab(text)
        guess = "is read as a user" if is_system else "is not read as a user"
        assert any(guess in note for note in imported.notes)
        assert any("was run as the user" in note for note in imported.notes) is is_system

    def test_an_explicit_kind_of_crontab_has_no_note(self) -> None:
        text = "0 0 * * * joe /y\n"
        users, system = from_crontab(text, system=False), from_crontab(text, system=True)
        assert (target_of(users).shell, target_of(system).shell) == ("joe /y", "/y")
        assert not any("as a user;" in note for note in (*users.notes, *system.notes))

    def test_an_entry_of_the_system_without_a_user_is_left_out(self) -> None:
        [left] = from_crontab("0 0 * * * root\n", system=True).left_out
        assert left.reason == "expected a user and a command after the fields of time"
