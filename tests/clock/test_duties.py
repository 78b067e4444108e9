"""The turns of the leader's duties. Pure."""

from __future__ import annotations

from rq_clock.clock.duties import Duty, next_duty


def test_a_backlog_of_one_starves_no_other() -> None:
    pauses = {"backlog": 0.0, "announced": 0.0, "alerts": 5.0, "reaper": 4.0}
    duties = [Duty(name, lambda *_: 0.0) for name in pauses]
    done: dict[str, list[float]] = {name: [] for name in pauses}
    now = 0.0
    while now < 60:
        now += 0.3  # each takes its time
        duty = next_duty(duties, now)
        assert duty is not None
        done[duty.name].append(now)
        duty.done_at, duty.next_at = now, now + pauses[duty.name]
    assert len(done["backlog"]) > 60
    for name, pause in pauses.items():
        late = [b - a - pause for a, b in zip(done[name], done[name][1:], strict=False)]
        assert max(late) < 5 * 0.3


def test_nothing_is_done_before_it_is_due() -> None:
    assert next_duty([Duty("reaper", lambda *_: 0.0, next_at=5.0)], 4.9) is None
