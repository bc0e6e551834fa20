"""Every message of a run. What can be derived is not sent: the dropped are the roster less the survivors.

Order within a record: nodes follow the roster's order (sorted ids). proto/PROTOCOL.md tells the story.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """S0: what a run is. Every node recomputes what follows from its own approved policy and refuses the rest."""

    run_id: bytes
    version: str
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

    @property
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
class EpochAck(Statement):
    """S2: this is the roster I verified against my own roster file."""

    label: ClassVar[str] = "epoch-ack"
    node: NodeId
    roster_hash: Digest


@dataclass(frozen=True, kw_only=True)
class EpochReady(Record):
    """S2: n equal acknowledgements; only now does a node act."""

    roster_hash: Digest
    acks: tuple[EpochAck, ...]


@dataclass(frozen=True, kw_only=True)
class ResultAck(Statement):
    """R4: I replayed the server step of this result and hold this state."""

    label: ClassVar[str] = "result-ack"
    node: NodeId
    run_hash: Digest
    round: int
    result_hash: Digest
    state_hash: Digest


@dataclass(frozen=True, kw_only=True)
class VoidAck(Statement):
    """I closed this round without a result and shall never sign or reveal for it."""

    label: ClassVar[str] = "void-ack"
    node: NodeId
    run_hash: Digest
    round: int
    previous_result: Digest
    state_hash: Digest

    @property
    def result_hash(self) -> Digest:
        """What stands in the chain of results in place of this round's."""
        return digest("void", self.run_hash, self.round, self.previous_result, self.state_hash)


@dataclass(frozen=True, kw_only=True)
class Certificate(Record):
    """t acknowledgements of one and the same closing of a round: by a result, or void. Exactly one kind."""

    result_acks: tuple[ResultAck, ...] = ()
    void_acks: tuple[VoidAck, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.result_acks) == bool(self.void_acks):
            raise ValueError("a certificate closes a round by a result or void, not both, not neither")
        closings = {(ack.run_hash, ack.round, ack.result_hash, ack.state_hash) for ack in self.acks}
        if len(closings) != 1 or len({ack.node for ack in self.acks}) != len(self.acks):
            raise ValueError("a certificate's acknowledgements agree and come from distinct nodes")

    @property
    def acks(self) -> tuple[ResultAck | VoidAck, ...]:
        return self.result_acks or self.void_acks

    @property
    def round(self) -> int:
        return self.acks[0].round

    @property
    def run_hash(self) -> Digest:
        return self.acks[0].run_hash

    @property
    def result_hash(self) -> Digest:
        return self.acks[0].result_hash

    @property
    def state_hash(self) -> Digest:
        return self.acks[0].state_hash


@dataclass(frozen=True, kw_only=True)
class Plan(Statement):
    """R0, signed by the aggregator: round, attempt, the state to start from, how the last round was closed."""

    label: ClassVar[str] = "plan"
    roster_hash: Digest
    round: int
    attempt: int
    state_hash: Digest
    previous_result: Digest
    certificate: Certificate | None


@dataclass(frozen=True, kw_only=True)
class UploadHeader(Statement):
    """R1: what a node commits to before anybody knows the survivors."""

    label: ClassVar[str] = "upload-header"
    node: NodeId
    ctx: Digest
    words: int
    tree_root: Digest
    self_commitment: Digest
    pair_commitments: tuple[Digest, ...]  # one per peer, in roster order
    share_root: Digest
    sealed_hashes: tuple[Digest, ...]  # one per peer, in roster order


@dataclass(frozen=True, kw_only=True)
class UploadBundle(Record):
    """R1: the header with what it commits to. The vector itself travels as an attachment.

    Unprotected runs (simulation, demo and benchmarks only) send a header without commitments and nothing else.
    """

    header: UploadHeader
    holder_digests: tuple[Digest, ...]  # one per roster member, in roster order
    sealed: tuple[bytes, ...]  # one per peer, in roster order


@dataclass(frozen=True, kw_only=True)
class DealtShares(Record):
    """One dealer's sealed shares for one holder, with the path to the dealer's signed share root."""

    sealed: bytes  # empty where the holder is the dealer
    path: tuple[Digest, ...]


@dataclass(frozen=True, kw_only=True)
class SurvivorSet(Record):
    """R2, to one holder: all headers of S and what each dealer in S dealt to this holder."""

    ctx: Digest
    headers: tuple[UploadHeader, ...]
    dealt: tuple[DealtShares, ...]  # one per header


def survivor_digest(ctx: Digest, headers: tuple[UploadHeader, ...]) -> Digest:
    """What a node signs in R2: H(ctx, S, headers)."""
    return digest("survivors", ctx, [header.node for header in headers], [header.digest for header in headers])


@dataclass(frozen=True, kw_only=True)
class SurvivorSignature(Statement):
    """R2: I opened and checked all shares dealt to me for this set, and sign no other in this attempt."""

    label: ClassVar[str] = "survivor-signature"
    node: NodeId
    ctx: Digest
    survivors: Digest


@dataclass(frozen=True, kw_only=True)
class Refusal(Statement):
    """R2: I do not sign, for this reason; no share is disclosed."""

    label: ClassVar[str] = "refusal"
    node: NodeId
    ctx: Digest
    code: str
    nodes: tuple[NodeId, ...]  # who is named: bad dealers, or the hospitals that are missing


@dataclass(frozen=True, kw_only=True)
class RevealRequest(Record):
    """R3: at least t signatures over one digest. What to send follows from the S a node signed or saw."""

    ctx: Digest
    signatures: tuple[SurvivorSignature, ...]


@dataclass(frozen=True, kw_only=True)
class Reveal(Statement):
    """R3: for each dealer v in S its share of b_v, and its shares of p_vj for each j in D. No ids are sent.

    A share of b_j for j in D, or of p_vw for v and w both in S, has no place here: both share kinds of one node cannot
    be written down.
    """

    label: ClassVar[str] = "reveal"
    node: NodeId
    ctx: Digest
    self_shares: tuple[bytes, ...]  # |S|, 33 bytes each
    pair_shares: tuple[bytes, ...]  # |S| * |D|, dealer by dealer
    leaves: tuple[Digest, ...]  # |S| * n, all leaves this holder got from each dealer in S


@dataclass(frozen=True, kw_only=True)
class Result(Statement):
    """R4, signed by the aggregator: who is in the sum, the sum's tree root and the state it leads to."""

    label: ClassVar[str] = "result"
    run_hash: Digest
    round: int
    ctx: Digest
    survivors: tuple[NodeId, ...]
    sum_root: Digest
    state_hash: Digest


@dataclass(frozen=True, kw_only=True)
class VoidRequest(Statement):
    """Signed by the aggregator: this round can yield no result any more; close it."""

    label: ClassVar[str] = "void-request"
    run_hash: Digest
    round: int
    previous_result: Digest
    state_hash: Digest


@dataclass(frozen=True, kw_only=True)
class CatchUp(Record):
    """To a node that was away: the last closing's certificate; the state travels as an attachment."""

    certificate: Certificate


@dataclass(frozen=True, kw_only=True)
class Finished(Record):
    """The run is over; its last round is certified."""

    certificate: Certificate


@dataclass(frozen=True, kw_only=True)
class Abort(Record):
    """Either side: I leave, for this reason."""

    code: str
    cause: str
    hint: str


NodeMessage = (
    Hello | KeyAdvert | EpochAck | UploadBundle | SurvivorSignature | Refusal | Reveal | ResultAck | VoidAck | Abort
)
AggregatorMessage = (
    OpenEpoch
    | EpochKeys
    | EpochReady
    | Plan
    | SurvivorSet
    | RevealRequest
    | Result
    | VoidRequest
    | CatchUp
    | Finished
    | Abort
)
