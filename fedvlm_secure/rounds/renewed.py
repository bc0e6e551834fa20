"""Renewed: members of the open epoch whose identity the roster does not name any more."""

from __future__ import annotations

from collections.abc import Mapping

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.secagg.messages import KeyAdvert
from fedvlm_secure.secagg.record import verify
from fedvlm_secure.types import NodeId, Signature


class Renewed:
    """The other members pinned the identity that signed the epoch's key advert: the new one's word counts from the
    next epoch on, so nobody waits for it in this one.

    Args:
        identities: of the present roster.
    """

    def __init__(self, memory: AggregatorMemory, identities: Mapping[NodeId, bytes]) -> None:
        self._memory, self._identities = memory, identities
        self._known: dict[Signature, bool] = {}  # by advert: neither it nor the roster changes while this process runs

    def __contains__(self, node: object) -> bool:
        advert = self._memory.advert(NodeId(str(node)))
        if advert is None:
            return False
        if advert.signature not in self._known:
            self._known[advert.signature] = not self._is_on_roster(advert)
        return self._known[advert.signature]

    def _is_on_roster(self, advert: KeyAdvert) -> bool:
        identity = self._identities.get(advert.node)
        if identity is None:
            return False
        try:
            verify(advert, identity)
        except PeerViolation:
            return False
        return True
