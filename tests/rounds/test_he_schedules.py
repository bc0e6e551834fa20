"""Random schedules in homomorphic mode: whatever dies, no promise breaks and every run comes to an end."""

from __future__ import annotations

import pytest

from tests.support.schedules import run_schedule

BATCH = 12


@pytest.mark.parametrize(("scheme", "first"), [("bfv", 0), ("bfv", BATCH), ("ckks", 2 * BATCH)])
def test_random_schedule_keeps_every_promise_and_ends(scheme: str, first: int) -> None:
    outcomes = [run_schedule(seed, scheme) for seed in range(first, first + BATCH)]
    assert len([outcome for outcome in outcomes if outcome.end == "finished"]) >= BATCH // 2
    assert sum(outcome.crashes for outcome in outcomes) > BATCH // 2
