"""AggregatorSelf: what an aggregator holds: the policy, the pinned roster, its identity, its stores."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.renewed import Renewed
from fedvlm_secure.rounds.storage import Blobs, Spool
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.types import Entropy, NodeId


@dataclass(frozen=True)
class AggregatorSelf:
    """Args:
    identities: the pinned Ed25519 public keys of every roster member.
    entropy: for the run id only.
    pool, parts: where masks are removed in so many parts at a time; None: in the caller's thread.
    """

    policy: Policy
    identities: Mapping[NodeId, bytes]
    signer: Signer
    memory: AggregatorMemory
    spool: Spool
    blobs: Blobs
    entropy: Entropy
    pool: Executor | None = None
    parts: int = 1

    @cached_property
    def renewed(self) -> Renewed:
        """Members of the open epoch who are on the roster with another identity by now, or not at all."""
        return Renewed(self.memory, self.identities)
