"""R3 at the aggregator: check each revealed share against its leaf, interpolate, take the masks off the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.secagg import shamir
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.commitments import (
    SELF_SEED_ID,
    holder_digest,
    pair_commitment,
    pair_secret_id,
    self_commitment,
    share_leaf,
)
from fedvlm_secure.secagg.messages import Reveal, UploadBundle
from fedvlm_secure.types import Digest, NodeId, Secret, Words


class BadDealer(PeerViolation):
    """A survivor dealt shares that interpolate to something else than it committed to: the round gives no sum."""

    def __init__(self, dealer: NodeId) -> None:
        super().__init__("BAD_DEALER", f"the shares dealt by {dealer} do not open to what it committed to", "")
        self.dealer = dealer


@dataclass(frozen=True)
class Unmasking:
    """One attempt's fixed survivors, seen from the aggregator."""

    ctx: Digest
    cohort: Cohort
    bundles: Mapping[NodeId, UploadBundle]  # exactly the survivors, in roster order

    @cached_property
    def survivors(self) -> tuple[NodeId, ...]:
        return tuple(node for node in self.cohort.nodes if node in self.bundles)

    @cached_property
    def dropped(self) -> tuple[NodeId, ...]:
        return self.cohort.dropped(self.survivors)

    def check_reveal(self, reveal: Reveal) -> None:
        """Every share belongs to a leaf that its dealer signed for this holder.

        Raises:
            PeerViolation: BAD_REVEAL; the holder is skipped, others can take its place.
        """
        n, s, d = len(self.cohort.nodes), len(self.survivors), len(self.dropped)
        shapes = len(reveal.self_shares) == s and len(reveal.pair_shares) == s * d and len(reveal.leaves) == s * n
        if reveal.ctx != self.ctx or reveal.node not in self.cohort.index or not shapes:
            raise PeerViolation("BAD_REVEAL", f"the reveal of {reveal.node} does not fit this attempt", "")
        for i, dealer in enumerate(self.survivors):
            leaves = reveal.leaves[i * n : (i + 1) * n]
            expected = self.bundles[dealer].holder_digests[self.cohort.index[reveal.node]]
            if holder_digest(self.ctx, dealer, reveal.node, leaves) != expected:
                raise PeerViolation("BAD_REVEAL", f"the leaves {reveal.node} shows are not {dealer}'s", "")
            revealed = [(SELF_SEED_ID, reveal.self_shares[i])]
            revealed += [
                (pair_secret_id(self.cohort, dealer, j), reveal.pair_shares[i * d + k])
                for k, j in enumerate(self.dropped)
            ]
            for secret_id, share in revealed:
                if share_leaf(self.ctx, dealer, reveal.node, secret_id, share) != leaves[secret_id]:
                    raise PeerViolation("BAD_REVEAL", f"a share {reveal.node} reveals is not {dealer}'s", "")

    def sum_masked(self, vectors: Mapping[NodeId, Iterable[bytes]], words: int) -> Words:
        """Add the survivors' masked vectors, chunk by chunk, into one accumulator: uint64 [words]."""
        total: Words = np.zeros(words, dtype=np.uint64)
        for node in self.survivors:
            at = 0
            for chunk in vectors[node]:
                part = np.frombuffer(chunk, dtype="<u8")
                total[at : at + len(part)] += part
                at += len(part)
        return total

    def remove_masks(self, total: Words, reveals: Sequence[Reveal]) -> None:
        """Interpolate every secret from t checked reveals and take its mask off `total`, in place.

        Raises:
            BadDealer: a secret differs from its dealer's commitment.
            ValueError: fewer than t reveals.
        """
        chosen = list(reveals)[: self.cohort.threshold]
        if len({reveal.node for reveal in chosen}) < self.cohort.threshold:
            raise ValueError("fewer than t distinct holders revealed")
        holders = [self.cohort.index[reveal.node] for reveal in chosen]
        weights = dict(zip(holders, shamir.lagrange_at_zero(holders), strict=True))
        d = len(self.dropped)
        for i, dealer in enumerate(self.survivors):
            header = self.bundles[dealer].header
            seed = self._combine(dealer, {h: r.self_shares[i] for h, r in zip(holders, chosen, strict=True)}, weights)
            if self_commitment(self.ctx, dealer, seed) != header.self_commitment:
                raise BadDealer(dealer)
            Keystream(seed).subtract_from(total)
            for k, j in enumerate(self.dropped):
                shares = {h: r.pair_shares[i * d + k] for h, r in zip(holders, chosen, strict=True)}
                seed = self._combine(dealer, shares, weights)
                committed = header.pair_commitments[self.cohort.peers(dealer).index(j)]
                if pair_commitment(self.ctx, dealer, j, seed) != committed:
                    raise BadDealer(dealer)
                if j > dealer:  # the survivor added this mask
                    Keystream(seed).subtract_from(total)
                else:
                    Keystream(seed).add_to(total)

    def _combine(self, dealer: NodeId, shares: Mapping[int, bytes], weights: Mapping[int, int]) -> Secret:
        secret = shamir.combine(shares, weights)
        if secret is None:
            raise BadDealer(dealer)
        return secret
