"""Which mode a clock asks for the lease in, on a monotonic clock that the test moves. Pure."""

from __future__ import annotations

from rq_clock.clock.candidate import OWNERLESS_SECONDS, Candidate
from rq_clock.model.entry import Lease, LeaseRefused
from rq_clock.settings import Settings

HELD, FOREIGN, OWNERLESS = (LeaseRefused(kind) for kind in ("held", "foreign", "ownerless"))


class Requests:
    """The candidate and its clock."""

    def __init__(self, mode: str = "starting") -> None:
        self.now = 0.0
        self.candidate = Candidate(Settings.from_env({}), lambda: self.now, mode)

    def next(self, answer: Lease | LeaseRefused, after: float = 0.0) -> str:
        self.now += after
        self.candidate.answered(answer)
        return self.candidate.mode


def test_only_the_first_request_deposes() -> None:
    assert Requests().candidate.mode == "starting"
    assert Requests("take-over").candidate.mode == "take-over"
    assert Requests("take-over").next(Lease("1.x")) == "waiting"
    assert Requests().next(HELD) == "waiting"


def test_a_foreign_clock_waits_a_minute_where_nobody_owns_the_namespace() -> None:
    requests = Requests()
    assert requests.next(FOREIGN) == "foreign"
    assert requests.next(OWNERLESS, after=10) == "foreign"
    assert requests.next(OWNERLESS, after=OWNERLESS_SECONDS - 1) == "foreign"
    assert requests.next(OWNERLESS, after=1) == "waiting"


def test_an_owner_that_comes_back_begins_the_minute_anew() -> None:
    requests = Requests()
    requests.next(OWNERLESS)
    assert requests.next(FOREIGN, after=OWNERLESS_SECONDS) == "foreign"
    assert requests.next(OWNERLESS, after=10) == "foreign"
