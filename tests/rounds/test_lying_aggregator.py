"""The lying aggregator about survivors (A1, A2, A5, A6, A24): whatever it says, no share leaves and nothing moves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation, StorageError
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.messages import AggregatorMessage, Reveal, SurvivorSignature
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.support.liars import Bundles, LyingAggregator, restate, sent

GRID = 4096 / 100 * 2.0**-15  # a grid step of the three-lane format, at a counted weight of 100/4096


def without(bundles: Bundles, *names: str) -> Bundles:
    return {node: bundle for node, bundle in bundles.items() if node not in names}


def clone_of(liar: LyingAggregator, name: str) -> NodeRun:
    """A second copy of a node, from a copy of its journal."""
    journal = MemoryJournal()
    journal.content = liar.journal(name)
    return NodeRun(dataclasses.replace(liar.node(name).own, memory=NodeMemory(journal)))


def test_the_test_aggregator_opens_an_honest_round() -> None:
    liar = LyingAggregator(5)
    total = liar.run_attempt(liar.plan(), "abcde")
    assert np.abs(liar.mean(total, 5) - liar.cohort.mean_update(0, "abcde")).max() < GRID
    assert len(liar.reveals) == 4


def test_a1_different_survivor_sets_at_different_nodes_open_nothing() -> None:
    liar = LyingAggregator(7)  # c = 1, t = 5
    plan = liar.plan()
    whole = liar.collect(plan, "abcdefg")
    fewer = without(whole, "f", "g")
    first, second = liar.sign(plan, whole, "abcg"), liar.sign(plan, fewer, "def")
    colluder = [
        restate(signature, liar.signer_of("g"), node=NodeId("g"), survivors=signature.survivors)
        for signature in (first[0], second[0])
    ]
    for name in "abcdef":
        liar.refused(name, liar.request(plan, [*first, *second, *colluder]), "NO_QUORUM")
    assert liar.reveals == []


def test_a2_second_set_is_refused_after_signing_and_the_same_set_gets_identical_bytes() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    first = sent(liar.tell("a", liar.survivor_set(plan, bundles, "a")), SurvivorSignature)
    other = liar.survivor_set(plan, without(bundles, "d"), "a")
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
        liar.refused("a", other, "SECOND_SURVIVOR_SET")
        again = sent(liar.tell("a", liar.survivor_set(plan, bundles, "a")), SurvivorSignature)
        assert again == first


def test_a2_after_the_reveal_only_the_same_bytes_come_even_after_a_restart() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    signatures = liar.sign(plan, bundles, "abcd")
    reveal = sent(liar.tell("a", liar.request(plan, signatures)), Reveal)
    other_plan = liar.plan(attempt=1)
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
        liar.refused("a", liar.survivor_set(plan, without(bundles, "d"), "a"), "SECOND_SURVIVOR_SET")
        liar.refused("a", other_plan, "ALREADY_REVEALED")
        liar.refused("a", liar.request(other_plan, signatures), "ALREADY_REVEALED")
        assert sent(liar.tell("a", liar.request(plan, signatures[1:])), Reveal) == reveal
    assert len(set(liar.reveals)) == 1


@pytest.mark.parametrize("step", ["upload", "sign", "reveal", "ack", "void"])
def test_a2_what_cannot_be_journalled_is_not_sent(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    names = "bcd" if step == "upload" else "abcd"
    bundles = liar.collect(plan, names)
    signatures = liar.sign(plan, bundles, "bcd") if step == "sign" else ()
    if step in ("reveal", "ack"):
        signatures = liar.sign(plan, bundles, "abcd")
    request = liar.request(plan, signatures)
    message: AggregatorMessage = liar.void_request()
    content: bytes | None = None
    if step == "upload":
        message = plan
    elif step == "sign":
        message = liar.survivor_set(plan, bundles, "a")
    elif step == "reveal":
        message = request
    elif step == "ack":
        total = liar.open(plan, bundles, [sent(liar.tell(name, request), Reveal) for name in "bcd"])
        message, content = liar.result(plan, total, "abcd")

    def full(*_: object) -> None:
        raise StorageError("DISK_FULL", "no room", "")

    before = liar.journal("a")
    with monkeypatch.context() as patch:
        patch.setattr(liar.node("a").own.memory.journal, "commit", full)
        with pytest.raises(StorageError):
            liar.tell("a", message, content)
    assert liar.journal("a") == before
    assert liar.tell("a", message, content)  # once there is room again, it goes on


def test_an_accepted_attempt_forbids_the_earlier_one_for_ever() -> None:
    liar = LyingAggregator(4)
    plan, later = liar.plan(), liar.plan(attempt=1)
    bundles = liar.collect(plan, "abcd")
    request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
    liar.collect(later, "a")
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
        liar.refused("a", plan, "BAD_PLAN")
        liar.refused("a", request, "UNEXPECTED_MESSAGE")
        liar.refused("a", liar.survivor_set(plan, bundles, "a"), "BAD_SURVIVOR_SET")


def test_every_attempt_carries_the_same_integers_under_a_fresh_self_seed() -> None:
    liar = LyingAggregator(4)
    plan, later = liar.plan(), liar.plan(attempt=1)
    liar.collect(plan, "abcd")
    first = liar.journal("a")
    total = liar.run_attempt(later, "abcd")
    liar_again = LyingAggregator(4)
    assert np.array_equal(total, liar_again.run_attempt(liar_again.plan(), "abcd"))
    assert first["round/seeds"] not in liar.journal("a").values()


def test_a5_nine_hospitals_without_colluders_cannot_be_opened_twice() -> None:
    liar = LyingAggregator(9, cohort={"colluding": 0})  # t = 5
    plan = liar.plan()
    bundles = liar.collect(plan, "abcdefghi")
    request = liar.request(plan, liar.sign(plan, bundles, "abcdefghi"))
    for name in "abcde":
        liar.tell(name, request)
    opened = len(liar.reveals)
    later = liar.plan(attempt=1)
    for name in "abcde":
        liar.refused(name, later, "ALREADY_REVEALED")
    rest = liar.collect(later, "fghi")
    for name in "fghi":  # four hospitals are below every bound; no signature of theirs exists
        liar.refused(name, liar.survivor_set(later, rest, name), "TOO_FEW_SURVIVORS")
        liar.refused(name, liar.request(later, request.signatures), "UNEXPECTED_MESSAGE")
    assert len(liar.reveals) == opened == 5


@pytest.mark.parametrize(("missing", "signed"), [("i", False), ("hi", False), ("ghi", True)])
def test_a6_survivors_of_two_attempts_are_equal_or_far_apart(missing: str, signed: bool) -> None:
    liar = LyingAggregator(9)  # c = 1, t = min_survivors = 6: sets from one model differ by c + 2 = 3 or not at all
    plan, later = liar.plan(), liar.plan(attempt=1)
    liar.sign(plan, liar.collect(plan, "abcdefghi"), "abcdefghi")
    bundles = liar.collect(later, "abcdefghi")
    fewer = liar.survivor_set(later, without(bundles, *missing), "a")
    if signed:
        assert sent(liar.tell("a", fewer), SurvivorSignature)
    else:
        assert liar.refuses_to_sign("a", fewer, "SURVIVORS_TOO_CLOSE").nodes == tuple(missing)
        assert sent(liar.tell("a", liar.survivor_set(later, bundles, "a")), SurvivorSignature)


def test_a6_survivors_with_one_hospital_more_than_before_are_not_signed() -> None:
    liar = LyingAggregator(9)
    plan, later = liar.plan(), liar.plan(attempt=1)
    liar.sign(plan, liar.collect(plan, "abcdefgh"), "abcdefgh")
    more = liar.survivor_set(later, liar.collect(later, "abcdefghi"), "a")
    assert liar.refuses_to_sign("a", more, "SURVIVORS_TOO_CLOSE").nodes == ("i",)


def test_a6_survivors_that_swap_one_hospital_for_another_are_not_signed() -> None:
    liar = LyingAggregator(9)
    plan, later = liar.plan(), liar.plan(attempt=1)
    liar.sign(plan, liar.collect(plan, "abcdefgh"), "abcdefgh")
    bundles = liar.collect(later, "abcdefghi")
    refusal = liar.refuses_to_sign("a", liar.survivor_set(later, without(bundles, "h"), "a"), "SURVIVORS_TOO_CLOSE")
    assert refusal.nodes in (("h",), ("i",))


def test_a6_an_opened_round_closed_void_does_not_let_the_next_isolate_a_hospital() -> None:
    liar = LyingAggregator(4)
    liar.run_attempt(liar.plan(), "abcd")
    certificate = liar.close_void("abcd")
    plan = liar.plan(certificate=certificate)
    assert plan.round == 1
    bundles = without(liar.collect(plan, "abcd"), "d")
    for name in "abc":
        assert liar.refuses_to_sign(name, liar.survivor_set(plan, bundles, name), "SURVIVORS_TOO_CLOSE").nodes == ("d",)


def test_a6_a_second_run_or_epoch_from_the_same_model_does_not_isolate_a_hospital() -> None:
    for run in (True, False):
        liar = LyingAggregator(4)
        liar.run_attempt(liar.plan(), "abcd")
        if run:
            liar.set_up(liar.another_run())
        else:
            certificate = liar.close_void("abcd")
            liar.set_up(liar.open_epoch())
        plan = liar.plan(certificate=None if run else certificate)
        bundles = without(liar.collect(plan, "abcd"), "d")
        for name in "abc":
            refusal = liar.refuses_to_sign(name, liar.survivor_set(plan, bundles, name), "SURVIVORS_TOO_CLOSE")
            assert refusal.nodes == ("d",)


def test_a6_a_new_epoch_in_the_middle_of_a_revealed_round_does_not_reopen_it() -> None:
    liar = LyingAggregator(4)
    liar.run_attempt(liar.plan(), "abcd")
    liar.set_up(liar.open_epoch())
    for name in "abc":
        liar.refused(name, liar.plan(attempt=5), "ALREADY_REVEALED")


def test_too_few_survivors_or_a_set_out_of_order_is_not_signed() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    liar.refused("a", liar.survivor_set(plan, without(bundles, "c", "d"), "a"), "TOO_FEW_SURVIVORS")
    swapped = {name: bundles[name] for name in reversed(list(bundles))}
    liar.refused("a", liar.survivor_set(plan, swapped, "a"), "BAD_SURVIVOR_SET")
    honest = liar.survivor_set(plan, bundles, "a")
    twice = dataclasses.replace(
        honest, headers=(*honest.headers[:3], honest.headers[2]), dealt=(*honest.dealt[:3], honest.dealt[2])
    )
    liar.refused("a", twice, "BAD_SURVIVOR_SET")
    liar.refused("a", dataclasses.replace(honest, dealt=honest.dealt[:3]), "BAD_SURVIVOR_SET")


def test_survivors_exactly_at_the_threshold_are_opened_exactly() -> None:
    liar = LyingAggregator(5)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcde")
    kept = without(bundles, "b")
    request = liar.request(plan, liar.sign(plan, kept, "acde"))
    reveals = [sent(liar.tell(name, request), Reveal) for name in "acde"]
    total = liar.open(plan, kept, reveals)
    assert np.abs(liar.mean(total, 4) - liar.cohort.mean_update(0, "acde")).max() < GRID
    assert all(len(reveal.pair_shares) == 4 and len(reveal.self_shares) == 4 for reveal in reveals)


def test_a_dropped_node_that_accepted_the_plan_signs_but_its_own_self_seed_is_never_revealed() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = without(liar.collect(plan, "abcd"), "d")
    request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
    for name in "abd":
        reveal = sent(liar.tell(name, request), Reveal)
        assert len(reveal.self_shares) == 3  # of a, b, c; there is no place for a share of d's seed


def test_a24_with_c_0_one_cloned_node_opens_two_sets_and_so_one_update() -> None:
    """The documented limit of `colluding: 0`; the next test shows that c = 1 closes it."""
    liar = LyingAggregator(5, cohort={"colluding": 0})  # t = 3, min_survivors = 3
    plan = liar.plan()
    bundles = liar.collect(plan, "abcde")
    clone = clone_of(liar, "e")
    fewer = without(bundles, "d")
    first = liar.sign(plan, bundles, "abe")
    copied = sent(clone.receive(liar.survivor_set(plan, fewer, "e")), SurvivorSignature)
    second = (*liar.sign(plan, fewer, "cd"), copied)
    whole = liar.open(plan, bundles, [sent(liar.tell(n, liar.request(plan, first)), Reveal) for n in "abe"])
    reveals = [sent(liar.tell(name, liar.request(plan, second)), Reveal) for name in "cd"]
    reveals.append(sent(clone.receive(liar.request(plan, second)), Reveal))
    part = liar.open(plan, fewer, reveals)
    integers = [vector_of(liar.manifest).unpack_sum(t, n)[0] for t, n in ((whole, 5), (part, 4))]
    weight = round(100 / 4096 * 2**16) / 2**16
    alone = (integers[0] - integers[1]) / 2.0**liar.manifest.scale_bits / weight
    assert np.abs(alone - liar.cohort.works[NodeId("d")].updates[0]).max() < GRID


def test_a24_with_c_1_the_same_clone_opens_nothing() -> None:
    liar = LyingAggregator(5)  # t = 4
    plan = liar.plan()
    bundles = liar.collect(plan, "abcde")
    clone = clone_of(liar, "e")
    fewer = without(bundles, "d")
    first = liar.sign(plan, bundles, "abe")
    second = (
        *liar.sign(plan, fewer, "cd"),
        sent(clone.receive(liar.survivor_set(plan, fewer, "e")), SurvivorSignature),
    )
    for name in "abcde":
        liar.refused(name, liar.request(plan, [*first, *second]), "NO_QUORUM")
    with pytest.raises(PeerViolation, match="of 4 needed"):
        clone.receive(liar.request(plan, [*first, *second]))
    assert liar.refusals == []
    assert liar.reveals == []
