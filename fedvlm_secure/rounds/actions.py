"""What a machine asks its service to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.rounds.vectors import StoredVector, chunks_of
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, UploadBundle
from fedvlm_secure.types import Digest, Float32Vector, Int64Vector, NodeId


@dataclass(frozen=True)
class Send:
    """Node: send this message."""

    message: NodeMessage


@dataclass(frozen=True)
class Upload:
    """Node: stream this bundle and this vector (little-endian u64 words), resuming at a chunk border.

    A vector whose chunks are gone is not to be sent any more: its attempt is over.
    """

    __match_args__ = ("bundle", "content")

    bundle: UploadBundle
    vector: StoredVector

    @property
    def content(self) -> bytes:
        """The whole vector at once: for those who hold it in memory anyway, as a simulation does."""
        return b"".join(chunks_of(self.vector))


@dataclass(frozen=True)
class Train:
    """Node: train locally from this state (float32 [d], difference from the common start), then call `trained`."""

    round: int
    attempt: int
    state: Float32Vector


@dataclass(frozen=True)
class Evaluate:
    """Node: this state (float32 [d]) stands after `round` closed rounds; score it locally. `last` after the last."""

    round: int
    state: Float32Vector
    last: bool


@dataclass(frozen=True)
class Stop:
    """Node: the run is over for this node; `error` says why if it did not simply end."""

    error: FedvlmError | None


NodeAction = Send | Upload | Train | Evaluate | Stop


@dataclass(frozen=True)
class LocalUpdate:
    """What local training hands over.

    Args:
        update: float32 [d], trained state less the state it started from.
        rows: training rows behind it (the counted weight is min(rows, cap) / cap).
        loss_sum: sum of the training loss over `loss_count` rows, >= 0.
        correct, total: per task, local test questions right and asked at the state the round started from.
        right, wrong: per task, the same summed over test patients, each of whom counts for one patient in all, in steps
            of 1/1024 patient (`dp.score_release`); exact here, noised before they are stored or sent.
        integers: under `distributed` int64 [d], the hospital's clipped sum of gradients in grid steps, exact here and
            noised before it is stored or sent; `update` is not used then.
    """

    update: Float32Vector
    rows: int
    loss_sum: float
    loss_count: int
    correct: Mapping[str, int]
    total: Mapping[str, int]
    right: Mapping[str, int] = field(default_factory=dict)
    wrong: Mapping[str, int] = field(default_factory=dict)
    integers: Int64Vector | None = None


@dataclass(frozen=True)
class ToNode:
    """Aggregator: send this message; `attachment` names a blob that the node will download with it."""

    to: NodeId
    message: AggregatorMessage
    attachment: Digest | None = None


Outbox = tuple[ToNode, ...]
