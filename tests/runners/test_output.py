"""The output of a run as text: its lines in the log, its last 64 kB, its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rq_clock.model.targets import command
from rq_clock.redaction import MASK, Secrets, StreamMask
from rq_clock.runners.output import Output, Tail
from rq_clock.runners.tasks import run_command
from tests.helpers import Events
from tests.runners.lab import failure, lines, ran

NONE = Secrets({})


def logged(events: Events, stdout: bytes = b"", stderr: bytes = b"") -> list[dict[str, Any]]:
    """What the log has of an output, without its facts."""
    output = Output({}, NONE)
    for stream, data in (("stdout", stdout), ("stderr", stderr)):
        for at in range(0, len(data), 1000):
            output.add(stream, data[at : at + 1000])
    output.finish()
    output.finish()
    return events("run.output")


def kept(data: bytes) -> bytes:
    tail = Tail()
    for at in range(0, len(data), 1000):
        tail.add(data[at : at + 1000])
    return tail.value(NONE)


class TestLog:
    def test_not_utf_8_is_shown_as_escapes(self, events: Events) -> None:
        found = logged(events, b"a\xffb\nf\xc3\xbcr\n")
        assert [fields["line"] for fields in found] == [r"a\xffb", "für"]

    def test_a_line_without_an_end_is_a_line(self, events: Events) -> None:
        found = logged(events, b"one", b"two")
        assert [(f["stream"], f["line"]) for f in found] == [("stdout", "one"), ("stderr", "two")]

    def test_terminals_are_not_obeyed(self, events: Events) -> None:
        found = logged(events, b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x07end\n10%\r99%\r\n")
        assert [fields["line"] for fields in found] == [r"red \x07end", "99%"]

    def test_a_long_line_is_cut_and_marked(self, events: Events) -> None:
        first, second = logged(events, b"x" * 3000 + b"\n" + b"\0" * 99999)
        assert first["line"] == "x" * 1999 + "…"
        assert first["cut_of_bytes"] == 3000
        assert len(second["line"]) == 2000
        assert second["cut_of_bytes"] == 99999

    def test_a_thousand_lines_are_logged_and_the_rest_is_counted_once(self, events: Events) -> None:
        found = logged(events, b"x\n" * 2500 + b"tail", b"y\n" * 10)
        assert len(found) == 1000
        assert events("run.output_cut") == [{"logged": 1000, "more_lines": 1511}]

    def test_a_thousand_lines_are_all_logged(self, events: Events) -> None:
        assert len(logged(events, b"x\n" * 1000)) == 1000
        assert not events("run.output_cut")


class TestRecord:
    def test_a_short_output_is_kept_as_it_came(self) -> None:
        assert kept(b"one\na\xff\nb") == b"one\na\xff\nb"

    def test_of_much_output_the_end_is_kept_from_a_whole_line_on(self) -> None:
        everything = b"".join(b"%d\n" % n for n in range(1, 50001))
        found = kept(everything)
        first, *rest = found.decode().splitlines()
        assert 63 * 1024 < len(found) <= 64 * 1024
        assert rest == [str(n) for n in range(int(rest[0]), 50001)]
        assert first == f"[{len(everything) - len(found) + len(first) + 1} bytes came before]"

    @pytest.mark.parametrize("length", [16, 100])
    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_the_cut_of_the_record_shows_no_secret(self, length: int, end: bytes) -> None:
        secret = "0123456789abcdef".rjust(length, ".")
        secrets = Secrets({"API_KEY": secret})
        for extra in range(length):
            tail = Tail(1024)
            tail.add((secret.encode() + end) * 100 + b" " * extra)
            assert b"f" not in tail.value(secrets).partition(b"\n")[2]


class TestStream:
    """Secrets in a stream that comes in pieces."""

    SECRETS = Secrets({"API_KEY": "hunter22", "OTHER_KEY": "sw0rdfish"})

    @pytest.mark.parametrize("size", range(1, 12))
    def test_a_secret_that_is_cut_in_two_is_masked(self, size: int) -> None:
        data = b"a hunter22 b\nsw0rdfishhunter22\rhunter2 hunter22"
        stream, passed = StreamMask(self.SECRETS), b""
        for at in range(0, len(data), size):
            passed += stream.feed(data[at : at + size])
        assert passed + stream.finish() == b"a **** b\n********\rhunter2 ****"

    def test_a_whole_line_passes_at_once(self) -> None:
        stream = StreamMask(self.SECRETS)
        assert stream.feed(b"hunter\nhun") == b"hunter\n"
        assert StreamMask(NONE).feed(b"no end") == b"no end"


@pytest.mark.process
class TestCommand:
    """What a command prints, its runner prints, whatever worker it is."""

    def test_both_streams_pass_as_they_come(self, capfd: pytest.CaptureFixture[str]) -> None:
        run_command("echo one; printf 'no end'; echo two >&2")
        assert capfd.readouterr() == ("one\nno end", "two\n")

    def test_nobody_has_to_read_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise BrokenPipeError

        monkeypatch.setattr("os.write", refuse)
        assert failure("echo gone >&2; exit 1") == "exit code 1; last line: gone"

    def test_secrets_are_masked_in_it(
        self, connection: Any, caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("API_TOKEN", "hunter22")
        monkeypatch.setenv("DATABASE_URL", "postgres://me:sw0rdfish@db/app")
        line = (
            "env; echo token=hunter22; echo $GIVEN_KEY >&2; curl_it() { :; }; "
            "curl_it -H 'Authorization: Bearer open5esame'; exit 1"
        )
        job = ran(connection, command(line, env={"GIVEN_KEY": "xyzzy-xyzzy"}))
        out, err = capfd.readouterr()
        assert f"API_TOKEN={MASK}" in out
        trace = job.latest_result().exc_string
        for text in (out, err, caplog.text, trace, job.description):
            for secret in ("hunter22", "sw0rdfish", "xyzzy-xyzzy", "open5esame"):
                assert secret not in text

    def test_a_command_never_gets_the_secrets_of_rq_clock(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RQ_CLOCK_TOKENS", "a:admin:0123456789abcdef,b:read:fedcba9876543210")
        monkeypatch.setenv("RQ_CLOCK_PING_URL", "https://ping.example/ab12cd34")
        Path(".env").write_text("RQ_CLOCK_COOKIE_SECRET=from-a-file-0123\n")
        run_command("env | grep RQ_CLOCK; echo fedcba9876543210 from-a-file-0123")
        assert lines(capfd) == [f"{MASK} {MASK}"]

    def test_lines_of_both_streams_are_whole(self, capfd: pytest.CaptureFixture[str]) -> None:
        run_command("seq 1 50000")
        assert lines(capfd) == [str(n) for n in range(1, 50001)]
