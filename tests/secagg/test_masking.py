"""Masks: uniform on the wire, gone from the sum of any permitted survivors, never gone from anything else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.ring.lanes import THREE_LANES
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.masking import AttemptKeys, AttemptSeeds, apply_masks, deal, leaves_for, prepare_upload
from fedvlm_secure.secagg.messages import Reveal, UploadBundle
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.secagg.survivors import make_reveal
from fedvlm_secure.secagg.unmasking import BadDealer, Unmasking
from fedvlm_secure.types import Digest, NodeId, Words
from tests.support.entropy import entropy, secret

CTX, OTHER_CTX = Digest(bytes([1]) * 32), Digest(bytes([2]) * 32)


class Attempt:
    """n nodes that deal and upload random integers by themselves, without the machines."""

    def __init__(self, n: int, colluding: int, *, dimension: int = 30, ctx_of: dict[str, Digest] | None = None) -> None:
        threshold = (n + colluding) // 2 + 1
        names = tuple(NodeId(chr(97 + i)) for i in range(n))
        self.cohort = Cohort(names, colluding, threshold, max(threshold, colluding + 2, 3))
        self.vector = VectorFormat(dimension, THREE_LANES, ("weight",))
        rng = np.random.default_rng(n)
        self.plain = {u: rng.integers(-30_000, 30_000, dimension) for u in names}
        self.keys, self.seeds, self.bundles = {}, {}, dict[NodeId, UploadBundle]()
        self.contents: dict[NodeId, bytes] = {}
        self.signers = {u: Signer(Ed25519PrivateKey.from_private_bytes(secret(u).reveal())) for u in names}
        for u in names:
            roots = {v: secret(f"root {min(u, v)} {max(u, v)}") for v in self.cohort.peers(u)}
            self.keys[u] = AttemptKeys(u, self.cohort, (ctx_of or {}).get(u, CTX), roots)
            self.seeds[u] = AttemptSeeds.draw(entropy(f"seeds {u}"))
            words = self.vector.pack(self.plain[u], {"weight": 1})
            self.bundles[u], self.contents[u] = prepare_upload(
                words, self.keys[u], self.seeds[u], signer=self.signers[u], entropy=entropy(f"nonce {u}")
            )

    def unmasking(self, survivors: tuple[NodeId, ...]) -> Unmasking:
        return Unmasking(CTX, self.cohort, {u: self.bundles[u] for u in survivors})

    def masked_sum(self, survivors: tuple[NodeId, ...]) -> Words:
        return self.unmasking(survivors).sum_masked({u: [self.contents[u]] for u in survivors}, self.vector.words)

    def reveal(self, holder: NodeId, survivors: tuple[NodeId, ...]) -> Reveal:
        opened = {u: deal(self.keys[u], self.seeds[u])[holder] for u in survivors}
        return make_reveal(self.keys[holder], survivors, opened, signer=self.signers[holder])


def permitted(cohort: Cohort) -> list[tuple[NodeId, ...]]:
    sizes = range(cohort.min_survivors, len(cohort.nodes) + 1)
    return [survivors for size in sizes for survivors in itertools.combinations(cohort.nodes, size)]


@pytest.mark.parametrize(("n", "colluding"), [(3, 0), (4, 1), (5, 1), (6, 2)])
def test_masks_cancel_for_every_permitted_set_of_survivors(n: int, colluding: int) -> None:
    attempt = Attempt(n, colluding)
    for survivors in permitted(attempt.cohort):
        unmasking, total = attempt.unmasking(survivors), attempt.masked_sum(survivors)
        holders = attempt.cohort.nodes[-attempt.cohort.threshold :]  # who is dropped holds shares, too
        reveals = [attempt.reveal(holder, survivors) for holder in holders]
        for reveal in reveals:
            unmasking.check_reveal(reveal)
        unmasking.remove_masks(total, reveals)
        integers, scalars = attempt.vector.unpack_sum(total, len(survivors))
        assert np.array_equal(integers, sum(attempt.plain[u] for u in survivors))
        assert scalars == {"weight": len(survivors)}


def test_fewer_than_t_reveals_take_no_mask_off() -> None:
    attempt = Attempt(5, 1)
    survivors = attempt.cohort.nodes
    reveal = attempt.reveal(NodeId("a"), survivors)
    for reveals in ([], [reveal] * 4, [attempt.reveal(NodeId(h), survivors) for h in "abc"]):
        with pytest.raises(ValueError, match="fewer than t"):
            attempt.unmasking(survivors).remove_masks(attempt.masked_sum(survivors), reveals)


def test_a3_nodes_at_different_contexts_give_a_sum_of_noise() -> None:
    """What different models would come to if every check of a plan were gone: ctx is in every pair seed."""
    attempt = Attempt(4, 1, dimension=3000, ctx_of={"a": OTHER_CTX})
    total = attempt.masked_sum(attempt.cohort.nodes)
    for u in attempt.cohort.nodes:  # take off every self mask: the pair masks with `a` do not cancel
        Keystream(attempt.seeds[u].self_seed).subtract_from(total)
    assert attempt.vector.faulty_chunks(total)
    assert_uniform(total)


def assert_uniform(words: Words) -> None:
    """Bytes chi-square (255 degrees, |z| < 5), bits within 5 sigma of one half at every one of the 64 places."""
    raw = np.frombuffer(words.tobytes(), dtype=np.uint8)
    counts = np.bincount(raw, minlength=256)
    chi2 = float(((counts - len(raw) / 256) ** 2 / (len(raw) / 256)).sum())
    assert abs(chi2 - 255) / np.sqrt(2 * 255) < 5
    bits = np.unpackbits(raw.reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))


@pytest.mark.parametrize("node", ["a", "b", "d"])
def test_masked_vector_of_zeros_looks_uniform(node: str) -> None:
    attempt = Attempt(4, 1)
    words: Words = np.zeros(40_000, dtype=np.uint64)
    apply_masks(words, attempt.keys[NodeId(node)], attempt.seeds[NodeId(node)].self_seed)
    assert_uniform(words)


def test_masked_vectors_of_two_nodes_and_their_sum_look_uniform_and_unrelated() -> None:
    attempt = Attempt(4, 1)
    masked = {}
    for node in attempt.cohort.nodes:
        words: Words = np.zeros(40_000, dtype=np.uint64)
        apply_masks(words, attempt.keys[node], attempt.seeds[node].self_seed)
        masked[node] = words
    for one, other in itertools.combinations(masked.values(), 2):
        assert_uniform(one + other)
        assert_uniform(one - other)
        assert_uniform(one ^ other)
        assert not np.any(one == other)
    total = sum(masked.values(), start=np.zeros(40_000, dtype=np.uint64))
    assert_uniform(total)  # the self masks stay until t holders reveal


def test_dropped_nodes_upload_stays_masked_after_every_reveal() -> None:
    """With all pair masks of d known, its self mask still hides it."""
    attempt = Attempt(4, 1, dimension=30_000)
    d = NodeId("d")
    words = np.frombuffer(attempt.contents[d], dtype="<u8").astype(np.uint64)
    survivors = (NodeId("a"), NodeId("b"), NodeId("c"))
    for peer in survivors:
        Keystream(attempt.keys[d].pair_seed(peer)).add_to(words)  # d is the last: it subtracted every pair mask
    assert_uniform(words)


def test_reveal_of_another_dealer_or_secret_does_not_pass_as_this_one() -> None:
    attempt = Attempt(4, 1)
    survivors = (NodeId("a"), NodeId("b"), NodeId("c"))
    honest = attempt.reveal(NodeId("a"), survivors)
    swapped = attempt.signers[NodeId("a")].sign(
        Reveal, node=honest.node, ctx=CTX, leaves=honest.leaves,
        self_shares=(honest.self_shares[1], honest.self_shares[0], honest.self_shares[2]),
        pair_shares=honest.pair_shares,
    )  # fmt: skip
    with pytest.raises(PeerViolation, match="is not a's"):
        attempt.unmasking(survivors).check_reveal(swapped)


def test_dealer_with_another_self_seed_than_it_committed_to_is_named() -> None:
    attempt = Attempt(4, 1)
    survivors = attempt.cohort.nodes
    b = NodeId("b")
    reveals = [attempt.reveal(NodeId(h), survivors) for h in "abc"]
    attempt.seeds[b] = AttemptSeeds(secret("another"), attempt.seeds[b].coefficient_seed)
    lied = [attempt.reveal(NodeId(h), survivors) for h in "abc"]
    total = attempt.masked_sum(survivors)
    with pytest.raises(BadDealer) as caught:
        attempt.unmasking(survivors).remove_masks(total, lied)
    assert caught.value.dealer == b
    attempt.unmasking(survivors).remove_masks(attempt.masked_sum(survivors), reveals)


def test_deal_gives_every_holder_every_share_and_each_its_own_leaf() -> None:
    attempt = Attempt(5, 1)
    dealt = deal(attempt.keys[NodeId("a")], attempt.seeds[NodeId("a")])
    assert set(dealt) == set(attempt.cohort.nodes)
    leaves = [leaf for holder in dealt for leaf in leaves_for(CTX, NodeId("a"), holder, dealt[holder])]
    assert len(leaves) == len(set(leaves)) == 25
    again = deal(attempt.keys[NodeId("a")], attempt.seeds[NodeId("a")])  # a restart deals the same from the journal
    assert all(
        [share.reveal() for share in dealt[h]] == [share.reveal() for share in again[h]] for h in attempt.cohort.nodes
    )
