"""Guards that stand behind others: keys told as another run's, secrets after a closing, shares below the threshold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fedvlm_secure.errors import PeerViolation, StorageError
from fedvlm_secure.rounds.actions import Train, Upload
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.cohorts import check_cohort
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg import shamir
from fedvlm_secure.secagg.commitments import SELF_SEED_ID, share_leaf
from fedvlm_secure.secagg.masking import AttemptKeys, deal
from fedvlm_secure.secagg.messages import EpochAck, ResultAck, Reveal, VoidAck
from fedvlm_secure.secagg.unmasking import Unmasking
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, NodeId
from tests.rounds.test_evil_node import Held
from tests.rounds.test_purse import VICTIM, PrivateCohort
from tests.support.cohort import Cohort
from tests.support.liars import LyingAggregator, restate, sent

OTHER = Digest(bytes([7]) * 32)


@pytest.mark.parametrize("lie", [{"run_hash": OTHER}, {"epoch": 7}], ids=["run", "epoch"])
def test_keys_relayed_as_those_of_another_run_or_epoch_are_refused(lie: dict[str, Any]) -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    keys = liar.keys(opened, liar.adverts(opened))
    liar.refused("a", dataclasses.replace(keys, **lie), "BAD_KEYS")
    assert sent(liar.tell("a", keys), EpochAck)


def test_acknowledgement_of_another_roster_is_refused() -> None:
    held = Held(EpochAck)
    held.refused(held.lie(roster_hash=OTHER), "ROSTER_DISAGREEMENT")
    held.goes_on()


@pytest.mark.parametrize("field", ["run_hash", "round", "previous_result", "state_hash"])
def test_void_closing_of_something_else_is_refused_before_it_is_kept(field: str) -> None:
    held: list[VoidAck] = []

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, VoidAck) and node == "a":
            held.append(message)
            return False
        return True

    cohort = Cohort(5, rounds=2, tap=tap)
    cohort.run(until=Phase.REVEAL)
    for name in "cde":
        cohort.federation.drop(NodeId(name))
    cohort.run(until=lambda _: bool(held))
    lie = restate(held[0], cohort.federation.nodes[NodeId("a")].own.signer, **{field: 9 if field == "round" else OTHER})
    with pytest.raises(PeerViolation) as caught:
        cohort.federation.aggregator.receive(NodeId("a"), lie, cohort.federation.now_s)
    assert caught.value.code == "BAD_ACK"
    assert "a" not in cohort.federation.aggregator_self.memory.void_acks


def test_upload_that_cannot_be_journalled_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    (train,) = liar.tell("a", plan)
    assert isinstance(train, Train)
    node = liar.node("a")
    work, before = node.work.train(plan.round, train.state), liar.journal("a")

    def full(*_: object) -> None:
        raise StorageError("DISK_FULL", "no room", "")

    with monkeypatch.context() as patch:
        patch.setattr(node.own.memory.journal, "commit", full)
        with pytest.raises(StorageError):
            node.run.trained(plan.round, work)
    assert liar.journal("a") == before
    (upload,) = node.run.trained(plan.round, work)
    assert isinstance(upload, Upload)


def test_cohort_is_compared_with_every_earlier_one_not_with_the_last_alone() -> None:
    liar, journal, key = LyingAggregator(4), MemoryJournal(), "cohorts/population/model"

    def check(nodes: str, threshold: int) -> None:
        names = tuple(NodeId(name) for name in nodes)
        manifest = dataclasses.replace(liar.manifest, nodes=names, threshold=threshold, colluding=0)
        journal.commit({key: check_cohort(journal, key, manifest)})

    check("abcef", 3)
    check("abcdefg", 5)  # shares an honest signer with both
    with pytest.raises(PeerViolation) as caught:
        check("abcd", 3)
    assert caught.value.code == "COHORTS_APART"


def test_who_took_part_is_kept_with_the_signature_already() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    liar.sign(plan, liar.collect(plan, "abcd"), "abcd")
    assert liar.node("a").own.participation == {0: tuple("abcd")}


def test_void_of_a_round_that_a_result_closed_is_refused_also_where_it_follows_from_that_result() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    message, content = liar.result(plan, liar.run_attempt(plan, "abcd"), "abcd")
    sent(liar.tell("a", message, content), ResultAck)
    closing = liar.node("a").own.memory.closing
    assert closing is not None
    lie = liar.void_request(round=0, previous_result=closing.result_hash, state_hash=closing.state_hash)
    liar.refused("a", lie, "UNEXPECTED_MESSAGE")


def test_revealed_share_with_a_leaf_that_its_dealer_never_signed_is_not_believed() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    ctx = context_of(plan, liar.manifest)
    unmasking = Unmasking(ctx, liar.terms, bundles)
    honest = sent(liar.tell("b", liar.request(plan, liar.sign(plan, bundles, "abcd"))), Reveal)
    unmasking.check_reveal(honest)
    leaf = share_leaf(ctx, NodeId("a"), NodeId("b"), SELF_SEED_ID, bytes(33))
    leaves, shares = (leaf, *honest.leaves[1:]), (bytes(33), *honest.self_shares[1:])
    with pytest.raises(PeerViolation) as caught:
        unmasking.check_reveal(restate(honest, liar.signer_of("b"), leaves=leaves, self_shares=shares))
    assert caught.value.code == "BAD_REVEAL"


def test_disk_image_taken_right_after_a_void_closing_opens_nothing() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    liar.sign(plan, liar.collect(plan, "abcd"), "abcd")
    memory = liar.node("a").own.memory
    roots, seeds, opened = memory.roots_for(0), memory.seeds, memory.opened
    assert roots and seeds and opened
    held = [*(root.reveal() for root in roots.values()), seeds.self_seed.reveal(), seeds.coefficient_seed.reveal()]
    held += [share.reveal() for shares in opened.values() for share in shares]
    held += [liar.journal("a")["round/integers"], liar.journal("a")["round/content"]]
    image = b"|".join(liar.journal("a").values())
    assert all(one in image for one in held)
    liar.close_void("abcd")
    image = b"|".join(liar.journal("a").values())
    assert not any(one in image for one in held)


def test_one_share_fewer_than_t_fits_another_secret() -> None:
    liar = LyingAggregator(5)  # t = 4
    plan = liar.plan()
    liar.collect(plan, "a")
    memory = liar.node("a").own.memory
    roots, seeds = memory.roots_for(0), memory.seeds
    assert roots and seeds
    dealt = deal(AttemptKeys(NodeId("a"), liar.terms, context_of(plan, liar.manifest), roots), seeds)
    for count, recovers in ((liar.terms.threshold, True), (liar.terms.threshold - 1, False)):
        weights = dict(enumerate(shamir.lagrange_at_zero(range(count))))
        shares = {holder: dealt[liar.names[holder]][0].reveal() for holder in range(count)}
        found = shamir.combine(shares, weights)
        assert (found is not None and found.reveal() == seeds.self_seed.reveal()) == recovers


def test_late_training_of_a_round_that_was_charged_and_released_sends_nothing_and_ends_nothing() -> None:
    cohort = PrivateCohort(rounds=1)
    cohort.run(lambda _: len(cohort.uploads()) == 1)
    node = cohort.federation.nodes[VICTIM]
    memory = node.own.memory
    memory.commit({}, ["round/integers", "round/scalars", "round/bundle", "round/content"])
    work = cohort.works[VICTIM].train(0, memory.state.model)
    assert node.run.trained(0, work) == ()
    assert memory.charged == (0, True)
