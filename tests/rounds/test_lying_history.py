"""The lying aggregator over several sums from one model, and over cohorts of its choice (A6): found by proto/model."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import Train, Upload
from fedvlm_secure.rounds.cohorts import check_cohort
from fedvlm_secure.rounds.history import check_history
from fedvlm_secure.secagg.messages import Abort, Manifest, SurvivorSignature
from fedvlm_secure.secagg.survivors import RefusedSurvivors
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.support.liars import LyingAggregator, sent

KEY = "cohorts/population/model"


def signed(*sets: str, colluding: int = 0) -> bool:
    """Whether one node signs all of these sets from one model, in this order."""
    journal = MemoryJournal()
    try:
        for survivors in sets:
            names = tuple(NodeId(name) for name in survivors)
            journal.commit({"history": check_history(journal, "history", names, colluding)})
    except RefusedSurvivors:
        return False
    return True


def test_a6_three_sums_whose_combination_is_one_hospitals_update_are_not_all_signed() -> None:
    """abc + ade - abcde is a's update, although any two of the three differ by two hospitals on each side."""
    liar = LyingAggregator(5, cohort={"colluding": 0})
    liar.run_attempt(liar.plan(), "abc")
    plan = liar.plan(certificate=liar.close_void("abcde"))
    bundles = liar.collect(plan, "ade")
    refusal = liar.refuses_to_sign("a", liar.survivor_set(plan, bundles, "a"), "SURVIVORS_TOO_CLOSE")
    assert refusal.nodes == ("b", "c")
    others = [sent(liar.tell(name, liar.survivor_set(plan, bundles, name)), SurvivorSignature) for name in "de"]
    for name in "de":  # who was in no earlier set signs, but every quorum has somebody in it who was
        liar.refused(name, liar.request(plan, others), "NO_QUORUM")


def test_a6_sets_that_hold_each_other_open_one_after_the_other() -> None:
    liar = LyingAggregator(5, cohort={"colluding": 0})
    liar.run_attempt(liar.plan(), "abc")
    liar.run_attempt(liar.plan(certificate=liar.close_void("abcde")), "abcde")
    assert len({reveal.ctx for reveal in liar.reveals}) == 2


@pytest.mark.parametrize("colluding", [0, 1])
def test_a6_no_combination_of_signed_sets_shows_fewer_than_c_plus_2_hospitals(colluding: int) -> None:
    """Over all triples of sets of seven: whatever is signed spans nothing that lives on fewer than c + 2 hospitals."""
    nodes = "abcdefg"
    sets = ["".join(one) for size in range(4, 8) for one in combinations(nodes, size)]
    rng = np.random.default_rng(7)
    triples = [tuple(rng.choice(sets, 3, replace=False)) for _ in range(3_000)]
    together = [triple for triple in triples if signed(*triple, colluding=colluding)]
    chains = [("abcd", "abcdefg", "abcd"), ("abcd", "abcdefg", "abcdefg")]
    assert all(signed(*chain, colluding=colluding) for chain in chains)
    for triple in [*together, *chains]:
        rows = np.array([[node in one for node in nodes] for one in triple], dtype=float)
        layers = {tuple(column) for column in rows.T if column.any()}
        for layer in layers:
            assert sum(tuple(column) == layer for column in rows.T) >= colluding + 2


def manifest_of(liar: LyingAggregator, nodes: str, threshold: int, colluding: int) -> Manifest:
    names = tuple(NodeId(name) for name in nodes)
    return dataclasses.replace(liar.manifest, nodes=names, threshold=threshold, colluding=colluding)


def test_a6_second_cohort_whose_signers_need_not_know_the_first_is_refused() -> None:
    """c = 0: abce of the cohort abcef, signed by a, e, f, and abc of the cohort abcd, signed by b, c, d, show e."""
    liar, journal = LyingAggregator(4), MemoryJournal()
    journal.commit({KEY: check_cohort(journal, KEY, manifest_of(liar, "abcef", 3, 0))})
    with pytest.raises(PeerViolation) as refused:
        check_cohort(journal, KEY, manifest_of(liar, "abcd", 3, 0))
    assert refused.value.code == "COHORTS_APART"


@pytest.mark.parametrize(
    ("first", "second"),
    [(("abcd", 3, 1), ("abcd", 3, 1)), (("abcd", 3, 1), ("abcde", 4, 1)), (("abcdef", 4, 1), ("abcdefg", 5, 1))],
)
def test_cohort_that_keeps_enough_of_the_earlier_one_goes_on_from_the_same_model(
    first: tuple[str, int, int], second: tuple[str, int, int]
) -> None:
    liar, journal = LyingAggregator(4), MemoryJournal()
    journal.commit({KEY: check_cohort(journal, KEY, manifest_of(liar, *first))})
    check_cohort(journal, KEY, manifest_of(liar, *second))


def test_a6_hospital_trains_nothing_for_a_cohort_that_is_apart_from_an_earlier_one_of_its_update() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    own = liar.node("a").own
    stranger = manifest_of(liar, "awxyz", 4, 1)
    liar.collect(plan, "abcd")
    key = next(key for key in own.memory.journal.keys("cohorts/"))
    own.memory.journal.commit({key: check_cohort(MemoryJournal(), key, stranger)})
    liar.restart("a")
    actions = liar.tell("a", liar.plan(attempt=1))
    assert sent(actions, Abort).code == "COHORTS_APART"
    assert not any(isinstance(action, Train | Upload) for action in actions)
