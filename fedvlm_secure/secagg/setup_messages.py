"""The messages of the set-up: who is there, what the run is, one key of each member, one roster for all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fedvlm_secure.canonical import digest
from fedvlm_secure.secagg.record import Record, Statement
from fedvlm_secure.types import Digest, NodeId


@dataclass(frozen=True, kw_only=True)
class Hello(Statement):
    """Node: I am here, this is the policy I approved and what I made of it, and where I stand."""

    label: ClassVar[str] = "hello"
    node: NodeId
    version: str
    policy_hash: Digest
    base_fingerprint: Digest
    layout_digest: Digest
    dimension: int
    run_hash: bytes  # empty before the first epoch
    epoch: int  # -1 before the first epoch
    closed_round: int  # -1 before the first result
    approval_used_by: bytes  # run hash that used the operator's approval up; empty while it is open


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """S0: what a run is, and where its members go on from.

    Every node recomputes what follows from its own approved policy and refuses the rest. A change of membership is
    another manifest with the same `run_id`, a higher `start_epoch` and the last closing as its start.
    """

    run_id: bytes
    versions: tuple[str, ...]  # of this package that take part
    nodes: tuple[NodeId, ...]
    policy_hash: Digest
    base_fingerprint: Digest
    layout_digest: Digest
    dimension: int
    lanes_per_word: int
    scalars: tuple[str, ...]
    max_update: float
    scale_bits: int
    privacy: str
    protection: str
    colluding: int
    threshold: int
    min_survivors: int
    rounds: int
    epoch_rounds: int
    hash_name: str
    cipher_name: str
    aggregator: bytes  # Ed25519 public key
    noise_multiplier: float  # resolved sigma / clip norm; 0.0 without differential privacy
    start_epoch: int  # number of the epoch that this manifest opens; 0 for a new run
    start_round: int  # first round under this manifest
    start_result: Digest  # how the round before it was closed; 32 zero bytes before the first
    start_state: Digest  # the state to go on from

    @cached_property
    def run_hash(self) -> Digest:
        return digest("run", self)


@dataclass(frozen=True, kw_only=True)
class OpenEpoch(Statement):
    """S0, signed by the aggregator: epoch number and the manifest it is opened under."""

    label: ClassVar[str] = "open-epoch"
    manifest: Manifest
    epoch: int
    first_round: int


@dataclass(frozen=True, kw_only=True)
class KeyAdvert(Statement):
    """S1: a fresh X25519 key; this signature is the approval that the peers verify."""

    label: ClassVar[str] = "key-advert"
    node: NodeId
    run_hash: Digest
    epoch: int
    public: bytes
    holds_start: bool  # I closed the round before the start myself, and came to the manifest's state


@dataclass(frozen=True, kw_only=True)
class EpochKeys(Record):
    """S2: all adverts, relayed."""

    run_hash: Digest
    epoch: int
    adverts: tuple[KeyAdvert, ...]

    @property
    def roster_hash(self) -> Digest:
        """Covers run, epoch, members and their keys; signatures are checked, not hashed."""
        members = [[advert.node, advert.public] for advert in self.adverts]
        return digest("roster", self.run_hash, self.epoch, members)


@dataclass(frozen=True, kw_only=True)
class HeKeys(Statement):
    """S2 in homomorphic mode, by the lowest id and relayed to all: the public context, and the key sealed to each."""

    label: ClassVar[str] = "he-keys"
    node: NodeId
    roster_hash: Digest
    context: bytes
    sealed: tuple[bytes, ...]  # one per peer of the maker, in roster order


@dataclass(frozen=True, kw_only=True)
class EpochAck(Statement):
    """S2: this is the roster I verified against my own roster file; in homomorphic mode with the context of its key."""

    label: ClassVar[str] = "epoch-ack"
    node: NodeId
    roster_hash: Digest


@dataclass(frozen=True, kw_only=True)
class EpochReady(Record):
    """S2: n equal acknowledgements; only now does a node act."""

    roster_hash: Digest
    acks: tuple[EpochAck, ...]
