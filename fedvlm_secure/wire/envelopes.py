"""What travels in one piece on each stream. The records of the protocol are in secagg/messages.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import (
    Abort,
    AggregatorMessage,
    CatchUp,
    DecryptRequest,
    EpochAck,
    EpochKeys,
    EpochReady,
    Finished,
    HeKeys,
    Hello,
    KeyAdvert,
    NodeMessage,
    OpenEpoch,
    Plan,
    Refusal,
    Result,
    ResultAck,
    Reveal,
    RevealRequest,
    SurvivorSet,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
    VoidRequest,
)
from fedvlm_secure.secagg.record import Record, field_types
from fedvlm_secure.types import DIGEST_BYTES, Digest


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Record):
    """I am alive, also while I train."""


@dataclass(frozen=True, kw_only=True)
class Chunk(Record):
    """One chunk of a vector: at most 1 MiB, counted from 0."""

    index: int
    content: bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index < 0 or len(self.content) > CHUNK_BYTES:
            raise ValueError(f"a chunk counts from 0 and has at most {CHUNK_BYTES} bytes")


@dataclass(frozen=True, kw_only=True)
class UploadReply(Record):
    """First reply: chunks held, where the upload resumes. Last reply: all held, `complete`."""

    chunks_held: int
    complete: bool


@dataclass(frozen=True, kw_only=True)
class DownloadRequest(Record):
    """Send me the attachment with this tree root, from this chunk on."""

    root: Digest
    first_chunk: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_chunk < 0:
            raise ValueError("chunks are counted from 0")


@dataclass(frozen=True, kw_only=True)
class OneOf(Record):
    """A record of which exactly one optional field is set: its body."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._set()) != 1:
            raise ValueError(f"{type(self).__name__} carries exactly one message")

    def _set(self) -> list[Record]:
        values = [getattr(self, name) for name in field_types(type(self))]
        return [value for value in values if isinstance(value, Record)]

    @property
    def body(self) -> Record:
        """The one message inside."""
        return self._set()[0]


@dataclass(frozen=True, kw_only=True)
class NodeEnvelope(OneOf):
    """Node to aggregator, on the session."""

    heartbeat: Heartbeat | None = None
    hello: Hello | None = None
    key_advert: KeyAdvert | None = None
    epoch_ack: EpochAck | None = None
    survivor_signature: SurvivorSignature | None = None
    refusal: Refusal | None = None
    reveal: Reveal | None = None
    result_ack: ResultAck | None = None
    void_ack: VoidAck | None = None
    abort: Abort | None = None
    he_keys: HeKeys | None = None


@dataclass(frozen=True, kw_only=True)
class AggregatorEnvelope(OneOf):
    """Aggregator to node, on the session; `attachment` is empty or the root of what to download first."""

    attachment: bytes = b""
    open_epoch: OpenEpoch | None = None
    epoch_keys: EpochKeys | None = None
    epoch_ready: EpochReady | None = None
    plan: Plan | None = None
    survivor_set: SurvivorSet | None = None
    reveal_request: RevealRequest | None = None
    result: Result | None = None
    void_request: VoidRequest | None = None
    catch_up: CatchUp | None = None
    finished: Finished | None = None
    abort: Abort | None = None
    he_keys: HeKeys | None = None
    decrypt_request: DecryptRequest | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attachment) not in (0, DIGEST_BYTES):
            raise ValueError("an attachment is named by its tree root, or not at all")


@dataclass(frozen=True, kw_only=True)
class UploadPart(OneOf):
    """Node to aggregator, on an upload: the bundle first, then chunks."""

    bundle: UploadBundle | None = None
    chunk: Chunk | None = None


Body = NodeMessage | AggregatorMessage | Heartbeat | Chunk
E = TypeVar("E", bound=OneOf)


def field_for(body: type[Record]) -> str:
    """Name of the envelope field that carries records of this class: `KeyAdvert` travels in `key_advert`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", body.__name__).lower()


def enclose(envelope: type[E], body: Body, *, attachment: Digest | None = None) -> E:
    """Put a message into the envelope of its stream.

    Raises:
        ValueError: the message does not travel on that stream.
    """
    name = "bundle" if isinstance(body, UploadBundle) else field_for(type(body))
    if name not in field_types(envelope):
        raise ValueError(f"a {type(body).__name__} does not travel in a {envelope.__name__}")
    extra = {} if attachment is None else {"attachment": bytes(attachment)}
    return envelope(**{name: body}, **extra)
