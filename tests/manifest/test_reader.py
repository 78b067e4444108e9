"""YAML and JSON from outside: data, and never more than what stands there."""

from __future__ import annotations

import json

import pytest
import yaml

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest import reader as plain
from rq_clock.manifest.reader import DEEPEST, LONGEST, read


@pytest.fixture(params=["libyaml", "python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is installed with libyaml or without it."""
    if request.param == "python":
        monkeypatch.setattr(plain, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("either_parser")
class TestYaml:
    def test_only_json_scalars_are_no_texts(self) -> None:
        words = "on, off, yes, y, 12:30, 0123, 0x1f, 0b1, 1_000, 1e3, .5, +1, .inf, 2026-03-01, ="
        assert read(f"[{words}]").value == words.split(", ")
        assert read("[1, -2, 0, 1.5, -1.5e+20, true, False, null, ~, '1']").value == [
            1, -2, 0, 1.5, -1.5e20, True, False, None, None, "1",
        ]  # fmt: skip

    def test_keys_are_texts(self) -> None:
        assert read("on: 1\n7: 2\nnull: 3\n").value == {"on": 1, "7": 2, "null": 3}

    def test_lines_of_the_upper_keys_are_known(self) -> None:
        found = read("# a comment\na:\n  b: 1\n  c:\n    d: 2\n")
        assert found.lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 4}

    def test_a_repeated_key_is_reported_with_its_line_and_schedule(self) -> None:
        found = read("s:\n  job:\n    queue: a\n    queue: b\n  job: {}\n")
        assert [*map(str, found.twice)] == [
            "line 4: job: 'queue' comes twice",
            "line 5: 'job' comes twice",
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: &x 1\n", "line 1: expected no anchors and aliases, got &x"),
            ("a: 1\nb: *x\n", "line 2: expected no anchors and aliases, got *x"),
            ("&k a: 1\n", "line 1: expected no anchors and aliases, got &k"),
            ("a: !!python/object:os.system {}\n", "line 1: expected no tags"),
            ("!!set {a}\n", "line 1: expected no tags"),
            ("a: 1\n---\nb: 2\n", "expected one document"),
            ("? [a]\n: 1\n", "expected a word as a key"),
            ("a: [1\nb: 2\n", "expected YAML"),
            ("a: \x1b[31m\n", "expected YAML"),
            ("\n\na: b: c\n", "line 3: expected YAML"),
        ],
    )
    def test_anything_but_plain_data_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ScheduleError) as refusal:
            read(text)
        assert message in str(refusal.value)
        assert str(refusal.value).isprintable()

    def test_a_bomb_is_refused_before_it_grows(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
        with pytest.raises(ScheduleError, match="anchors"):
            read("\n".join(lines))

    @pytest.mark.parametrize("text", ["[" * 100_000, "- " * 1000 + "x", "- " + "{a: " * 100_000])
    def test_depth_has_a_bound(self, text: str) -> None:
        with pytest.raises(ScheduleError, match=f"line 1: expected at most {DEEPEST} levels"):
            read(text)

    def test_nothing_is_nothing(self) -> None:
        assert read("").value is None
        assert read("# only a comment\n").value is None


class TestJson:
    def test_it_begins_with_a_brace(self) -> None:
        assert read('\ufeff\n {"a": [1e3, "\\ud83d\\ude00"]}').value == {"a": [1000.0, "😀"]}

    def test_a_repeated_key_is_reported(self) -> None:
        assert read('{"a": {"b": 1, "b": 2}}').twice == [Fault("", "'b' comes twice")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a":\n1 2}', "line 2: expected JSON"),
            ('{"a": NaN}', "expected JSON, got NaN"),
            ('{"a": -Infinity}', "expected JSON, got -Infinity"),
            ('{"a": ' + "9" * 5000 + "}", "expected JSON"),
            ('{"a": ' * 100_000, f"expected at most {DEEPEST} levels"),
            ('{"a": ' * 80 + "1" + "}" * 80, f"expected at most {DEEPEST} levels"),
        ],
    )
    def test_invalid_json_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ScheduleError) as refusal:
            read(text)
        assert message in str(refusal.value)

    def test_as_deep_as_may_be_is_read(self) -> None:
        text = '{"a": ' * DEEPEST + "1" + "}" * DEEPEST
        assert read(text).value == json.loads(text)


def test_length_has_a_bound() -> None:
    with pytest.raises(ScheduleError, match="at most"):
        read("#" * (LONGEST + 1))
