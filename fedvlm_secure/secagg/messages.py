"""Every message of a run. What can be derived is not sent: the dropped are the roster less the survivors.

Order within a record: nodes follow the roster's order (sorted ids). proto/PROTOCOL.md tells the story. Those of the
set-up stand in setup_messages.py and are exported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from fedvlm_secure.canonical import digest
from fedvlm_secure.secagg.record import Record, Statement
from fedvlm_secure.secagg.setup_messages import (
    EpochAck,
    EpochKeys,
    EpochReady,
    HeKeys,
    Hello,
    KeyAdvert,
    Manifest,
    OpenEpoch,
)
from fedvlm_secure.types import Digest, NodeId

__all__ = [
    "Abort",
    "AggregatorMessage",
    "CatchUp",
    "Certificate",
    "DealtShares",
    "DecryptRequest",
    "EpochAck",
    "EpochKeys",
    "EpochReady",
    "Finished",
    "HeKeys",
    "Hello",
    "KeyAdvert",
    "Manifest",
    "NodeMessage",
    "OpenEpoch",
    "Plan",
    "Refusal",
    "Result",
    "ResultAck",
    "Reveal",
    "RevealRequest",
    "SurvivorSet",
    "SurvivorSignature",
    "UploadBundle",
    "UploadHeader",
    "VoidAck",
    "VoidRequest",
    "survivor_digest",
]

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


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

    Encrypted and unprotected uploads, and a decrypted sum on its way up, are a header without commitments and nothing
    else.
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
    """R2, to one holder: all headers of S and what each dealer in S dealt to this holder.

    In homomorphic mode nothing is dealt.
    """

    ctx: Digest
    headers: tuple[UploadHeader, ...]
    dealt: tuple[DealtShares, ...]  # one per header, or none


def _check_code(code: str) -> None:
    """A code is printed, logged and put on record as it stands: no peer gets anything but a code into it."""
    if _CODE.fullmatch(code) is None:
        raise ValueError("a code is made of capital letters, digits and underscores")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_code(self.code)


@dataclass(frozen=True, kw_only=True)
class RevealRequest(Record):
    """R3: at least t signatures over one digest. What to send follows from the S a node signed or saw."""

    ctx: Digest
    signatures: tuple[SurvivorSignature, ...]


@dataclass(frozen=True, kw_only=True)
class DecryptRequest(Statement):
    """R3 in homomorphic mode, signed by the aggregator: at least t signatures over one digest, and the encrypted sum.

    The sum travels as an attachment; the answer is an upload.
    """

    label: ClassVar[str] = "decrypt-request"
    ctx: Digest
    sum_root: Digest
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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_code(self.code)


NodeMessage = (
    Hello
    | KeyAdvert
    | HeKeys
    | EpochAck
    | UploadBundle
    | SurvivorSignature
    | Refusal
    | Reveal
    | ResultAck
    | VoidAck
    | Abort
)
AggregatorMessage = (
    OpenEpoch
    | EpochKeys
    | HeKeys
    | EpochReady
    | Plan
    | SurvivorSet
    | RevealRequest
    | DecryptRequest
    | Result
    | VoidRequest
    | CatchUp
    | Finished
    | Abort
)
