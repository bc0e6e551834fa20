"""The double mask of one upload, and the shares that make it removable.

y_u = x_u + G(b_u) + sum_{v>u} G(p_uv) - sum_{v<u} G(p_uv)  (mod 2^64 per word)

Source: Bonawitz et al. 2017, figure 4 (rounds 1 and 2), on the complete graph; Ma et al. 2023 (Flamingo), section 4,
for pair secrets that live longer than a round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fedvlm_secure.ring.keystream import add_keystreams
from fedvlm_secure.secagg import shamir
from fedvlm_secure.secagg.attempt_masks import AttemptMasks
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.commitments import holder_digest, pair_commitment, self_commitment, share_leaves
from fedvlm_secure.secagg.merkle import chunk_root, tree_root
from fedvlm_secure.secagg.messages import UploadBundle, UploadHeader
from fedvlm_secure.secagg.pairs import pair_seed, share_key
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.secagg.sealing import seal
from fedvlm_secure.types import Digest, Entropy, NodeId, Secret, Words

SEED_BYTES = 32


@dataclass(frozen=True)
class AttemptKeys:
    """What one node knows in one attempt: its place, the context and this round's pair roots."""

    me: NodeId
    cohort: Cohort
    ctx: Digest
    roots: Mapping[NodeId, Secret]

    def pair_seed(self, peer: NodeId) -> Secret:
        """p_uv of this attempt."""
        return pair_seed(self.roots[peer], self.ctx, self.me, peer)

    def share_key(self, dealer: NodeId, holder: NodeId) -> Secret:
        """Key of the shares sealed by `dealer` for `holder`, one of whom is this node."""
        peer = holder if dealer == self.me else dealer
        return share_key(self.roots[peer], self.ctx, dealer, holder)


@dataclass(frozen=True)
class AttemptSeeds:
    """The fresh secrets of one attempt. They alone are journalled: all else follows from them and the pair roots."""

    self_seed: Secret
    coefficient_seed: Secret

    @staticmethod
    def draw(entropy: Entropy) -> AttemptSeeds:
        return AttemptSeeds(Secret(entropy.bytes(SEED_BYTES)), Secret(entropy.bytes(SEED_BYTES)))


def deal(keys: AttemptKeys, seeds: AttemptSeeds) -> dict[NodeId, tuple[Secret, ...]]:
    """Per holder its shares of this dealer's secrets, in order of the secret ids (own seed, then each pair seed)."""
    cohort = keys.cohort
    secrets = [seeds.self_seed, *(keys.pair_seed(peer) for peer in cohort.peers(keys.me))]
    polynomials = shamir.draw_coefficients(seeds.coefficient_seed, secrets=len(secrets), threshold=cohort.threshold)
    by_secret = [
        shamir.share(secret, coefficients, holders=len(cohort.nodes))
        for secret, coefficients in zip(secrets, polynomials, strict=True)
    ]
    return {holder: tuple(shares[i] for shares in by_secret) for i, holder in enumerate(cohort.nodes)}


def leaves_for(ctx: Digest, dealer: NodeId, holder: NodeId, shares: tuple[Secret, ...]) -> tuple[Digest, ...]:
    """The leaf of each of one holder's shares, in order of the secret ids."""
    return share_leaves(ctx, dealer, holder, shares)


def masks_of(keys: AttemptKeys, self_seed: Secret, *, words: int) -> AttemptMasks:
    """The masks that hide this node's vector of `words` words in this attempt."""
    later = [keys.pair_seed(peer) for peer in keys.cohort.peers(keys.me) if peer > keys.me]
    earlier = [keys.pair_seed(peer) for peer in keys.cohort.peers(keys.me) if peer < keys.me]
    return AttemptMasks(keys.ctx, words, added=(self_seed, *later), subtracted=earlier)


def apply_masks(words: Words, keys: AttemptKeys, self_seed: Secret) -> None:
    """Turn the plain packed words into y_u, in place: uint64 [words]."""
    masks = masks_of(keys, self_seed, words=len(words))
    add_keystreams(words, masks.added, masks.subtracted)


def prepare_upload(
    words: Words, keys: AttemptKeys, seeds: AttemptSeeds, *, signer: Signer, entropy: Entropy
) -> tuple[UploadBundle, bytes]:
    """Mask the packed words (in place), deal and seal the shares, sign the header.

    Returns:
        The bundle, and y_u as little-endian bytes.
    """
    apply_masks(words, keys, seeds.self_seed)
    content = words.astype("<u8", copy=False).tobytes()
    root = chunk_root(content)
    return seal_upload(keys, seeds, words=len(words), root=root, signer=signer, entropy=entropy), content


def seal_upload(
    keys: AttemptKeys, seeds: AttemptSeeds, *, words: int, root: Digest, signer: Signer, entropy: Entropy
) -> UploadBundle:
    """Deal and seal the shares, and sign the header of a masked vector.

    Args:
        words: length of the vector.
        root: tree root over its chunks.
    """
    me, cohort, ctx = keys.me, keys.cohort, keys.ctx
    dealt = deal(keys, seeds)
    peers = cohort.peers(me)
    sealed = tuple(
        seal(keys.share_key(me, peer), dealt[peer], ctx=ctx, dealer=me, holder=peer, entropy=entropy) for peer in peers
    )
    holder_digests = tuple(
        holder_digest(ctx, me, holder, leaves_for(ctx, me, holder, dealt[holder])) for holder in cohort.nodes
    )
    header = signer.sign(
        UploadHeader,
        node=me,
        ctx=ctx,
        words=words,
        tree_root=root,
        self_commitment=self_commitment(ctx, me, seeds.self_seed),
        pair_commitments=tuple(pair_commitment(ctx, me, peer, keys.pair_seed(peer)) for peer in peers),
        share_root=tree_root(holder_digests),
        sealed_hashes=tuple(Digest(hashlib.sha256(blob).digest()) for blob in sealed),
    )
    return UploadBundle(header=header, holder_digests=holder_digests, sealed=sealed)


def bare_upload(*, words: int, root: Digest, me: NodeId, ctx: Digest, signer: Signer) -> UploadBundle:
    """The header of an upload without protection (simulation, demo and benchmarks only): a signed root alone."""
    header = signer.sign(
        UploadHeader,
        node=me,
        ctx=ctx,
        words=words,
        tree_root=root,
        self_commitment=Digest(bytes(32)),
        pair_commitments=(),
        share_root=Digest(bytes(32)),
        sealed_hashes=(),
    )
    return UploadBundle(header=header, holder_digests=(), sealed=())
