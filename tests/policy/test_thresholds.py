"""How many must survive and sign, against the written rule and against what it is for."""

from __future__ import annotations

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.schema import CohortPolicy
from fedvlm_secure.policy.thresholds import CohortTerms, resolve

AUTO = CohortPolicy()


@pytest.mark.parametrize(
    ("nodes", "c", "t", "survivors", "lost_before", "lost_in_all"),
    # the first two rows stand in the protocol document (n=3: none before upload, one after; n=4: one)
    [(3, 0, 2, 3, 0, 1), (4, 1, 3, 3, 1, 1), (5, 1, 4, 4, 1, 1), (6, 1, 4, 4, 2, 2), (10, 1, 6, 6, 4, 4)],
)
def test_auto_terms_are_those_of_the_protocol(
    nodes: int, c: int, t: int, survivors: int, lost_before: int, lost_in_all: int
) -> None:
    terms = resolve(AUTO, nodes)
    assert terms == CohortTerms(nodes, c, t, survivors)
    assert (terms.losses_before_survivors, terms.losses_by_reveal) == (lost_before, lost_in_all)


@pytest.mark.parametrize("nodes", range(3, 41))
@pytest.mark.parametrize("colluding", [0, 1, 2, 3])
def test_two_survivor_sets_can_never_both_gather_a_quorum(nodes: int, colluding: int) -> None:
    if max((nodes + colluding) // 2 + 1, colluding + 2, 3) > nodes:
        with pytest.raises(PolicyError, match="cannot leave"):
            resolve(CohortPolicy(colluding=colluding), nodes)
        return
    terms = resolve(CohortPolicy(colluding=colluding), nodes)
    assert 2 * (terms.t - terms.c) > terms.n - terms.c  # honest signers of two sets would overlap
    assert terms.min_survivors - terms.c >= 2  # an opened sum holds two honest inputs at least
    assert terms.t <= terms.min_survivors <= terms.n


@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_two_hospitals_are_refused_since_each_would_learn_the_others_update(nodes: int) -> None:
    with pytest.raises(PolicyError) as caught:
        resolve(CohortPolicy(min_nodes=1), nodes)
    assert caught.value.code == "COHORT_TOO_SMALL"


def test_a_roster_below_the_policys_cohort_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"the roster has 4 hospitals, cohort\.min_nodes is 5"):
        resolve(CohortPolicy(min_nodes=5), 4)


def test_a_policy_can_only_raise_min_survivors() -> None:
    assert resolve(CohortPolicy(min_survivors=1), 6).min_survivors == 4
    assert resolve(CohortPolicy(min_survivors=6), 6).min_survivors == 6
    with pytest.raises(PolicyError):
        resolve(CohortPolicy(min_survivors=7), 6)


def test_no_tolerated_colluder_is_said_aloud() -> None:
    assert "breaks this" in resolve(AUTO, 3).warning
    assert "breaks this" in resolve(CohortPolicy(colluding=0), 9).warning
    assert resolve(AUTO, 4).warning == ""
