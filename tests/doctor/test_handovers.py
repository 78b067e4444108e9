"""The history of handovers that lua/acquire.lua keeps, and the doctor reads."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rq_clock.model.entry import Lease, LeaseRefused
from tests.doctor.namespace import OWNER, Namespace

pytestmark = pytest.mark.integration


class TestHandovers:
    """The history that lua/acquire.lua keeps."""

    def test_each_grant_is_recorded_with_its_predecessor_and_its_kind(
        self, bare: Namespace
    ) -> None:
        lease = bare.lead("clock.1")
        assert bare.lead("clock.1") == lease  # acquired again: no handover
        bare.leases.renew(lease, proven=1)
        assert isinstance(bare.leases.acquire("clock.2", OWNER, "waiting", bare.now), LeaseRefused)
        bare.lead("clock.2")
        laptop = bare.leases.acquire("laptop.1", ("laptop", ""), "take-over", bare.now)
        assert isinstance(laptop, Lease)
        bare.leases.release(laptop)
        bare.lead("clock.3", "take-over")
        handovers = [
            (h.instance, h.owner, h.token, h.how, h.before) for h in bare.leases.handovers(10)
        ]
        assert handovers == [
            ("clock.3", "local", 4, "taken-over", ""),
            ("laptop.1", "laptop", 3, "taken-over", "clock.2"),
            ("clock.2", "local", 2, "deposed", "clock.1"),
            ("clock.1", "local", 1, "free", ""),
        ]
        assert abs(bare.leases.handovers(1)[0].at - bare.now) < timedelta(minutes=1)

    def test_the_history_is_bounded(self, bare: Namespace) -> None:
        for number in range(300):
            bare.leases.release(bare.lead(f"clock.{number}"))
        assert 100 <= len(bare.leases.handovers(1000)) <= 200
        assert [h.token for h in bare.leases.handovers(2)] == [300, 299]

    def test_a_history_that_cannot_be_written_costs_nobody_the_lease(self, bare: Namespace) -> None:
        bare.redis.set(bare.key("handovers"), "not a stream")
        bare.lead()
        assert bare.leases.leader()["instance"] == "clock.1"
