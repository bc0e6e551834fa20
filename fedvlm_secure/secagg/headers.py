"""The check of an upload header that both sides make. It stands alone so that the aggregator loads no node machine."""

from __future__ import annotations

from collections.abc import Mapping

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.messages import UploadHeader
from fedvlm_secure.secagg.record import verify
from fedvlm_secure.types import Digest, NodeId

Identities = Mapping[NodeId, bytes]
"""The pinned Ed25519 public keys by node."""


def check_header(
    header: UploadHeader, *, ctx: Digest, cohort: Cohort, words: int, identities: Identities, deals: bool = True
) -> None:
    """A header of this attempt, of the right shape, signed by the member it names.

    Args:
        deals: whether seeds are committed to and shares dealt, as in masked mode.

    Raises:
        PeerViolation: BAD_HEADER or BAD_SIGNATURE.
    """
    peers = len(cohort.nodes) - 1 if deals else 0
    fits = (
        header.node in cohort.index
        and header.ctx == ctx
        and header.words == words
        and len(header.pair_commitments) == peers
        and len(header.sealed_hashes) == peers
    )
    if not fits:
        raise PeerViolation("BAD_HEADER", f"the upload header of {header.node} does not fit this attempt", "")
    verify(header, identities[header.node])
