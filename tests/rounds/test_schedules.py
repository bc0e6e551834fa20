"""Random schedules: whatever dies and whatever the network does, no promise breaks and every run comes to an end."""

from __future__ import annotations

import os

import pytest

from tests.support.schedules import run_schedule

SCHEDULES = int(os.environ.get("FEDVLM_SCHEDULES", "200"))
"""`make schedules` runs 5,000."""

BATCH = 20


@pytest.mark.parametrize("first", range(0, SCHEDULES, BATCH))
def test_random_schedule_keeps_every_promise_and_ends(first: int) -> None:
    outcomes = [run_schedule(seed) for seed in range(first, min(first + BATCH, SCHEDULES))]
    finished = [outcome for outcome in outcomes if outcome.end == "finished"]
    assert len(finished) >= len(outcomes) // 2  # the storms are meant to be survived, not to end most runs
    assert sum(outcome.crashes for outcome in outcomes) > len(outcomes)
