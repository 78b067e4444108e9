"""What a wrong name may have meant."""

from __future__ import annotations

from time import process_time

import pytest

from rq_clock.similar import similar


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("nightly-reprot", "nightly-report"),
        ("qeueu", "queue"),
        ("catchup", "catch_up"),
        ("zzz", ""),
    ],
)
def test_the_most_similar_name_is_found(word: str, found: str) -> None:
    assert similar(word, ["nightly-report", "queue", "catch_up", "nightly-rep", "args"]) == found


def test_many_names_and_long_words_take_no_time() -> None:
    names = [f"schedule-of-customer-{n:05}-{'x' * 70}" for n in range(10_000)]
    began = process_time()
    assert similar(names[77].replace("customer", "custmoer"), names).startswith("schedule-of")
    assert similar("x" * 1_000_000, names) == ""
    assert process_time() - began < 2
