from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeEnvelope(_message.Message):
    __slots__ = ("heartbeat", "hello", "key_advert", "epoch_ack", "survivor_signature", "refusal", "reveal", "result_ack", "void_ack", "abort", "he_keys")
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    KEY_ADVERT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_ACK_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    RESULT_ACK_FIELD_NUMBER: _ClassVar[int]
    VOID_ACK_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    HE_KEYS_FIELD_NUMBER: _ClassVar[int]
    heartbeat: Heartbeat
    hello: Hello
    key_advert: KeyAdvert
    epoch_ack: EpochAck
    survivor_signature: SurvivorSignature
    refusal: Refusal
    reveal: Reveal
    result_ack: ResultAck
    void_ack: VoidAck
    abort: Abort
    he_keys: HeKeys
    def __init__(self, heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., key_advert: _Optional[_Union[KeyAdvert, _Mapping]] = ..., epoch_ack: _Optional[_Union[EpochAck, _Mapping]] = ..., survivor_signature: _Optional[_Union[SurvivorSignature, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., reveal: _Optional[_Union[Reveal, _Mapping]] = ..., result_ack: _Optional[_Union[ResultAck, _Mapping]] = ..., void_ack: _Optional[_Union[VoidAck, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., he_keys: _Optional[_Union[HeKeys, _Mapping]] = ...) -> None: ...

class AggregatorEnvelope(_message.Message):
    __slots__ = ("attachment", "open_epoch", "epoch_keys", "epoch_ready", "plan", "survivor_set", "reveal_request", "result", "void_request", "catch_up", "finished", "abort", "he_keys", "decrypt_request")
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    OPEN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_KEYS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_READY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_SET_FIELD_NUMBER: _ClassVar[int]
    REVEAL_REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    VOID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    HE_KEYS_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    attachment: bytes
    open_epoch: OpenEpoch
    epoch_keys: EpochKeys
    epoch_ready: EpochReady
    plan: Plan
    survivor_set: SurvivorSet
    reveal_request: RevealRequest
    result: Result
    void_request: VoidRequest
    catch_up: CatchUp
    finished: Finished
    abort: Abort
    he_keys: HeKeys
    decrypt_request: DecryptRequest
    def __init__(self, attachment: _Optional[bytes] = ..., open_epoch: _Optional[_Union[OpenEpoch, _Mapping]] = ..., epoch_keys: _Optional[_Union[EpochKeys, _Mapping]] = ..., epoch_ready: _Optional[_Union[EpochReady, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., survivor_set: _Optional[_Union[SurvivorSet, _Mapping]] = ..., reveal_request: _Optional[_Union[RevealRequest, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., void_request: _Optional[_Union[VoidRequest, _Mapping]] = ..., catch_up: _Optional[_Union[CatchUp, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., he_keys: _Optional[_Union[HeKeys, _Mapping]] = ..., decrypt_request: _Optional[_Union[DecryptRequest, _Mapping]] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("bundle", "chunk")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    bundle: UploadBundle
    chunk: Chunk
    def __init__(self, bundle: _Optional[_Union[UploadBundle, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("chunks_held", "complete")
    CHUNKS_HELD_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    chunks_held: int
    complete: bool
    def __init__(self, chunks_held: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("root", "first_chunk")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    root: bytes
    first_chunk: int
    def __init__(self, root: _Optional[bytes] = ..., first_chunk: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "content")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    content: bytes
    def __init__(self, index: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hello(_message.Message):
    __slots__ = ("signature", "node", "version", "policy_hash", "base_fingerprint", "layout_digest", "dimension", "run_hash", "epoch", "closed_round", "approval_used_by")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_HASH_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLOSED_ROUND_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_USED_BY_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    version: str
    policy_hash: bytes
    base_fingerprint: bytes
    layout_digest: bytes
    dimension: int
    run_hash: bytes
    epoch: int
    closed_round: int
    approval_used_by: bytes
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., version: _Optional[str] = ..., policy_hash: _Optional[bytes] = ..., base_fingerprint: _Optional[bytes] = ..., layout_digest: _Optional[bytes] = ..., dimension: _Optional[int] = ..., run_hash: _Optional[bytes] = ..., epoch: _Optional[int] = ..., closed_round: _Optional[int] = ..., approval_used_by: _Optional[bytes] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("code", "cause", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    cause: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., cause: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("run_id", "versions", "nodes", "policy_hash", "base_fingerprint", "layout_digest", "dimension", "lanes_per_word", "scalars", "max_update", "scale_bits", "privacy", "protection", "colluding", "threshold", "min_survivors", "rounds", "epoch_rounds", "hash_name", "cipher_name", "aggregator", "noise_multiplier", "start_epoch", "start_round", "start_result", "start_state")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    POLICY_HASH_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    LANES_PER_WORD_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    MAX_UPDATE_FIELD_NUMBER: _ClassVar[int]
    SCALE_BITS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_FIELD_NUMBER: _ClassVar[int]
    COLLUDING_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    HASH_NAME_FIELD_NUMBER: _ClassVar[int]
    CIPHER_NAME_FIELD_NUMBER: _ClassVar[int]
    AGGREGATOR_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    START_EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_ROUND_FIELD_NUMBER: _ClassVar[int]
    START_RESULT_FIELD_NUMBER: _ClassVar[int]
    START_STATE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    versions: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    policy_hash: bytes
    base_fingerprint: bytes
    layout_digest: bytes
    dimension: int
    lanes_per_word: int
    scalars: _containers.RepeatedScalarFieldContainer[str]
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
    aggregator: bytes
    noise_multiplier: float
    start_epoch: int
    start_round: int
    start_result: bytes
    start_state: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., versions: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[str]] = ..., policy_hash: _Optional[bytes] = ..., base_fingerprint: _Optional[bytes] = ..., layout_digest: _Optional[bytes] = ..., dimension: _Optional[int] = ..., lanes_per_word: _Optional[int] = ..., scalars: _Optional[_Iterable[str]] = ..., max_update: _Optional[float] = ..., scale_bits: _Optional[int] = ..., privacy: _Optional[str] = ..., protection: _Optional[str] = ..., colluding: _Optional[int] = ..., threshold: _Optional[int] = ..., min_survivors: _Optional[int] = ..., rounds: _Optional[int] = ..., epoch_rounds: _Optional[int] = ..., hash_name: _Optional[str] = ..., cipher_name: _Optional[str] = ..., aggregator: _Optional[bytes] = ..., noise_multiplier: _Optional[float] = ..., start_epoch: _Optional[int] = ..., start_round: _Optional[int] = ..., start_result: _Optional[bytes] = ..., start_state: _Optional[bytes] = ...) -> None: ...

class OpenEpoch(_message.Message):
    __slots__ = ("signature", "manifest", "epoch", "first_round")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    manifest: Manifest
    epoch: int
    first_round: int
    def __init__(self, signature: _Optional[bytes] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ..., epoch: _Optional[int] = ..., first_round: _Optional[int] = ...) -> None: ...

class KeyAdvert(_message.Message):
    __slots__ = ("signature", "node", "run_hash", "epoch", "public", "holds_start")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_FIELD_NUMBER: _ClassVar[int]
    HOLDS_START_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    run_hash: bytes
    epoch: int
    public: bytes
    holds_start: bool
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., run_hash: _Optional[bytes] = ..., epoch: _Optional[int] = ..., public: _Optional[bytes] = ..., holds_start: _Optional[bool] = ...) -> None: ...

class EpochKeys(_message.Message):
    __slots__ = ("run_hash", "epoch", "adverts")
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADVERTS_FIELD_NUMBER: _ClassVar[int]
    run_hash: bytes
    epoch: int
    adverts: _containers.RepeatedCompositeFieldContainer[KeyAdvert]
    def __init__(self, run_hash: _Optional[bytes] = ..., epoch: _Optional[int] = ..., adverts: _Optional[_Iterable[_Union[KeyAdvert, _Mapping]]] = ...) -> None: ...

class HeKeys(_message.Message):
    __slots__ = ("signature", "node", "roster_hash", "context", "sealed")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_HASH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    roster_hash: bytes
    context: bytes
    sealed: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., roster_hash: _Optional[bytes] = ..., context: _Optional[bytes] = ..., sealed: _Optional[_Iterable[bytes]] = ...) -> None: ...

class EpochAck(_message.Message):
    __slots__ = ("signature", "node", "roster_hash")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_HASH_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    roster_hash: bytes
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., roster_hash: _Optional[bytes] = ...) -> None: ...

class EpochReady(_message.Message):
    __slots__ = ("roster_hash", "acks")
    ROSTER_HASH_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    roster_hash: bytes
    acks: _containers.RepeatedCompositeFieldContainer[EpochAck]
    def __init__(self, roster_hash: _Optional[bytes] = ..., acks: _Optional[_Iterable[_Union[EpochAck, _Mapping]]] = ...) -> None: ...

class ResultAck(_message.Message):
    __slots__ = ("signature", "node", "run_hash", "round", "result_hash", "state_hash")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RESULT_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    run_hash: bytes
    round: int
    result_hash: bytes
    state_hash: bytes
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., run_hash: _Optional[bytes] = ..., round: _Optional[int] = ..., result_hash: _Optional[bytes] = ..., state_hash: _Optional[bytes] = ...) -> None: ...

class VoidAck(_message.Message):
    __slots__ = ("signature", "node", "run_hash", "round", "previous_result", "state_hash")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RESULT_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    run_hash: bytes
    round: int
    previous_result: bytes
    state_hash: bytes
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., run_hash: _Optional[bytes] = ..., round: _Optional[int] = ..., previous_result: _Optional[bytes] = ..., state_hash: _Optional[bytes] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("result_acks", "void_acks")
    RESULT_ACKS_FIELD_NUMBER: _ClassVar[int]
    VOID_ACKS_FIELD_NUMBER: _ClassVar[int]
    result_acks: _containers.RepeatedCompositeFieldContainer[ResultAck]
    void_acks: _containers.RepeatedCompositeFieldContainer[VoidAck]
    def __init__(self, result_acks: _Optional[_Iterable[_Union[ResultAck, _Mapping]]] = ..., void_acks: _Optional[_Iterable[_Union[VoidAck, _Mapping]]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("signature", "roster_hash", "round", "attempt", "state_hash", "previous_result", "certificate")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RESULT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    roster_hash: bytes
    round: int
    attempt: int
    state_hash: bytes
    previous_result: bytes
    certificate: Certificate
    def __init__(self, signature: _Optional[bytes] = ..., roster_hash: _Optional[bytes] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., state_hash: _Optional[bytes] = ..., previous_result: _Optional[bytes] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("signature", "node", "ctx", "words", "tree_root", "self_commitment", "pair_commitments", "share_root", "sealed_hashes")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    TREE_ROOT_FIELD_NUMBER: _ClassVar[int]
    SELF_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    PAIR_COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    SHARE_ROOT_FIELD_NUMBER: _ClassVar[int]
    SEALED_HASHES_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    ctx: bytes
    words: int
    tree_root: bytes
    self_commitment: bytes
    pair_commitments: _containers.RepeatedScalarFieldContainer[bytes]
    share_root: bytes
    sealed_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., ctx: _Optional[bytes] = ..., words: _Optional[int] = ..., tree_root: _Optional[bytes] = ..., self_commitment: _Optional[bytes] = ..., pair_commitments: _Optional[_Iterable[bytes]] = ..., share_root: _Optional[bytes] = ..., sealed_hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class UploadBundle(_message.Message):
    __slots__ = ("header", "holder_digests", "sealed")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    holder_digests: _containers.RepeatedScalarFieldContainer[bytes]
    sealed: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., holder_digests: _Optional[_Iterable[bytes]] = ..., sealed: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DealtShares(_message.Message):
    __slots__ = ("sealed", "path")
    SEALED_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sealed: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SurvivorSet(_message.Message):
    __slots__ = ("ctx", "headers", "dealt")
    CTX_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DEALT_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    headers: _containers.RepeatedCompositeFieldContainer[UploadHeader]
    dealt: _containers.RepeatedCompositeFieldContainer[DealtShares]
    def __init__(self, ctx: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[UploadHeader, _Mapping]]] = ..., dealt: _Optional[_Iterable[_Union[DealtShares, _Mapping]]] = ...) -> None: ...

class SurvivorSignature(_message.Message):
    __slots__ = ("signature", "node", "ctx", "survivors")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    ctx: bytes
    survivors: bytes
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., ctx: _Optional[bytes] = ..., survivors: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("signature", "node", "ctx", "code", "nodes")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    ctx: bytes
    code: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., ctx: _Optional[bytes] = ..., code: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class RevealRequest(_message.Message):
    __slots__ = ("ctx", "signatures")
    CTX_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    signatures: _containers.RepeatedCompositeFieldContainer[SurvivorSignature]
    def __init__(self, ctx: _Optional[bytes] = ..., signatures: _Optional[_Iterable[_Union[SurvivorSignature, _Mapping]]] = ...) -> None: ...

class DecryptRequest(_message.Message):
    __slots__ = ("signature", "ctx", "sum_root", "signatures")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    ctx: bytes
    sum_root: bytes
    signatures: _containers.RepeatedCompositeFieldContainer[SurvivorSignature]
    def __init__(self, signature: _Optional[bytes] = ..., ctx: _Optional[bytes] = ..., sum_root: _Optional[bytes] = ..., signatures: _Optional[_Iterable[_Union[SurvivorSignature, _Mapping]]] = ...) -> None: ...

class Reveal(_message.Message):
    __slots__ = ("signature", "node", "ctx", "self_shares", "pair_shares", "leaves")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SELF_SHARES_FIELD_NUMBER: _ClassVar[int]
    PAIR_SHARES_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    node: str
    ctx: bytes
    self_shares: _containers.RepeatedScalarFieldContainer[bytes]
    pair_shares: _containers.RepeatedScalarFieldContainer[bytes]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signature: _Optional[bytes] = ..., node: _Optional[str] = ..., ctx: _Optional[bytes] = ..., self_shares: _Optional[_Iterable[bytes]] = ..., pair_shares: _Optional[_Iterable[bytes]] = ..., leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("signature", "run_hash", "round", "ctx", "survivors", "sum_root", "state_hash")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    run_hash: bytes
    round: int
    ctx: bytes
    survivors: _containers.RepeatedScalarFieldContainer[str]
    sum_root: bytes
    state_hash: bytes
    def __init__(self, signature: _Optional[bytes] = ..., run_hash: _Optional[bytes] = ..., round: _Optional[int] = ..., ctx: _Optional[bytes] = ..., survivors: _Optional[_Iterable[str]] = ..., sum_root: _Optional[bytes] = ..., state_hash: _Optional[bytes] = ...) -> None: ...

class VoidRequest(_message.Message):
    __slots__ = ("signature", "run_hash", "round", "previous_result", "state_hash")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RUN_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RESULT_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    run_hash: bytes
    round: int
    previous_result: bytes
    state_hash: bytes
    def __init__(self, signature: _Optional[bytes] = ..., run_hash: _Optional[bytes] = ..., round: _Optional[int] = ..., previous_result: _Optional[bytes] = ..., state_hash: _Optional[bytes] = ...) -> None: ...

class CatchUp(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ...) -> None: ...
