"""SimulatedRoster: the identities of a simulated federation, and what each of its parties holds."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.purse import Purse
from fedvlm_secure.rounds.storage import Blobs, Spool
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.simulate.hospital import LocalWork
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import NodeId

IDENTITY_BYTES = 32


class SimulatedRoster:
    """Args:
    works: one local work per hospital.
    seed: of all entropy.
    """

    def __init__(self, works: Mapping[NodeId, LocalWork], seed: int) -> None:
        self._seed = seed
        self._signers = {node: self._signer(node) for node in works}
        self._aggregator = self._signer("aggregator/identity")
        self._identities = {node: signer.public for node, signer in self._signers.items()}

    def aggregator(self, policy: Policy, memory: AggregatorMemory, spool: Spool, blobs: Blobs) -> AggregatorSelf:
        """What the aggregator holds."""
        return AggregatorSelf(
            policy=policy,
            identities=self._identities,
            signer=self._aggregator,
            memory=memory,
            spool=spool,
            blobs=blobs,
            entropy=ShakeEntropy(self._seed, "aggregator"),
        )

    def node(self, node: NodeId, policy: Policy, work: LocalWork, memory: NodeMemory, purse: Purse) -> NodeSelf:
        """What a hospital holds."""
        return NodeSelf(
            me=node,
            signer=self._signers[node],
            policy=policy,
            approval="simulated",
            aggregator=self._aggregator.public,
            identities=self._identities,
            population=node,
            base_fingerprint=work.base_fingerprint,
            layout=work.layout,
            memory=memory,
            entropy=ShakeEntropy(self._seed, node),
            rounding=ShakeEntropy(self._seed, f"{node}/rounding"),
            step_norm=policy.limits.step_norm,
            min_nodes=policy.cohort.min_nodes,
            purse=purse,
        )

    def _signer(self, label: str) -> Signer:
        raw = ShakeEntropy(self._seed, f"identity/{label}").bytes(IDENTITY_BYTES)
        return Signer(Ed25519PrivateKey.from_private_bytes(raw))
