"""R2 and R3 at a node: open and check everything dealt, then sign; reveal what follows from the signed set, once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.commitments import SELF_SEED_ID, holder_digest, pair_commitment, pair_secret_id
from fedvlm_secure.secagg.headers import Identities, check_header
from fedvlm_secure.secagg.masking import AttemptKeys, AttemptSeeds, deal, leaves_for
from fedvlm_secure.secagg.merkle import path_holds
from fedvlm_secure.secagg.messages import (
    DealtShares,
    DecryptRequest,
    Reveal,
    RevealRequest,
    SurvivorSet,
    UploadHeader,
)
from fedvlm_secure.secagg.record import Signer, verify
from fedvlm_secure.secagg.sealing import open_sealed
from fedvlm_secure.types import Digest, NodeId, Secret

OpenedShares = dict[NodeId, tuple[Secret, ...]]
"""Per dealer in S this holder's shares, in order of the secret ids."""


class RefusedSurvivors(PeerViolation):
    """A set this node does not sign. `nodes` are named to the aggregator; no share is disclosed.

    Codes: BAD_DEALER (a share does not open, or not to its leaf), PAIR_MISMATCH (two ends commit to different pair
    seeds), SURVIVORS_TOO_CLOSE (see the survivor history).
    """

    def __init__(self, code: str, cause: str, nodes: Iterable[NodeId], hint: str = "") -> None:
        super().__init__(code, cause, hint)
        self.nodes = tuple(sorted(nodes))


def check_survivor_set(
    message: SurvivorSet,
    keys: AttemptKeys,
    *,
    own_header: UploadHeader | None,
    own_seeds: AttemptSeeds | None,
    words: int,
    identities: Identities,
) -> OpenedShares:
    """Everything a node checks before it signs a set, in this order.

    1. The set is of this attempt, its members are distinct, in roster order, and at least min_survivors.
    2. Each header is signed by the member it names and has this attempt's shape.
    3. This node's own header, if it is in S, is the one it signed.
    4. Each dealer's shares open, and each share's leaf leads to the dealer's signed share root.
    5. Every pair commitment agrees from both ends, and with this node's own pair seed.

    Raises:
        RefusedSurvivors: BAD_DEALER or PAIR_MISMATCH; the honest others are not harmed by a refusal.
        PeerViolation: the aggregator's fault (1 to 3).
    """
    if len(message.dealt) != len(message.headers):
        raise PeerViolation("BAD_SURVIVOR_SET", "the survivor set does not hold one dealing of each member", "")
    check_members(
        message,
        ctx=keys.ctx,
        cohort=keys.cohort,
        me=keys.me,
        own_header=own_header,
        words=words,
        identities=identities,
    )
    opened = _open_all(message, keys, own_seeds)
    _check_pairs(message.headers, keys)
    return opened


def check_members(
    message: SurvivorSet,
    *,
    ctx: Digest,
    cohort: Cohort,
    me: NodeId,
    own_header: UploadHeader | None,
    words: int,
    identities: Identities,
    deals: bool = True,
) -> None:
    """The first three of `check_survivor_set`, which do not depend on how updates are hidden.

    Args:
        deals: as for `check_header`.

    Raises:
        PeerViolation: BAD_SURVIVOR_SET, TOO_FEW_SURVIVORS, BAD_HEADER, BAD_SIGNATURE or FOREIGN_HEADER.
    """
    survivors = [header.node for header in message.headers]
    if message.ctx != ctx:
        raise PeerViolation("BAD_SURVIVOR_SET", "the survivor set is not of this attempt", "")
    if survivors != [node for node in cohort.nodes if node in set(survivors)]:
        raise PeerViolation("BAD_SURVIVOR_SET", "survivors are not distinct roster members in order", "")
    if len(survivors) < cohort.min_survivors:
        cause = f"{len(survivors)} survivors, at least {cohort.min_survivors} are needed"
        raise PeerViolation("TOO_FEW_SURVIVORS", cause, "a smaller sum would say too much about each")
    for header in message.headers:
        check_header(header, ctx=ctx, cohort=cohort, words=words, identities=identities, deals=deals)
        if header.node == me and header != own_header:
            raise PeerViolation("FOREIGN_HEADER", "the set holds a header of this node that it never signed", "")


def _open_all(message: SurvivorSet, keys: AttemptKeys, own_seeds: AttemptSeeds | None) -> OpenedShares:
    opened: OpenedShares = {}
    bad: list[NodeId] = []
    for header, dealt in zip(message.headers, message.dealt, strict=True):
        shares = _open(header, dealt, keys, own_seeds)
        if shares is None:
            bad.append(header.node)
        else:
            opened[header.node] = shares
    if bad:
        raise RefusedSurvivors("BAD_DEALER", f"the shares of {', '.join(bad)} do not open to what they signed", bad)
    return opened


def _open(
    header: UploadHeader, dealt: DealtShares, keys: AttemptKeys, own_seeds: AttemptSeeds | None
) -> tuple[Secret, ...] | None:
    cohort, me, ctx = keys.cohort, keys.me, keys.ctx
    dealer = header.node
    if dealer == me:
        return None if own_seeds is None else deal(keys, own_seeds)[me]
    position = cohort.peers(dealer).index(me)
    if hashlib.sha256(dealt.sealed).digest() != header.sealed_hashes[position]:
        return None
    raw = open_sealed(
        keys.share_key(dealer, me), dealt.sealed, ctx=ctx, dealer=dealer, holder=me, secrets=len(cohort.nodes)
    )
    if raw is None:
        return None
    shares = tuple(Secret(share) for share in raw)
    leaf = holder_digest(ctx, dealer, me, leaves_for(ctx, dealer, me, shares))
    holds = path_holds(leaf, cohort.index[me], len(cohort.nodes), dealt.path, header.share_root)
    return shares if holds else None


def _check_pairs(headers: Sequence[UploadHeader], keys: AttemptKeys) -> None:
    cohort, me = keys.cohort, keys.me
    committed = {
        (header.node, peer): commitment
        for header in headers
        for peer, commitment in zip(cohort.peers(header.node), header.pair_commitments, strict=True)
    }
    for (one, other), commitment in committed.items():
        reverse = committed.get((other, one), commitment)
        if other == me:
            reverse = pair_commitment(keys.ctx, me, one, keys.pair_seed(one))
        if commitment != reverse:
            raise RefusedSurvivors("PAIR_MISMATCH", f"{one} and {other} commit to different pair seeds", (one, other))


def check_reveal_request(
    request: RevealRequest | DecryptRequest, *, signed: Digest, ctx: Digest, cohort: Cohort, identities: Identities
) -> None:
    """At least t signatures of distinct roster members over the digest this node itself signed.

    Raises:
        PeerViolation: NO_QUORUM or BAD_SIGNATURE.
    """
    agreeing: set[NodeId] = set()
    for signature in request.signatures:
        if signature.node not in cohort.index or signature.ctx != ctx or signature.survivors != signed:
            continue
        verify(signature, identities[signature.node])
        agreeing.add(signature.node)
    if request.ctx != ctx or len(agreeing) < cohort.threshold:
        raise PeerViolation(
            "NO_QUORUM",
            f"{len(agreeing)} of {cohort.threshold} needed signatures stand under the set this node signed",
            "nothing was disclosed",
        )


def make_reveal(keys: AttemptKeys, survivors: tuple[NodeId, ...], opened: OpenedShares, *, signer: Signer) -> Reveal:
    """Shares of b_v for v in S and of p_vj for v in S, j in D: nothing else can be written down."""
    cohort, me, ctx = keys.cohort, keys.me, keys.ctx
    dropped = cohort.dropped(survivors)
    return signer.sign(
        Reveal,
        node=me,
        ctx=ctx,
        self_shares=tuple(opened[v][SELF_SEED_ID].reveal() for v in survivors),
        pair_shares=tuple(opened[v][pair_secret_id(cohort, v, j)].reveal() for v in survivors for j in dropped),
        leaves=tuple(leaf for v in survivors for leaf in leaves_for(ctx, v, me, opened[v])),
    )
