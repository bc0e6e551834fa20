"""Lies about what was dealt (A11): a bad dealer, a tampered share or pair seed is named before any share is shown."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.commitments import holder_digest, share_leaf
from fedvlm_secure.secagg.masking import AttemptKeys, deal, leaves_for
from fedvlm_secure.secagg.merkle import tree_root
from fedvlm_secure.secagg.messages import DealtShares, Plan, Reveal, SurvivorSet, UploadBundle
from fedvlm_secure.secagg.sealing import seal
from fedvlm_secure.secagg.unmasking import BadDealer
from fedvlm_secure.types import Digest, NodeId, Secret
from tests.support.entropy import entropy
from tests.support.liars import Bundles, LyingAggregator, restate, sent


def four() -> tuple[LyingAggregator, Plan, Bundles]:
    liar = LyingAggregator(4)
    plan = liar.plan()
    return liar, plan, liar.collect(plan, "abcd")


def with_dealt(message: SurvivorSet, index: int, **changes: Any) -> SurvivorSet:
    dealt = list(message.dealt)
    dealt[index] = dataclasses.replace(dealt[index], **changes)
    return dataclasses.replace(message, dealt=tuple(dealt))


def keys_of(liar: LyingAggregator, plan: Plan, name: str) -> AttemptKeys:
    roots = liar.node(name).own.memory.roots_for(plan.round)
    if roots is None:
        raise LookupError("erased")
    return AttemptKeys(NodeId(name), liar.terms, context_of(plan, liar.manifest), roots)


def dealt_otherwise(
    liar: LyingAggregator, plan: Plan, bundle: UploadBundle, shares: dict[NodeId, tuple[Secret, ...]]
) -> UploadBundle:
    """What a dishonest dealer sends that deals these shares and signs for them, leaf by leaf."""
    dealer = bundle.header.node
    keys = keys_of(liar, plan, dealer)
    peers = liar.terms.peers(dealer)
    sealed = tuple(
        seal(
            keys.share_key(dealer, peer),
            shares[peer],
            ctx=keys.ctx,
            dealer=dealer,
            holder=peer,
            entropy=entropy("liar"),
        )
        for peer in peers
    )
    digests = tuple(
        holder_digest(keys.ctx, dealer, holder, leaves_for(keys.ctx, dealer, holder, shares[holder]))
        for holder in liar.names
    )
    header = restate(
        bundle.header,
        liar.signer_of(dealer),
        share_root=tree_root(digests),
        sealed_hashes=tuple(Digest(hashlib.sha256(blob).digest()) for blob in sealed),
    )
    return UploadBundle(header=header, holder_digests=digests, sealed=sealed)


def off_by_one(share: Secret) -> Secret:
    return Secret((int.from_bytes(share.reveal(), "big") ^ 1).to_bytes(33, "big"))


@pytest.mark.parametrize(
    "lie", ["tampered", "truncated", "empty", "another holder's", "path of another holder", "no path"]
)
def test_shares_that_the_relay_tampered_with_are_refused(lie: str) -> None:
    liar, plan, bundles = four()
    honest, others = liar.survivor_set(plan, bundles, "a"), liar.survivor_set(plan, bundles, "c")
    sealed = honest.dealt[1].sealed
    lies: dict[str, dict[str, Any]] = {
        "tampered": {"sealed": bytes([sealed[0] ^ 1]) + sealed[1:]},
        "truncated": {"sealed": sealed[:-1]},
        "empty": {"sealed": b""},
        "another holder's": {"sealed": others.dealt[1].sealed},
        "path of another holder": {"path": others.dealt[1].path},
        "no path": {"path": ()},
    }
    assert liar.refuses_to_sign("a", with_dealt(honest, 1, **lies[lie]), "BAD_DEALER").nodes == ("b",)


def test_shares_signed_for_but_sealed_otherwise_are_refused_by_their_holder() -> None:
    liar, plan, bundles = four()
    b = NodeId("b")
    seeds = liar.node("b").own.memory.seeds
    assert seeds is not None
    shares = deal(keys_of(liar, plan, "b"), seeds)
    wrong = {**shares, NodeId("a"): (off_by_one(shares[NodeId("a")][0]), *shares[NodeId("a")][1:])}
    lied = dealt_otherwise(liar, plan, bundles[b], wrong)
    # b signs the tree of the true shares but seals another share to a
    header = restate(lied.header, liar.signer_of("b"), share_root=bundles[b].header.share_root)
    mixed = UploadBundle(header=header, holder_digests=bundles[b].holder_digests, sealed=lied.sealed)
    message = liar.survivor_set(plan, {**bundles, b: mixed}, "a")
    assert liar.refuses_to_sign("a", message, "BAD_DEALER").nodes == ("b",)


def test_shares_sealed_a_second_time_are_not_the_blob_that_the_dealer_signed_for() -> None:
    liar, plan, bundles = four()
    keys, seeds = keys_of(liar, plan, "b"), liar.node("b").own.memory.seeds
    assert seeds is not None
    a, b = NodeId("a"), NodeId("b")
    again = seal(
        keys.share_key(b, a), deal(keys, seeds)[a], ctx=keys.ctx, dealer=b, holder=a, entropy=entropy("second nonce")
    )
    message = with_dealt(liar.survivor_set(plan, bundles, "a"), 1, sealed=again)
    assert liar.refuses_to_sign("a", message, "BAD_DEALER").nodes == ("b",)


@pytest.mark.parametrize("secret_id", [0, 1])
def test_dealer_whose_shares_interpolate_to_something_else_is_named_and_no_sum_comes_out(secret_id: int) -> None:
    liar, plan, bundles = four()
    b = NodeId("b")
    seeds = liar.node("b").own.memory.seeds
    assert seeds is not None
    shares = deal(keys_of(liar, plan, "b"), seeds)
    a_shares = list(shares[NodeId("a")])
    a_shares[secret_id] = off_by_one(a_shares[secret_id])
    lied = dealt_otherwise(liar, plan, bundles[b], {**shares, NodeId("a"): tuple(a_shares)})
    liar.node("b").own.memory.commit({"round/bundle": lied})  # b stands by what it sent
    present = {**bundles, b: lied}
    if secret_id == 1:  # the pair seed with a is needed only where a dropped
        del present[NodeId("a")]
    names = sorted(present) if secret_id == 0 else ["a", *sorted(present)]
    request = liar.request(plan, liar.sign(plan, present, names))
    reveals = [sent(liar.tell(name, request), Reveal) for name in "abc"]
    with pytest.raises(BadDealer) as caught:
        liar.open(plan, present, reveals)
    assert caught.value.dealer == "b"


def test_holder_that_reveals_another_share_than_it_was_dealt_is_skipped_not_believed() -> None:
    liar, plan, bundles = four()
    request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
    reveals = [sent(liar.tell(name, request), Reveal) for name in "abcd"]
    honest = reveals[3]
    wrong = off_by_one(Secret(honest.self_shares[0])).reveal()
    its_leaf = share_leaf(honest.ctx, NodeId("a"), honest.node, 0, wrong)
    lies: list[dict[str, Any]] = [
        {"self_shares": (wrong, *honest.self_shares[1:])},
        {"leaves": (Digest(bytes(32)), *honest.leaves[1:])},
        {"self_shares": (wrong, *honest.self_shares[1:]), "leaves": (its_leaf, *honest.leaves[1:])},
        {"self_shares": honest.self_shares[:-1]},
        {"ctx": Digest(bytes(32))},
        {"node": NodeId("c")},
    ]
    for lie in lies:
        with pytest.raises(PeerViolation) as caught:
            liar.open(plan, bundles, [*reveals[:2], restate(honest, liar.signer_of("d"), **lie)])
        assert caught.value.code == "BAD_REVEAL"
    assert liar.open(plan, bundles, reveals[:3]).tobytes() == liar.open(plan, bundles, reveals[1:]).tobytes()


@pytest.mark.parametrize(("liar_name", "peer", "holder"), [("b", "a", "a"), ("b", "c", "a"), ("b", "c", "c")])
def test_pair_seeds_that_differ_at_the_two_ends_are_found_before_anything_is_released(
    liar_name: str, peer: str, holder: str
) -> None:
    liar, plan, bundles = four()
    b, at = NodeId(liar_name), liar.terms.peers(NodeId(liar_name)).index(NodeId(peer))
    commitments = list(bundles[b].header.pair_commitments)
    commitments[at] = Digest(bytes(32))
    header = restate(bundles[b].header, liar.signer_of(liar_name), pair_commitments=tuple(commitments))
    lied = {**bundles, b: dataclasses.replace(bundles[b], header=header)}
    refusal = liar.refuses_to_sign(holder, liar.survivor_set(plan, lied, holder), "PAIR_MISMATCH")
    assert refusal.nodes == tuple(sorted((liar_name, peer)))


def test_pair_seed_of_a_dropped_node_is_compared_with_the_own_one() -> None:
    liar, plan, bundles = four()
    b = NodeId("b")
    commitments = list(bundles[b].header.pair_commitments)
    commitments[liar.terms.peers(b).index(NodeId("a"))] = Digest(bytes(32))
    header = restate(bundles[b].header, liar.signer_of("b"), pair_commitments=tuple(commitments))
    present = {n: x for n, x in bundles.items() if n != "a"} | {b: dataclasses.replace(bundles[b], header=header)}
    present = {name: present[name] for name in sorted(present)}
    assert liar.refuses_to_sign("a", liar.survivor_set(plan, present, "a"), "PAIR_MISMATCH").nodes == ("a", "b")


def header_lies(liar: LyingAggregator, bundle: UploadBundle) -> dict[str, tuple[str, dict[str, Any]]]:
    header = bundle.header
    return {
        "ctx": ("BAD_HEADER", {"ctx": Digest(bytes(32))}),
        "words": ("BAD_HEADER", {"words": header.words + 1}),
        "pair_commitments": ("BAD_HEADER", {"pair_commitments": header.pair_commitments[:-1]}),
        "sealed_hashes": ("BAD_HEADER", {"sealed_hashes": header.sealed_hashes[:-1]}),
        "signature": ("BAD_SIGNATURE", {"tree_root": Digest(bytes(32))}),
    }


@pytest.mark.parametrize("lie", ["ctx", "words", "pair_commitments", "sealed_hashes", "signature"])
def test_header_of_another_attempt_shape_or_hand_is_refused(lie: str) -> None:
    liar, plan, bundles = four()
    b = NodeId("b")
    code, changes = header_lies(liar, bundles[b])[lie]
    signer = liar.signer_of("d" if lie == "signature" else "b")
    header = restate(bundles[b].header, signer, **changes)
    message = liar.survivor_set(plan, bundles, "a")
    headers = tuple(header if old.node == b else old for old in message.headers)
    liar.refused("a", dataclasses.replace(message, headers=headers), code)


def test_header_in_the_victims_name_is_refused_even_with_the_victims_signature() -> None:
    liar, plan, bundles = four()
    a = NodeId("a")
    stale = restate(bundles[a].header, liar.signer_of("a"), tree_root=Digest(bytes(32)))
    message = liar.survivor_set(plan, {**bundles, a: dataclasses.replace(bundles[a], header=stale)}, "a")
    liar.refused("a", message, "FOREIGN_HEADER")


def test_header_in_the_name_of_a_node_that_never_uploaded_is_refused_by_it() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "bcd")
    liar.tell("a", plan)  # a trains still
    forged = restate(bundles[NodeId("b")].header, liar.signer_of("d"), node=NodeId("a"))
    whole = {NodeId("a"): dataclasses.replace(bundles[NodeId("b")], header=forged), **bundles}
    honest = {name: liar.survivor_set(plan, bundles, "a") for name in "a"}["a"]
    message = dataclasses.replace(
        honest,
        headers=(forged, *honest.headers),
        dealt=(DealtShares(sealed=b"", path=()), *honest.dealt),
    )
    liar.refused("a", message, "BAD_SIGNATURE")
    own = restate(forged, liar.signer_of("a"))
    liar.refused("a", dataclasses.replace(message, headers=(own, *honest.headers)), "FOREIGN_HEADER")
    liar.refused("b", liar.survivor_set(plan, whole, "b"), "BAD_SIGNATURE")
