"""Who is let in, what an operator is told who is not, and what happens when too few are left."""

from __future__ import annotations

import dataclasses

import pytest

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.rounds.actions import ToNode
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.secagg.messages import Abort, Hello
from fedvlm_secure.types import Digest, NodeId
from tests.support.cohort import Cohort, layout_of, numeric_policy

A, B, C, D, E = (NodeId(name) for name in "abcde")


def answer_to(cohort: Cohort, **changes: object) -> Abort:
    """What the aggregator tells node a when its Hello differs in these fields."""
    own = cohort.federation.nodes[A].own
    told = own.hello()
    fields = {f.name: getattr(told, f.name) for f in dataclasses.fields(told) if f.name != "signature"}
    hello = own.signer.sign(Hello, **{**fields, **changes})
    outbox = cohort.federation.aggregator.receive(A, hello, cohort.federation.now_s)
    assert [type(entry) for entry in outbox] == [ToNode]
    message = outbox[0].message
    assert isinstance(message, Abort)
    return message


def test_node_that_approved_another_policy_is_told_both_hashes() -> None:
    other = numeric_policy(rounds=9)  # type: ignore[arg-type]
    told = answer_to(Cohort(3), policy_hash=policy_hash(other))
    assert told.code == "POLICY_MISMATCH"
    assert policy_hash(other).hex()[:16] in told.cause


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("base_fingerprint", Digest(bytes(32)), "BASE_FINGERPRINT"), ("version", "9.9.9", "VERSION_MISMATCH")],
)
def test_node_with_another_base_or_version_is_refused(field: str, value: object, code: str) -> None:
    assert answer_to(Cohort(3), **{field: value}).code == code


def test_node_that_lost_its_state_in_a_running_epoch_is_refused() -> None:
    cohort = Cohort(4)
    cohort.run(until=Phase.UPLOAD)
    assert answer_to(cohort, run_hash=b"", epoch=-1).code == "STATE_LOST"


def test_hospitals_that_built_different_tensors_end_the_run_before_it_begins() -> None:
    cohort = Cohort(3)
    cohort.federation.nodes[B].own = dataclasses.replace(cohort.federation.nodes[B].own, layout=layout_of(99))
    cohort.federation.drop(B)
    cohort.federation.connect(B)
    with pytest.raises(RunAborted, match="different trainable tensors"):
        cohort.run()


def test_member_that_stays_away_during_set_up_ends_it_by_name() -> None:
    cohort = Cohort(3)
    cohort.run(until=Phase.KEYS)
    cohort.federation.drop(C)
    with pytest.raises(RunAborted, match="c did not complete the set-up"):
        cohort.run()


def test_member_that_is_there_but_refuses_the_manifest_ends_the_set_up_by_name() -> None:
    cohort = Cohort(3)
    cohort.run(until=Phase.KEYS)
    own = dataclasses.replace(cohort.federation.nodes[B].own, min_nodes=7)
    cohort.federation.nodes[B].own = own
    cohort.federation.drop(B)
    cohort.federation.connect(B)
    with pytest.raises(RunAborted, match="b did not complete the set-up"):
        cohort.run()


def test_roster_member_that_never_comes_is_left_out_after_the_set_up_deadline() -> None:
    cohort = Cohort(4, cohort={"setup_deadline": 60})
    cohort.federation.drop(D)
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == ["a", "b", "c"]
    assert cohort.federation.now_s >= 60


def test_two_lost_after_the_survivors_are_fixed_come_back_and_the_same_set_is_summed() -> None:
    cohort = Cohort(5)
    cohort.run(until=Phase.SIGN)
    for node in (D, E):
        cohort.federation.drop(node)
    cohort.run(until=lambda f: f.aggregator_self.memory.plan.attempt == 1)
    for node in (D, E):
        cohort.federation.connect(node)
    cohort.run()
    summary = cohort.summaries()[0]
    assert (summary["void"], summary["survivors"]) == (False, list("abcde"))


def test_set_that_differs_by_one_hospital_is_never_summed_instead() -> None:
    cohort = Cohort(5)
    cohort.run(until=Phase.SIGN)
    for node in (D, E):
        cohort.federation.drop(node)
    cohort.run(until=lambda f: f.aggregator_self.memory.plan.attempt == 1)
    cohort.federation.connect(D)  # four are there: enough for a sum, but it would differ from a signed one by e
    with pytest.raises(RunAborted, match="misses e"):
        cohort.run()
    assert cohort.summaries() == []


def test_round_that_too_few_can_reveal_is_closed_void_and_the_run_goes_on_with_its_model() -> None:
    cohort = Cohort(5, rounds=2)
    cohort.run(until=Phase.REVEAL)
    before = cohort.federation.state.digest
    for node in (C, D, E):
        cohort.federation.drop(node)
    cohort.run(until=Phase.VOID)
    for node in (C, D, E):
        cohort.federation.connect(node)
    cohort.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1)
    assert cohort.federation.state.digest == before
    cohort.run()
    assert [summary["void"] for summary in cohort.summaries()] == [True, False]
    assert cohort.federation.state.digest != before


def test_result_that_too_few_acknowledge_ends_the_run_with_the_last_certified_model() -> None:
    cohort = Cohort(3)
    cohort.run(until=Phase.CERTIFY)
    for node in (A, B):
        cohort.federation.drop(node)
    with pytest.raises(RunAborted, match="too few hospitals acknowledged"):
        cohort.run()
