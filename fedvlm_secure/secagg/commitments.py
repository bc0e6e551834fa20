"""What is committed to: seeds, pair seeds, and every single share by its own leaf.

Secret ids: 0 is the dealer's self seed b_u; 1 + i is the pair seed with the i-th of the dealer's peers in roster order.
A seed is 32 uniform bytes and a share is uniform in a 257-bit field, so a plain hash hides them.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedvlm_secure.canonical import digest, digests
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.types import Digest, NodeId, Secret

SELF_SEED_ID = 0


def self_commitment(ctx: Digest, node: NodeId, self_seed: Secret) -> Digest:
    """H(ctx, u, b_u)."""
    return digest("self-seed", ctx, node, self_seed.reveal())


def pair_commitment(ctx: Digest, one: NodeId, other: NodeId, seed: Secret) -> Digest:
    """H(ctx, min, max, p_uv): no dealer in it, so both ends must write the same."""
    return digest("pair-seed", ctx, min(one, other), max(one, other), seed.reveal())


def pair_secret_id(cohort: Cohort, dealer: NodeId, peer: NodeId) -> int:
    """Which of the dealer's secrets is its pair seed with `peer`."""
    return 1 + cohort.peers(dealer).index(peer)


def share_leaf(ctx: Digest, dealer: NodeId, holder: NodeId, secret_id: int, share: bytes) -> Digest:
    """H(ctx, dealer, holder, secret id, share)."""
    return digest("share", ctx, dealer, holder, secret_id, share)


def share_leaves(ctx: Digest, dealer: NodeId, holder: NodeId, shares: Sequence[Secret]) -> tuple[Digest, ...]:
    """`share_leaf` of all shares that one holder gets, in order of secret id."""
    tails = ((secret_id, share.reveal()) for secret_id, share in enumerate(shares))
    return tuple(digests("share", (ctx, dealer, holder), tails))


def holder_digest(ctx: Digest, dealer: NodeId, holder: NodeId, leaves: Sequence[Digest]) -> Digest:
    """One hash over all leaves of a holder; the dealer's signed share root stands over the holders' digests."""
    return digest("holder", ctx, dealer, holder, list(leaves))
