"""Redis's time as a process reckons it, on clocks that the test moves. Seconds throughout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rq_clock.store.server_time import DOUBT_SECONDS, STEP, ServerTime

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Machines:
    """A host and a server. Both are right at first; `live` lets time pass on both."""

    def __init__(self) -> None:
        self.monotonic = 5000.0
        self.host = self.server = NOON.timestamp()
        self.time = ServerTime(lambda: self.monotonic, lambda: self.host)

    def live(self, seconds: float) -> None:
        self.monotonic += seconds
        self.host += seconds
        self.server += seconds

    def measure(self, there: float = 0.0, back: float = 0.0) -> None:
        """Measure with a request and a reply that take so long."""
        sent = self.monotonic
        self.live(there)
        micros = round(self.server * 1_000_000)
        self.live(back)
        self.time.sample(sent, micros)

    @property
    def error(self) -> float:
        """How far off the reckoning is now, in seconds."""
        return self.time.now().timestamp() - self.server


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.mark.parametrize("skew", [-31_536_000, -3600, -0.005, 0.005, 3600, 31_536_000])
def test_a_wrong_host_does_not_matter_and_is_known(machines: Machines, skew: float) -> None:
    machines.host += skew
    machines.measure(0.0001, 0.0001)
    machines.live(2)
    assert machines.time.now() - NOON == timedelta(seconds=2.0002)
    assert machines.time.skew == pytest.approx(skew, abs=1e-4)


def test_a_skew_within_the_error_of_the_measurement_is_none(machines: Machines) -> None:
    machines.host += 0.1
    machines.measure(0.3, 0.1)
    assert machines.time.skew == 0


def test_the_sample_with_the_least_error_counts_until_it_is_old(machines: Machines) -> None:
    machines.measure(0.001, 0.001)
    for _ in range(13):
        machines.live(4)
        machines.measure(0.25, 0.05)
        assert abs(machines.error) < 0.001
    machines.live(4)
    machines.measure(0.25, 0.05)  # the good one is more than a minute old
    assert machines.error == pytest.approx(0.1)


def test_a_sample_that_contradicts_replaces_a_better_one(machines: Machines) -> None:
    machines.measure(0.0001, 0.0001)
    machines.server += 2
    machines.measure(0.1, 0.1)
    assert abs(machines.error) < 0.001


def test_a_step_ahead_that_the_host_does_not_see_is_doubted_for_ten_minutes(
    machines: Machines,
) -> None:
    machines.measure()
    machines.server += 3600
    machines.measure()
    assert machines.time.ahead == pytest.approx(3600)
    assert machines.error == pytest.approx(-3600)  # it goes on as before
    machines.live(DOUBT_SECONDS - 1)
    machines.measure()
    assert machines.time.ahead
    machines.live(1)
    machines.measure()
    assert not machines.time.ahead
    assert machines.error == pytest.approx(0, abs=1e-5)


def test_a_step_ahead_that_is_taken_back_leaves_nothing(machines: Machines) -> None:
    machines.measure()
    machines.server += 3600
    machines.measure()
    machines.live(30)
    machines.server -= 3600
    machines.measure()
    assert not machines.time.ahead
    assert not machines.time.take_step_back()
    assert machines.error == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("known", ["the host was suspended", "the server was corrected"])
def test_a_step_ahead_that_the_host_confirms_is_accepted(machines: Machines, known: str) -> None:
    if known == "the server was corrected":
        machines.server -= 3600
    machines.measure()
    machines.server += 3600
    if known == "the host was suspended":
        machines.host += 3600
    machines.measure()
    assert not machines.time.ahead
    assert machines.error == pytest.approx(0, abs=1e-5)


def test_a_small_step_ahead_is_accepted(machines: Machines) -> None:
    machines.measure()
    machines.server += STEP - 1
    machines.measure()
    assert not machines.time.ahead
    assert machines.error == pytest.approx(0, abs=1e-5)


def test_a_step_back_is_reported_once(machines: Machines) -> None:
    machines.measure(0.1, 0.1)
    machines.server -= 90
    machines.measure(0.1, 0.1)
    assert machines.error == pytest.approx(0, abs=1e-5)
    assert machines.time.take_step_back() == pytest.approx(90)
    assert machines.time.take_step_back() == 0


def test_the_noise_of_slow_round_trips_is_no_step(machines: Machines) -> None:
    machines.measure(0.5, 0)
    machines.measure(0, 0.5)
    machines.measure(0.5, 0)
    assert not machines.time.take_step_back()
    assert not machines.time.ahead
