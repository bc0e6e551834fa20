"""NodeSelf: what a node is and holds for itself: identity, its own approved policy, its own model's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import fedvlm_secure
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.participation import Participation, read_participation
from fedvlm_secure.rounds.purse import Purse
from fedvlm_secure.secagg.messages import Hello
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.types import Digest, Entropy, NodeId


@dataclass(frozen=True)
class NodeSelf:
    """Args:
    policy: the node's own approved copy; nothing about the run is taken from the aggregator instead.
    approval: id of that approval; one approval serves one run.
    aggregator: the pinned Ed25519 public key.
    identities: the pinned Ed25519 public keys of every roster member.
    step_norm: largest L2 norm of one round's step that this hospital takes over; at most the policy's.
    purse: the budget of that population: asked before a round is trained, charged before it is sent.
    min_nodes: smallest cohort this hospital joins; at least the policy's.
    rounding: entropy of stochastic rounding and noise, so that runs with and without masks round and noise alike.
    other_cohorts: join a cohort that need share no honest hospital with an earlier one of the same model (`cohorts`).
    population: name of the patients behind the data, for the survivor history (and the budget).
    """

    me: NodeId
    signer: Signer
    policy: Policy
    approval: str
    aggregator: bytes
    identities: Mapping[NodeId, bytes]
    population: str
    base_fingerprint: Digest
    layout: UpdateLayout
    memory: NodeMemory
    entropy: Entropy
    rounding: Entropy
    step_norm: float
    min_nodes: int
    purse: Purse
    other_cohorts: bool = False

    @property
    def members(self) -> Mapping[NodeId, bytes]:
        """Identities of the open epoch's members: a roster that is pinned later takes effect with the next epoch."""
        stored = self.memory.members
        return self.identities if stored is None else stored

    @property
    def renewed(self) -> bool:
        """Whether the others pinned another identity of this node when the open epoch was set up."""
        return self.members.get(self.me, self.signer.public) != self.signer.public

    @property
    def participation_key(self) -> str:
        """Journal key of who took part in the rounds of the open run, across its memberships."""
        return f"participation/{self.memory.manifest.run_id.hex()}"

    @property
    def participation(self) -> Participation:
        """Who took part in its last rounds."""
        return self.memory.read(self.participation_key, read_participation) or {}

    @property
    def approval_key(self) -> str:
        """Journal key of the run hash that used this approval up."""
        return "approval/" + self.approval

    def hello(self) -> Hello:
        """What this node approved, what it made of it, where it stands."""
        opened, closing = self.memory.opened_epoch, self.memory.closing
        return self.signer.sign(
            Hello,
            node=self.me,
            version=fedvlm_secure.__version__,
            policy_hash=policy_hash(self.policy),
            base_fingerprint=self.base_fingerprint,
            layout_digest=self.layout.digest,
            dimension=self.layout.dimension,
            run_hash=b"" if opened is None else bytes(opened.manifest.run_hash),
            epoch=-1 if opened is None else opened.epoch,
            closed_round=-1 if closing is None else closing.round,
            approval_used_by=self.memory.journal.get(self.approval_key) or b"",
        )
