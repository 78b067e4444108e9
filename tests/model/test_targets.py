"""Commands and webhooks as they are declared, stored, shown and checked. No server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rq_clock import loader as app
from rq_clock.cli import main
from rq_clock.errors import RqClockError, ScheduleError
from rq_clock.model.schedule import Schedule, declare, from_definition
from rq_clock.model.targets import Command, Webhook, command, webhook
from rq_clock.outbound.addresses import Allowed, parse_allowed, refusal
from rq_clock.redaction import MASK, Secrets, is_secret, masked, masked_text, masked_url
from rq_clock.settings import Settings
from rq_clock.timing.triggers import every
from tests.cli.terminal import fill

HOURLY = every(hours=1)
FULL_COMMAND = command("df -h /", timeout=60, cwd="data", env={"LANG": "C", "API_KEY": "hunter22"})
FULL_WEBHOOK = webhook(
    "https://example.com/hook?id=7", method="PUT", headers={"X-Token": "hunter22", "Accept": "*/*"},
    json={"from": "clock", "list": [1, None, "ü"], "token": "hunter22"}, timeout=2.5,
)  # fmt: skip


def schedule(target: Any, **options: Any) -> Schedule:
    return declare("nightly", HOURLY, target, options)


def faults(target: Any, **options: Any) -> list[str]:
    with pytest.raises(ScheduleError) as caught:
        schedule(target, **options)
    return [line.removeprefix("nightly: ") for line in str(caught.value).splitlines()]


class TestDeclaration:
    def test_every_fault_is_reported_at_once(self) -> None:
        wrong = command(" ", timeout=0, cwd="", env={"a b": "x", "API_KEY": 3})  # type: ignore[dict-item]
        assert faults(wrong, queue="", kwargs={"a": 1}) == [
            "expected a command line, as 'df -h /', got ' '",
            "expected a command's timeout in seconds, above 0, got 0",
            "expected cwd to be a directory of at most 4,096 characters, got ''",
            "expected a name as a key in env, got 'a b'",
            "expected plain text in env['API_KEY'], got **** (int)",
            "kwargs are for a function, not for a command; put them into its env or its text",
            "expected queue to be a name of 1-200 characters, got ''",
        ]

    def test_every_fault_of_a_webhook_is_reported_at_once(self) -> None:
        headers = {"Host": "x", "a": "1", "A": "2", "b c": "", "X-Key": "hunter22\r\nHost: evil"}
        wrong = webhook(
            "ftp://me:hunter22@example.com:0/#x", method="get", headers=headers, timeout=301,
            json=[{"at": {1}}],
        )  # fmt: skip
        assert faults(wrong, args=[1]) == [
            "expected a URL of http or https, got ftp://example.com:0/",
            "expected ftp://example.com:0/ without user and password; give them as header "
            "Authorization",
            "expected the URL ftp://example.com:0/ without fragment and with a port above 0",
            "expected method GET, HEAD, POST, PUT, PATCH, DELETE, got 'get'",
            "expected a webhook's timeout in seconds, above 0 and at most 300, got 301",
            "expected a name as a key in headers, got 'b c'",
            "expected plain text in headers['X-Key'], got **** (str)",
            "the header 'a' comes twice",
            "the header 'host' is rq-clock's to set; leave it out",
            "args are for a function, not for a webhook; put them into its json",
            "expected a JSON value in json[0]['at'], got {1} (set); pass text or a number and "
            "convert it",
        ]

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (command("x" * 10_001), "at most 10,000 characters"),
            (command("a\0b"), "without NUL"),
            (command(["df", "-h"]), "expected a command line"),  # type: ignore[arg-type]
            (command("df", timeout="1m"), "timeout in seconds"),  # type: ignore[arg-type]
            (command("df", timeout=True), "timeout in seconds"),
            (command("df", env=["A=b"]), "expected env to be a dict of texts, got list"),  # type: ignore[arg-type]
            (command("df", env={"A": "a\0b"}), "expected plain text in env['A']"),
            (webhook(""), "expected a URL"),
            (webhook("example.com/hook"), "expected a URL of http or https"),
            (webhook("https:///hook"), "expected a host"),
            (webhook("https://"), "expected a host"),
            (webhook("http://[::1"), "cannot read the URL"),
            (webhook("http://[fe80::1%25eth0]/"), "expected a host"),
            (webhook("http://example.com:99999/"), "cannot read the URL"),
            (webhook("http://exa mple.com/"), "plain characters"),
            (webhook("http://example.com/\r\nX: y"), "plain characters"),
            (webhook("http://example.com\\@evil.example/"), "plain characters"),
            (webhook("https://bücher.example/"), "xn--"),
            (webhook("https://x.example/", method="GET", json={}), "a GET carries no json"),
            (webhook("https://x.example/", timeout=0), "timeout in seconds"),
            (webhook("https://x.example/", headers={"X": "ü"}), "expected plain text in headers"),
        ],
    )
    def test_what_cannot_be_run_is_refused(self, target: Any, reason: str) -> None:
        assert reason in faults(target)[0]

    @pytest.mark.parametrize(
        ("target", "hint"),
        [
            ("df -h /", "wrapped in command(…)"),
            ("https://example.com/?token=hunter22", "wrap it in webhook(…)"),
            (7, "a command(…), dyno(…) or webhook(…)"),
        ],
    )
    def test_a_fault_names_the_right_wrapping_of_a_target(self, target: Any, hint: str) -> None:
        [fault] = faults(target)
        assert hint in fault
        assert "hunter22" not in fault

    def test_what_people_write_is_read_as_they_mean_it(self) -> None:
        assert command("df", timeout=timedelta(minutes=1), cwd=Path("a/b")) == Command(
            "df", 60.0, "a/b"
        )
        assert webhook("https://x.example", timeout=timedelta(seconds=3)).timeout == 3


class TestDefinition:
    @pytest.mark.parametrize(
        "target", [command("df"), FULL_COMMAND, webhook("https://example.com/"), FULL_WEBHOOK]
    )
    def test_what_is_stored_is_read_back_the_same(self, target: Command | Webhook) -> None:
        declared = schedule(target, timeout=90, queue="shell")
        assert from_definition("nightly", declared.definition()) == declared

    def test_the_target_stands_under_its_kind_without_defaults(self) -> None:
        assert schedule(command("df -h /", timeout=60)).definition() == (
            '{"command":{"shell":"df -h /","timeout":60},"every":3600000}'
        )
        assert schedule(webhook("https://example.com/", json=[])).definition() == (
            '{"every":3600000,"webhook":{"json":[],"url":"https://example.com/"}}'
        )

    @pytest.mark.parametrize(
        "text",
        [
            '{"every":60000,"command":{"shell":"curl hunter22","new":1}}',
            '{"every":60000,"command":{"shell":"hunter22"},"func":"a.b"}',
            '{"every":60000,"webhook":{"headers":{"X-Key":"hunter22"}}}',
            '{"every":60000,"command":"hunter22","env":',
            '{"every":60000,"webhook":["url", "hunter22"]}',
        ],
    )
    def test_a_definition_that_cannot_be_read_is_not_shown_with_its_secrets(
        self, text: str
    ) -> None:
        for form in (text, text.encode()):
            with pytest.raises(ScheduleError, match="cannot read the stored definition") as caught:
                from_definition("nightly", form)
            assert "hunter22" not in str(caught.value)


class TestCall:
    """The call that RQ makes."""

    @pytest.mark.parametrize(
        ("own", "limit", "command_timeout", "job_timeout"),
        [
            (None, None, 180, 190),  # as long as RQ lets a function take
            (None, 600, 600, 610),
            (None, -1, None, -1),
            (60, None, 60, 70),
            (60, 30, 60, 70),
            (60, 600, 60, 600),
            (60, -1, 60, -1),
            (0.5, None, 0.5, 11),
        ],
    )
    def test_the_job_has_ten_seconds_more_than_the_command(
        self, own: float | None, limit: int | None, command_timeout: float, job_timeout: int
    ) -> None:
        call = schedule(command("df", timeout=own), timeout=limit).call()
        assert (call["kwargs"]["timeout"], call["timeout"]) == (command_timeout, job_timeout)

    def test_the_job_has_ten_seconds_more_than_the_web_call(self) -> None:
        assert schedule(webhook("https://x.example")).call()["timeout"] == 20
        assert schedule(webhook("https://x.example", timeout=300)).call()["timeout"] == 310
        assert schedule(webhook("https://x.example"), timeout=99).call()["timeout"] == 99

    def test_the_job_is_an_ordinary_function_with_what_it_needs(self) -> None:
        call = schedule(FULL_COMMAND).call()
        assert call["func"] == "rq_clock.runners.run_command"
        assert call["kwargs"] == {
            "shell": "df -h /", "timeout": 60, "cwd": "data",
            "env": {"LANG": "C", "API_KEY": "hunter22"},
        }  # fmt: skip
        call = schedule(FULL_WEBHOOK).call()
        assert call["func"] == "rq_clock.runners.call_webhook"
        assert call["kwargs"]["headers"] == {"X-Token": "hunter22", "Accept": "*/*"}

    @pytest.mark.parametrize("target", [FULL_COMMAND, FULL_WEBHOOK])
    def test_what_rq_shows_of_the_job_has_no_secrets(self, target: Any) -> None:
        assert "hunter22" not in schedule(target).call()["description"]


class TestMasks:
    @pytest.mark.parametrize(
        "name",
        ["API_KEY", "apiKey", "Authorization", "Proxy-Authorization", "Cookie", "X-Auth-Token",
         "SECRET_KEY_BASE", "PGPASSWORD", "db_pass", "MYSQL_PWD", "PASS", "passphrase",
         "auth", "X-Auth", "jwt", "pwd", "otp", "pin", "session_id", "sessionId", "creds", "X-Sig"],
    )  # fmt: skip
    def test_a_secret_is_known_by_its_name(self, name: str) -> None:
        assert is_secret(name)
        assert masked({name: "hunter22"}) == {name: MASK}

    @pytest.mark.parametrize(
        "name",
        [
            "PATH",
            "PWD",
            "OLDPWD",
            "LANG",
            "Accept",
            "COMPASS_HEADING",
            "author",
            "option",
            "signal",
            "DESKTOP_SESSION",
            "SSH_AUTH_SOCK",
            "pinned",
        ],
    )
    def test_what_is_none_is_shown(self, name: str) -> None:
        assert masked({name: "/app/x"}) == {name: "/app/x"}

    @pytest.mark.parametrize(
        "text",
        [
            "curl -H 'Authorization: Bearer hunter22' https://x.example",
            'curl -H "X-Api-Key: hunter22" https://x.example',
            "API_TOKEN=hunter22 ./run",
            "API_TOKEN='hunter22 and more' ./run",
            "./run --password hunter22 --verbose",
            "./run --api-key=hunter22",
            "pg_dump postgres://me:hunter22@db.example/app",
            "redis-cli -u redis://:hunter22@db.example",
            '{"password": "hunter22"}',
            '{"auth": "hunter22"}',
            "curl -u me:hunter22 https://x.example",
            "curl --user=me:hunter22 https://x.example",
            "curl -H 'X-Auth: hunter22' 'https://x.example/?sig=hunter22&a=1'",
            "mysql -h db -u me -phunter22 app",
            "redis-cli -h x -a hunter22 get a",
            "sshpass -p hunter22 ssh x",
            "curl -H 'X-Plain: Bearer hunter22' x",
            'curl -H "X-Plain: basic aHVudGVyMjI=hunter22" x',
            "curl -u hunter22: https://api.example",
            'curl --user "hunter22:" https://api.example',
            "docker login -u me -p hunter22",
            "mongodump -u me -p hunter22",
            "twine upload -u me -p hunter22 dist/*",
            "sqlcmd -S db -U me -P hunter22",
            "zip -P hunter22 a.zip b",
            "7z x -phunter22 a.7z",
            "ldapsearch -D me -w hunter22",
            "http -a me:hunter22 https://x.example",
            "https --auth me:hunter22 x.example",
            "openssl rsa -passin pass:hunter22",
            "lftp -u me,hunter22 x.example",
            "smbclient //x/y -U me%hunter22",
            "aws configure set aws_secret_access_key hunter22",
            "vault login hunter22",
            "curl https://hooks.slack.com/services/T00/B00/hunter22",
            "curl https://discord.com/api/webhooks/123/hunter22",
            "curl https://api.telegram.org/bot123:hunter22/sendMessage",
            "curl -fsS https://hc-ping.com/hunter22",
        ],
    )
    def test_a_command_line_is_shown_without_its_plain_secrets(self, text: str) -> None:
        assert "hunter22" not in masked_text(text)
        assert "hunter22" not in repr(schedule(command(text)))
        assert "and more" not in masked_text(text)

    @pytest.mark.parametrize(
        "text",
        [
            "df -h /",
            "curl $URL -d token=$TOKEN",
            "ls | sort -k 2",
            "sort -u a b",
            "date -u +%H:%M",
            "curl -u me https://x.example",
            "docker run -p 8080:80 x",
            "mkdir -p a/b",
            "zip -r a.zip b",
            "az vm list -o table",
            "curl https://x.example -a -o b",
            "git config set user.name me",
            "author=x option: 5",
            "basic authentication, a bearer of news, Bearer $TOKEN or ${env:TOKEN_1}",
        ],
    )
    def test_a_command_line_without_secrets_is_shown_as_it_is(self, text: str) -> None:
        assert masked_text(text) == text

    @pytest.mark.parametrize(
        "part",
        [
            "key",
            "--key ",
            "key= ",
            'key="',
            "://a",
            "token key ",
            "mysql ",
            "-u a",
            "redis-cli -a ",
        ],
    )
    def test_masking_takes_no_time_whatever_the_text(self, part: str) -> None:
        started = time.process_time()
        masked_text((part * 10_000)[:10_000])
        assert time.process_time() - started < 1

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://example.com/hook", "https://example.com/hook"),
            ("https://example.com:8443/a?token=hunter22", "https://example.com:8443/a?…"),
            ("https://me:hunter22@example.com/", "https://example.com/"),
            (
                "https://hooks.slack.com/services/T00/B00/abcdefghijklmnopqrstuvwx",
                "https://hooks.slack.com/services/T00/B00/****",
            ),
            ("/elsewhere\x1b[31m", "/elsewhere\\x1b[31m"),
            ("http://[::1", "(not a URL)"),
        ],
    )
    def test_a_url_is_shown_without_what_may_be_secret(self, url: str, shown: str) -> None:
        assert masked_url(url) == shown

    @pytest.mark.parametrize("target", [FULL_COMMAND, FULL_WEBHOOK])
    def test_no_form_in_which_a_target_is_shown_has_secrets(self, target: Any) -> None:
        for text in (repr(target), repr(schedule(target)), target.describe()):
            assert "hunter22" not in text
        assert "hunter22" not in json.dumps(target.shown())

    def test_secret_values_are_hidden_wherever_they_turn_up(self) -> None:
        secrets = Secrets(
            {
                "API_KEY": "hunter22",
                "API_KEY_OLD": "hunter22-and-more",
                "DATABASE_URL": "postgres://me:p%40ssword@db/app",
                "PRIVATE_KEY": "-----BEGIN-----\nabcdef\n-----END-----",
                "SHORT_KEY": "12345",
                "PLAIN": "Bearer open5esame",
                "HOME": "/app",
            }
        )
        text = b"hunter22 hunter22-and-more p%40ssword p@ssword abcdef 12345 open5esame /app"
        assert secrets.hide(text) == b"**** **** **** **** **** 12345 **** /app"
        assert Secrets({"HOME": "/app"}).hide(text) == text


PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"]
CLOSED = [
    ("127.0.0.1", "loopback"), ("127.8.9.10", "loopback"), ("::1", "loopback"),
    ("::ffff:127.0.0.1", "loopback"),
    ("10.1.1.1", "private"), ("172.16.0.1", "private"), ("172.31.255.255", "private"),
    ("192.168.1.1", "private"), ("100.64.0.1", "private"), ("fd00:ec2::254", "private"),
    ("::ffff:10.0.0.1", "private"),
    ("169.254.169.254", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
    ("::ffff:169.254.169.254", "link-local"),
    ("0.0.0.0", "unspecified"), ("::", "unspecified"),
    ("224.0.0.1", "multicast"), ("ff02::1", "multicast"),
    ("64:ff9b::7f00:1", "stands for"), ("64:ff9b::808:808", "stands for"),
    ("64:ff9b:1::1", "stands for"), ("2002:7f00:1::", "stands for"), ("2001::1", "stands for"),
    ("::7f00:1", "stands for"),
    ("0.1.2.3", "reserved"), ("192.0.0.8", "reserved"), ("192.88.99.1", "reserved"),
    ("198.18.0.1", "reserved"), ("203.0.113.1", "reserved"), ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"), ("fec0::1", "reserved"), ("2001:db8::1", "reserved"),
    ("3fff::1", "reserved"), ("100::1", "reserved"), ("4000::1", "reserved"),
]  # fmt: skip


class TestAddresses:
    @pytest.mark.parametrize("address", PUBLIC)
    def test_a_public_address_may_be_called(self, address: str) -> None:
        assert refusal("hook.example", 443, address, ()) == ""

    @pytest.mark.parametrize(("address", "kind"), CLOSED)
    def test_no_other_address_may_be_called(self, address: str, kind: str) -> None:
        assert kind in refusal("hook.example", 443, address, ())

    @pytest.mark.parametrize(("address", "_"), CLOSED)
    def test_a_network_opens_its_addresses(self, address: str, _: str) -> None:
        everything = parse_allowed("0.0.0.0/0, ::/0")
        assert refusal("hook.example", 443, address, everything) == ""

    @pytest.mark.parametrize(
        ("allow", "host", "port", "address", "open_"),
        [
            ("intranet.example", "intranet.example", 80, "10.1.2.3", True),
            ("intranet.example", "Intranet.Example.", 8080, "10.1.2.3", True),
            ("intranet.example", "evil.example", 80, "10.1.2.3", False),
            ("intranet.example", "sub.intranet.example", 80, "10.1.2.3", False),
            ("intranet.example:8080", "intranet.example", 8080, "10.1.2.3", True),
            ("intranet.example:8080", "intranet.example", 80, "10.1.2.3", False),
            ("localhost", "localhost", 80, "127.0.0.1", True),
            # whoever controls a name's DNS must not get at the platform's metadata by it
            ("intranet.example", "intranet.example", 80, "169.254.169.254", False),
            ("intranet.example", "intranet.example", 80, "0.0.0.0", False),
            ("169.254.169.254", "169.254.169.254", 80, "169.254.169.254", True),
            ("10.1.0.0/16", "any.example", 80, "10.1.2.3", True),
            ("10.1.0.0/16", "any.example", 80, "::ffff:10.1.2.3", True),
            ("10.1.0.0/16", "any.example", 80, "10.2.2.3", False),
            ("127.0.0.1:8000", "any.example", 8000, "127.0.0.1", True),
            ("127.0.0.1:8000", "any.example", 8001, "127.0.0.1", False),
            ("[::1]:8000", "any.example", 8000, "::1", True),
            ("fd00::/8", "any.example", 80, "fd12::1", True),
        ],
    )
    def test_an_entry_opens_what_it_names_and_no_more(
        self, allow: str, host: str, port: int, address: str, open_: bool
    ) -> None:
        assert (refusal(host, port, address, parse_allowed(allow)) == "") == open_

    def test_a_refusal_says_what_would_allow_it(self) -> None:
        assert refusal("hook.example", 80, "10.1.2.3", ()) == (
            "hook.example resolves to 10.1.2.3, a private address; "
            "RQ_CLOCK_WEBHOOK_ALLOW=hook.example would allow it"
        )
        assert refusal("169.254.169.254", 80, "169.254.169.254", ()) == (
            "169.254.169.254 is a link-local address; "
            "RQ_CLOCK_WEBHOOK_ALLOW=169.254.169.254 would allow it"
        )

    def test_the_setting_is_a_list_of_hosts_and_networks(self) -> None:
        settings = Settings.from_env(
            {"RQ_CLOCK_WEBHOOK_ALLOW": "a.example, b.example:81,10.0.0.0/8"}
        )
        first, second, third = settings.webhook_allow
        assert (first, second) == (Allowed("a.example"), Allowed("b.example", port=81))
        assert str(third.network) == "10.0.0.0/8"
        assert Settings.from_env({}).webhook_allow == ()

    @pytest.mark.parametrize(
        "entry", ["http://a.example", "a.example:0", "a.example:x", "10.0.0.1/8", "*", ":80", "[x]"]
    )
    def test_an_entry_that_means_nothing_is_refused_by_name(self, entry: str) -> None:
        with pytest.raises(RqClockError) as caught:
            Settings.from_env({"RQ_CLOCK_WEBHOOK_ALLOW": f"good.example,{entry}"})
        assert "RQ_CLOCK_WEBHOOK_ALLOW: expected hosts" in str(caught.value)
        assert f"got '{entry}'" in str(caught.value)


class TestCheck:
    """What `rq-clock check` finds beyond the declaration."""

    def test_a_directory_has_to_be_there(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        assert app.target_faults(schedule(command("df", cwd="data"))) == []
        assert app.target_faults(schedule(command("no-such-program", cwd=tmp_path))) == []
        [fault] = app.target_faults(schedule(command("df", cwd="nowhere")))
        assert str(fault) == "nightly: expected cwd to be a directory, got 'nowhere'"
        assert fault.field == "command.cwd"

    def test_an_address_has_to_be_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inside = schedule(webhook("http://127.0.0.1:8000/hook"))
        assert "127.0.0.1 is a loopback address" in app.target_faults(inside)[0].text
        monkeypatch.setenv("RQ_CLOCK_WEBHOOK_ALLOW", "127.0.0.1:8000")
        assert app.target_faults(inside) == []

    def test_no_name_is_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: object, **__: object) -> None:
            raise AssertionError("looked up")

        monkeypatch.setattr("socket.getaddrinfo", offline)
        assert app.target_faults(schedule(webhook("https://no-such-name.invalid/"))) == []

    @pytest.mark.process
    def test_declaring_imports_nothing_that_runs_them(self) -> None:
        code = (
            "import sys; from rq_clock import Clock, command; Clock, command\n"
            "heavy = {'rq_clock.' + m for m in ('runners', 'runners.shell', 'outbound.client')}\n"
            "print(heavy & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            cwd=Path(app.__file__).parent.parent,
        )  # fmt: skip
        assert done.stdout == "set()\n"


def test_list_shows_what_runs_without_secrets(connection: Any, redis_url: str) -> None:
    fill(connection)
    for name, target in (("feeds", FULL_COMMAND), ("report", FULL_WEBHOOK)):
        connection.hset("rq-clock:default:definitions", name, schedule(target).definition())
    env = {"REDIS_URL": redis_url}
    lines = CliRunner().invoke(main, ["list"], env=env).stdout.splitlines()
    assert "$ df -h /" in lines[1]
    assert "PUT https://example.com/hook?…" in lines[2]
    shown = CliRunner().invoke(main, ["list", "--json"], env=env).stdout
    assert "hunter22" not in shown
    feeds, report = json.loads(shown)
    assert (feeds["func"], feeds["command"]["env"]) == (None, {"LANG": "C", "API_KEY": MASK})
    assert report["webhook"]["headers"] == {"X-Token": MASK, "Accept": "*/*"}
    assert report["webhook"]["json"]["token"] == MASK
