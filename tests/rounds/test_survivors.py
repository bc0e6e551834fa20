"""Who may be lost, when, and for how long (document 7's group on survivors), by virtual clock."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlm_secure.errors import FedvlmError, RunAborted
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.network import RoughNetwork, Weather
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort
from tests.support.witness import Witness, sums_are_exact

GRID = 4096 / 100 * 2.0**-15
DAY_S = 24 * 3600.0


def survivors(cohort: Cohort) -> list[str]:
    return ["".join(summary["survivors"]) for summary in cohort.summaries()]  # type: ignore[arg-type]


def test_two_hospitals_are_refused_before_anything_starts() -> None:
    cohort = Cohort(2)
    with pytest.raises(FedvlmError) as refused:
        cohort.run()
    assert refused.value.code == "COHORT_TOO_SMALL"
    assert all(not work.updates for work in cohort.works.values())


@pytest.mark.parametrize(("n", "lost"), [(7, 2), (9, 3), (12, 5)])
def test_as_many_as_may_be_lost_before_the_upload_are_and_the_sum_is_exact(n: int, lost: int) -> None:
    """c = 1: t = (n + 1) // 2 + 1 = min_survivors, so n - t may be missing, and then nobody more."""
    cohort = Cohort(n)
    cohort.run(until=Phase.UPLOAD)
    names = list(cohort.works)
    for name in names[:lost]:
        cohort.federation.drop(name)
    assert n - lost == cohort.federation.aggregator_self.memory.manifest.min_survivors
    cohort.run()
    assert survivors(cohort) == ["".join(names[lost:])]
    sums_are_exact(cohort.federation, {0: cohort.updates_of(0)}, GRID)


@pytest.mark.parametrize(("n", "lost"), [(7, 3), (9, 4), (12, 6)])
def test_one_more_lost_before_the_upload_ends_the_run_without_a_sum(n: int, lost: int) -> None:
    cohort = Cohort(n)
    cohort.run(until=Phase.UPLOAD)
    for name in list(cohort.works)[:lost]:
        cohort.federation.drop(name)
    with pytest.raises(RunAborted) as ended:
        cohort.run()
    assert ended.value.code == "COHORT_TOO_SMALL"
    assert not cohort.federation.state.model.any()


def test_three_hospitals_with_one_lost_after_its_upload_recover_its_masks() -> None:
    cohort = Cohort(3)
    cohort.run(until=lambda f: len(f.aggregator_self.memory.uploaded) == 3)
    cohort.federation.drop(NodeId("b"))
    cohort.run()
    assert survivors(cohort) == ["abc"]
    sums_are_exact(cohort.federation, {0: cohort.updates_of(0)}, GRID)


def test_hospital_back_after_three_missed_rounds_has_the_others_state_and_is_in_the_next_sum() -> None:
    cohort = Cohort(5, rounds=5)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("c"))
    cohort.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 3 and f.aggregator.phase is Phase.UPLOAD)
    cohort.federation.connect(NodeId("c"))
    cohort.run()
    assert survivors(cohort)[:3] == ["abde"] * 3
    assert survivors(cohort)[4] == "abcde"
    assert cohort.federation.nodes[NodeId("c")].own.memory.state.digest == cohort.federation.state.digest


def test_everybody_away_for_a_day_ends_cleanly_and_the_last_model_is_kept() -> None:
    cohort = Cohort(4, rounds=3, cohort={"deadline": 3600})
    cohort.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1 and f.aggregator.phase is Phase.UPLOAD)
    kept = cohort.federation.state.digest
    for name in cohort.works:
        cohort.federation.drop(name)
    gone_s = cohort.federation.now_s
    cohort.run(until=lambda f: f.aggregator.finished or f.now_s > gone_s + DAY_S)
    assert cohort.federation.aggregator.error is not None
    assert cohort.federation.aggregator.error.code == "COHORT_TOO_SMALL"
    assert cohort.federation.state.digest == kept


def test_everybody_away_for_a_day_comes_back_within_the_policys_patience_and_the_round_goes_on() -> None:
    cohort = Cohort(4, rounds=2, cohort={"deadline": int(2 * DAY_S)})
    cohort.run(until=lambda f: len(f.aggregator_self.memory.uploaded) == 2)
    for name in cohort.works:
        cohort.federation.drop(name)
    cohort.federation.run(lambda f: f.now_s > DAY_S)
    for name in cohort.works:
        cohort.federation.connect(name)
    cohort.run()
    assert survivors(cohort) == ["abcd", "abcd"]
    assert all(len(work.updates) == 2 for work in cohort.works.values())  # nobody trained a round twice


def test_flapping_hospital_breaks_nothing_in_a_hundred_rounds() -> None:
    witness = Witness()
    cohort = Cohort(5, rounds=100, tap=witness.tap, cohort={"epoch_rounds": 200})
    witness.watch(cohort.federation)
    rng = np.random.default_rng(5)
    victim, federation = NodeId("e"), cohort.federation
    while not federation.aggregator.finished:
        steps = int(rng.integers(1, 60))
        for _ in range(steps):
            if not federation.step():
                federation.run(lambda f, at=federation.now_s: f.now_s > at or f.over)  # type: ignore[misc]
        if federation.aggregator.finished:
            break
        if federation.nodes[victim].online:
            federation.drop(victim)
        else:
            federation.connect(victim)
    if not federation.nodes[victim].online:
        federation.connect(victim)
    cohort.run()
    witness.check_end(federation)
    assert len(cohort.summaries()) == 100
    counted = [set(names) for names in survivors(cohort)]
    assert any("e" in names for names in counted) and any("e" not in names for names in counted)
    sums_are_exact(federation, {number: cohort.updates_of(number) for number in range(100)}, GRID)


@pytest.mark.parametrize("n", [40, pytest.param(100, marks=pytest.mark.soak)])
def test_many_hospitals_through_rough_weather_agree_on_one_model(n: int) -> None:
    witness = Witness()
    network = RoughNetwork(np.random.default_rng(3), Weather(cut=0.002, delay_s=0.05))
    cohort = Cohort(n, rounds=1, dimension=12, tap=witness.tap, network=network)
    witness.watch(cohort.federation)
    cohort.run()
    witness.check_end(cohort.federation)
    assert len(cohort.summaries()[0]["survivors"]) > n // 2  # type: ignore[arg-type]
    sums_are_exact(cohort.federation, {0: cohort.updates_of(0)}, GRID * 64)  # two lanes' grid is coarser
