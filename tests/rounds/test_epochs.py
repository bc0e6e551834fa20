"""A run whose members change: joins, leaves, renewed identities, lost state, versions. All go on from one state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.errors import RunAborted, UnexpectedMessage
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.secagg.messages import Abort, OpenEpoch, Refusal, Reveal, SurvivorSignature
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.types import NodeId
from tests.support.entropy import secret
from tests.support.epochs import ChangingRun


def survivors(run: ChangingRun) -> list[str]:
    return ["".join(summary["survivors"]) for summary in run.cohort.summaries()]  # type: ignore[arg-type]


def test_hospital_that_joins_takes_part_from_the_state_that_the_others_reached() -> None:
    run = ChangingRun("abcde", "abcd")
    run.run_to(2)
    state = run.federation.state
    run.change("abcde")
    run.run(Phase.UPLOAD)
    run.run(lambda federation: run.node("e").own.memory.epoch_ready)
    assert run.node("e").own.memory.state.digest == state.digest
    run.run()
    assert survivors(run) == ["abcd", "abcd", "abcde", "abcde"]
    assert run.agreed("abcde")
    assert run.node("e").work.evaluated[0] == (2, False)  # type: ignore[attr-defined]


def test_sum_after_a_join_is_that_of_the_new_members() -> None:
    run = ChangingRun("abcde", "abcd", rounds=2)
    run.run_to(1)
    before = run.federation.state.model.copy()
    run.change("abcde")
    run.run()
    step = run.federation.state.model - before
    latest = [run.cohort.works[NodeId(name)].updates[-1].astype(np.float64) for name in "abcde"]
    assert np.allclose(step, np.mean(latest, axis=0), atol=1e-3)


def test_hospital_that_leaves_is_in_no_later_sum_and_the_run_goes_on() -> None:
    run = ChangingRun("abcde", "abcde")
    run.run_to(2)
    run.change("abcd")
    run.run()
    assert survivors(run) == ["abcde", "abcde", "abcd", "abcd"]
    assert run.agreed("abcd")
    assert len(run.cohort.works[NodeId("e")].updates) <= 3  # the third was asked for before the change, and dropped


def test_hospital_that_left_comes_back_and_takes_the_later_state_over() -> None:
    run = ChangingRun("abcde", "abcde", rounds=6)
    run.run_to(2)
    run.change("abcd")
    run.run_to(4)
    run.change("abcde")
    run.run()
    assert survivors(run)[4:] == ["abcde", "abcde"]
    assert run.agreed("abcde")


def test_renewed_identity_takes_part_once_every_roster_names_it() -> None:
    run = ChangingRun("abcd", "abcd", rounds=3)
    run.run_to(1)
    run.renew("b", renewed_signer())
    run.change("abcd")
    run.run()
    assert survivors(run) == ["abcd"] * 3
    assert run.agreed("abcd")


def uploads_of(names: str) -> Callable[[Federation], bool]:
    """The second round is open and these hospitals' uploads are held."""

    def held(federation: Federation) -> bool:
        memory = federation.aggregator_self.memory
        return memory.phase is Phase.UPLOAD and memory.plan.round == 1 and set(memory.uploaded) >= set(names)

    return held


def renewed_signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(secret("renewed").reveal()))


def test_round_under_way_is_closed_without_the_word_of_who_renewed_its_identity_meanwhile() -> None:
    said: list[NodeId] = []
    run = ChangingRun("abcde", "abcde", rounds=3)
    run.run(uploads_of("ab"))

    def note(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, SurvivorSignature) and run.closed == 1:
            said.append(node)
        return True

    run.renew("b", renewed_signer())
    run.federation._tap = note
    run.change("abcde")
    run.run()
    assert survivors(run) == ["abcde"] * 3
    assert run.agreed("abcde")
    assert sorted(said) == ["a", "c", "d", "e"]


def test_round_that_too_few_identities_can_close_does_not_keep_everybody_waiting() -> None:
    """One has left, one has renewed: the two others are below the threshold of the epoch that they are in."""
    run = ChangingRun("abcd", "abcd", rounds=3)
    run.run(uploads_of("bc"))
    run.renew("b", renewed_signer())
    run.change("bcd")
    with pytest.raises(RunAborted) as caught:
        run.run()
    assert caught.value.code == "COHORT_TOO_SMALL"
    assert survivors(run) == ["abcd"]


def test_hospital_with_a_renewed_identity_signs_nothing_in_the_epoch_of_the_old_one() -> None:
    run = ChangingRun("abcde", "abcde", rounds=3)
    run.run(uploads_of("b"))
    plan = run.federation.aggregator_self.memory.plan
    run.renew("b", renewed_signer())
    with pytest.raises(UnexpectedMessage, match="renewed"):
        NodeRun(run.node("b").own).receive(plan)


def test_node_whose_roster_names_the_old_identity_refuses_and_nobody_goes_on_without_it() -> None:
    run = ChangingRun("abcd", "abcd", rounds=3)
    run.run_to(1)
    old = run.node("a").own.identities
    run.renew("b", renewed_signer())
    run.restart_with("abcd")
    run.federation.aggregator.new_epoch()
    run.approve("abcd")
    run.node("a").own = dataclasses.replace(run.node("a").own, identities=old)
    run.connect("abcd")
    run.run(lambda federation: bool(run.node("a").violations))
    refused = run.node("a").violations[-1]
    assert (refused.code, "pin the new roster" in refused.hint) == ("BAD_SIGNATURE", True)
    run.run(Phase.GATHER)
    assert run.closed == 1


def test_node_that_lost_its_state_comes_back_with_the_next_epoch_only() -> None:
    run = ChangingRun("abcd", "abcd", rounds=4)
    run.run_to(2)
    run.federation.drop(NodeId("d"))
    run.forget("d")
    told: list[Abort] = []
    run.federation._tap = lambda way, node, message: not isinstance(message, Abort) or not told.append(message)  # type: ignore[func-returns-value]
    run.connect("d")
    run.run(lambda federation: bool(told))
    assert told[0].code == "STATE_LOST"
    run.change("abcd")
    run.run()
    assert survivors(run)[-1] == "abcd"
    assert run.agreed("abcd")


def test_change_before_the_first_round_is_closed_starts_from_the_common_start() -> None:
    run = ChangingRun("abcde", "abcd", rounds=2)
    run.run_to(0)
    run.change("abcde")
    run.run()
    assert survivors(run) == ["abcde", "abcde"]


@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.CERTIFY])
def test_change_in_any_phase_of_a_round_goes_on_from_one_certified_state(phase: Phase) -> None:
    run = ChangingRun("abcdefg", "abcd", rounds=3)
    run.run_to(1, phase)
    run.federation.aggregator.new_epoch()
    run.run(Phase.GATHER)
    run.change("abcdefg")
    run.run()
    assert run.agreed("abcdefg")
    completed = phase is not Phase.UPLOAD  # what has an upload is brought to its end first
    assert survivors(run) == ["abcd", "abcd" if completed else "abcdefg", "abcdefg"]


def abandoned(run: ChangingRun, members: str) -> list[str]:
    """Everybody signed a set; it is abandoned all the same, and the membership changes. Codes of what nodes refuse."""
    run.run_to(1, Phase.SIGN)
    run.federation._tap = lambda way, node, message: not isinstance(message, Reveal)
    there = [node for node in run.federation.nodes.values() if node.online]
    run.run(lambda federation: all(node.own.memory.signed is not None for node in there))
    assert run.phase is Phase.REVEAL
    run.restart_with(members)
    run.federation.aggregator._setup.gather_again()
    run.approve(members)
    codes: list[str] = []

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Refusal):
            codes.append(message.code)
        return True

    run.federation._tap = tap
    run.connect(members)
    return codes


def test_one_hospital_that_joins_after_a_signed_attempt_is_left_out_of_the_sum_beside_it() -> None:
    """abcd was signed from this model: abcde from the same model would show e's update as the difference."""
    run = ChangingRun("abcde", "abcd", rounds=3)
    codes = abandoned(run, "abcde")
    run.run()
    assert set(codes) == {"SURVIVORS_TOO_CLOSE"}
    assert survivors(run) == ["abcd", "abcd", "abcde"]


def test_one_hospital_that_leaves_after_a_signed_attempt_keeps_the_others_from_a_sum_without_it() -> None:
    run = ChangingRun("abcde", "abcde", rounds=3)
    codes = abandoned(run, "abcd")
    with pytest.raises(RunAborted, match="misses e"):
        run.run()
    assert set(codes) == {"SURVIVORS_TOO_CLOSE"}
    assert run.closed == 1


def test_node_without_a_new_approval_is_told_so_and_the_epoch_waits_for_it() -> None:
    told: list[tuple[str, str]] = []

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Abort):
            told.append((node, message.code))
        return True

    run = ChangingRun("abcde", "abcd", rounds=3, tap=tap)
    run.run_to(1)
    run.restart_with("abcde")
    run.federation.aggregator.new_epoch()
    run.approve("abde")
    run.connect("abcde")
    run.run(lambda federation: bool(told))
    assert (told, run.phase) == ([("c", "APPROVAL_USED")], Phase.GATHER)
    run.approve("c")
    run.connect("c")
    run.run()
    assert survivors(run) == ["abcd", "abcde", "abcde"]


def test_hospital_without_a_declared_size_is_named_and_the_run_goes_on_with_those_who_have_one() -> None:
    told: list[tuple[str, str, str]] = []

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Abort):
            told.append((node, message.code, message.cause))
        return True

    run = ChangingRun("abcd", "abc", rounds=3, tap=tap, weights={"declared": {"a": 1, "b": 2, "c": 3}})
    run.run_to(1)
    run.change("abcd")
    run.run(lambda federation: len(told) == 4)
    cause = "weights.declared has no size for d"
    assert sorted(told) == [(node, "WEIGHTS_MISMATCH", cause) for node in "abcd"]
    assert (run.phase, run.closed) == (Phase.GATHER, 1)
    run.change("abc")
    run.run()
    assert survivors(run) == ["abc"] * 3 and run.agreed("abc")


def test_opened_manifests_of_one_run_never_share_an_epoch_number() -> None:
    seen: dict[tuple[bytes, int], set[bytes]] = {}

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, OpenEpoch):
            key = (message.manifest.run_id, message.epoch)
            seen.setdefault(key, set()).add(bytes(message.manifest.run_hash))
        return True

    run = ChangingRun("abcdefg", "abcd", rounds=4, tap=tap, cohort={"epoch_rounds": 1})
    run.run_to(1)
    run.change("abcdefg")
    run.run_to(2)
    run.change("abcd")
    run.run()
    assert all(len(hashes) == 1 for hashes in seen.values())
    assert len({run_id for run_id, _ in seen}) == 1
    assert len(seen) >= 5
