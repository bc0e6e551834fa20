"""Whole runs of the two machines in one process."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort

GRID = 2.0**-15  # two grid steps of the three-lane format at max_update 0.25


@pytest.mark.parametrize("n", [3, 4, 7])
def test_model_after_a_round_is_the_mean_of_all_updates(n: int) -> None:
    cohort = Cohort(n, rounds=1)
    cohort.run()
    expected = cohort.mean_update(0, over=list(cohort.works))
    # A counted weight of 100/4096 leaves an update that much fewer grid steps.
    assert np.abs(cohort.federation.state.model - expected).max() < GRID * 4096 / 100


def test_every_node_ends_at_the_aggregators_state_and_has_evaluated_every_round() -> None:
    cohort = Cohort(4, rounds=3)
    cohort.run()
    digests = {simulated.own.memory.state.digest for simulated in cohort.federation.nodes.values()}
    assert digests == {cohort.federation.state.digest}
    for work in cohort.works.values():
        assert work.evaluated == [(0, False), (1, False), (2, False), (3, True)]
    assert all(not simulated.violations for simulated in cohort.federation.nodes.values())


def test_masked_and_unprotected_runs_give_the_same_sum_bit_for_bit() -> None:
    masked = Cohort(5, rounds=3, seed=7)
    bare = Cohort(5, rounds=3, seed=7, protection={"method": "none"}, unsafe_no_protection=True)  # type: ignore[arg-type]
    masked.run()
    bare.run()
    assert masked.federation.state.digest == bare.federation.state.digest


def test_node_lost_before_its_upload_is_left_out_exactly() -> None:
    cohort = Cohort(4, rounds=1)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("b"))
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == ["a", "c", "d"]
    expected = cohort.mean_update(0, over=["a", "c", "d"])
    assert np.abs(cohort.federation.state.model - expected).max() < GRID * 4096 / 100


def test_node_lost_after_its_upload_is_in_the_sum() -> None:
    cohort = Cohort(4, rounds=1)
    cohort.run(until=lambda f: NodeId("b") in f.aggregator_self.memory.bundles)
    cohort.federation.drop(NodeId("b"))
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == ["a", "b", "c", "d"]


def test_node_lost_for_a_round_catches_up_and_takes_part_again() -> None:
    cohort = Cohort(4, rounds=3)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("d"))
    cohort.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1)
    cohort.federation.connect(NodeId("d"))
    cohort.run()
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abc"), list("abcd"), list("abcd")]
    assert cohort.federation.nodes[NodeId("d")].own.memory.state.digest == cohort.federation.state.digest


def test_three_hospitals_with_one_lost_before_upload_wait_and_then_end_cleanly() -> None:
    cohort = Cohort(3, rounds=2)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("a"))
    with pytest.raises(RunAborted, match="misses a"):
        cohort.run()
    assert cohort.phase is Phase.ABORTED


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.AGREE, Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.CERTIFY])
def test_aggregator_restarted_in_any_phase_goes_on(phase: Phase) -> None:
    cohort = Cohort(4, rounds=2)
    cohort.run(until=phase)
    cohort.federation.restart_aggregator()
    cohort.run()
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")] * 2


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.AGREE, Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.CERTIFY])
def test_node_restarted_in_any_phase_goes_on(phase: Phase) -> None:
    cohort = Cohort(4, rounds=2)
    cohort.run(until=phase)
    cohort.federation.drop(NodeId("c"))
    cohort.federation.connect(NodeId("c"))
    cohort.run()
    assert cohort.federation.nodes[NodeId("c")].own.memory.state.digest == cohort.federation.state.digest
    assert cohort.summaries()[1]["survivors"] == list("abcd")


def test_epochs_change_keys_between_rounds() -> None:
    cohort = Cohort(4, rounds=5, cohort={"epoch_rounds": 2})
    cohort.run()
    opened = cohort.federation.aggregator_self.memory.opened
    assert opened is not None and (opened.epoch, opened.first_round) == (2, 4)
    assert len(cohort.summaries()) == 5


def test_secrets_of_a_round_are_gone_after_its_reveal() -> None:
    cohort = Cohort(4, rounds=2)
    cohort.run(until=lambda f: f.aggregator.phase is Phase.CERTIFY)
    for simulated in cohort.federation.nodes.values():
        memory = simulated.own.memory
        if memory.revealed is not None:
            assert memory.roots_for(0) is None
            assert memory.seeds is None and memory.integers is None and memory.opened is None and memory.upload is None
