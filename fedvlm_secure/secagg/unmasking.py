"""R3 at the aggregator: check each revealed share against its leaf, interpolate, take the masks off the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.ring.keystream import add_keystreams
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
        """Add the survivors' masked vectors into one accumulator: uint64 [words].

        All first chunks, then all second ones: whatever the number of nodes, one chunk is held, and the part of the
        accumulator that they are added to stays in cache.
        """
        total: Words = np.zeros(words, dtype=np.uint64)
        streams = [(iter(vectors[node]), 0) for node in self.survivors]
        while streams:
            going = []
            for chunks, at in streams:
                chunk = next(chunks, None)
                if chunk is not None:
                    part = np.frombuffer(chunk, dtype="<u8")
                    total[at : at + len(part)] += part
                    going.append((chunks, at + len(part)))
            streams = going
        return total

    def remove_masks(
        self, total: Words, reveals: Sequence[Reveal], *, pool: Executor | None = None, parts: int = 1
    ) -> None:
        """Interpolate every secret from t checked reveals and take all masks off `total`, in place.

        Args:
            pool, parts: where and in how many parts at a time, as for `add_keystreams`.

        Raises:
            BadDealer: a secret differs from its dealer's commitment.
            ValueError: fewer than t reveals.
        """
        chosen = list(reveals)[: self.cohort.threshold]
        if len({reveal.node for reveal in chosen}) < self.cohort.threshold:
            raise ValueError("fewer than t distinct holders revealed")
        holders = [self.cohort.index[reveal.node] for reveal in chosen]
        weights = dict(zip(holders, shamir.lagrange_at_zero(holders), strict=True))
        added, subtracted = self._masks_to_remove(chosen, holders, weights)
        add_keystreams(total, added, subtracted, pool=pool, parts=parts)

    def _masks_to_remove(
        self, chosen: Sequence[Reveal], holders: Sequence[int], weights: Mapping[int, int]
    ) -> tuple[list[Secret], list[Secret]]:
        """The seeds whose masks are added to the sum, and those whose masks are subtracted from it, each checked."""
        d = len(self.dropped)
        added: list[Secret] = []
        subtracted: list[Secret] = []
        for i, dealer in enumerate(self.survivors):
            header = self.bundles[dealer].header
            seed = self._combine(dealer, {h: r.self_shares[i] for h, r in zip(holders, chosen, strict=True)}, weights)
            if self_commitment(self.ctx, dealer, seed) != header.self_commitment:
                raise BadDealer(dealer)
            subtracted.append(seed)
            for k, j in enumerate(self.dropped):
                shares = {h: r.pair_shares[i * d + k] for h, r in zip(holders, chosen, strict=True)}
                seed = self._combine(dealer, shares, weights)
                committed = header.pair_commitments[self.cohort.peers(dealer).index(j)]
                if pair_commitment(self.ctx, dealer, j, seed) != committed:
                    raise BadDealer(dealer)
                (subtracted if j > dealer else added).append(seed)  # the survivor added the mask of a later name
        return added, subtracted

    def _combine(self, dealer: NodeId, shares: Mapping[int, bytes], weights: Mapping[int, int]) -> Secret:
        secret = shamir.combine(shares, weights)
        if secret is None:
            raise BadDealer(dealer)
        return secret
