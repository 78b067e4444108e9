"""Ids of tasks: they sort by creation, also within a millisecond, and no two are the same."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from rq_clock.callbacks.ids import Ids, made_at
from rq_clock.model.task import key_of_id

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_ids_grow_within_a_millisecond_and_when_the_time_goes_back() -> None:
    ids = Ids()
    made = [ids.next(NOW) for _ in range(1000)]
    made += [ids.next(NOW - timedelta(seconds=5)), ids.next(NOW + timedelta(milliseconds=1))]
    assert made == sorted(set(made))
    assert all(map(key_of_id, made))


def test_an_id_begins_with_its_instant() -> None:
    assert made_at(Ids().next(NOW + timedelta(milliseconds=7))) == NOW + timedelta(milliseconds=7)
    assert Ids().next(datetime(1970, 1, 1, tzinfo=UTC)).startswith("task_0000000000")
    assert Ids().next(NOW)[5:15] < Ids().next(NOW + timedelta(milliseconds=1))[5:15]


@pytest.mark.process
def test_a_forked_process_makes_other_ids() -> None:
    ids = Ids()
    ids.next(NOW)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, ids.next(NOW).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != ids.next(NOW)
    os.close(read)
    os.close(write)
