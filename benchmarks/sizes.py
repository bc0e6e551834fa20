"""Row 5 and the second half of row 10: bytes of an upload, and bytes of a round beyond the vector."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.case import Case
from benchmarks.masked_round import MaskedRound, update_of
from benchmarks.row import Row, Target, at_most
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.ring.lanes import FOUR_LANES, LaneFormat
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, UploadBundle
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.types import Digest, Float32Vector, NodeId
from fedvlm_secure.wire.codec import to_wire
from fedvlm_secure.wire.envelopes import AggregatorEnvelope, NodeEnvelope, UploadPart, enclose

POLICIES = Path(__file__).resolve().parents[1] / "policies"
DIMENSION = 10_000_000
SETUP = frozenset({"Hello", "OpenEpoch", "KeyAdvert", "EpochKeys", "EpochAck", "EpochReady", "Finished"})
BEYOND = {5: at_most(0.01, "value"), 20: None, 100: at_most(0.05, "value")}
_BASE = Digest(bytes(range(32)))


def cases(quick: bool) -> list[Case]:
    """Upload sizes, and the messages of a simulated round."""
    return [
        Case("bytes/upload", uploads),
        *(Case(f"bytes/beyond-n{nodes}", partial(beyond, nodes)) for nodes in ((5,) if quick else (5, 20, 100))),
    ]


def uploads() -> list[Row]:
    """Bytes of the vector of one upload over those of the same update as float32."""
    return [
        _upload("three-lanes", 32, None, at_most(0.675)),
        _upload("four-lanes", 32, FOUR_LANES, at_most(0.501)),
        _upload("two-lanes", 100, None, None),
    ]


def _upload(name: str, nodes: int, lanes: LaneFormat | None, target: Target | None) -> Row:
    vector = MaskedRound(nodes, DIMENSION, lanes=lanes).vector
    size_bytes, plain = vector.words * 8, DIMENSION * 4
    return Row(
        name=f"upload-bytes/{name}",
        value=size_bytes,
        unit="bytes",
        against="plain float32",
        against_value=plain,
        ratio=size_bytes / plain,
        ratio_is="bytes of the masked vector over 4 d; Flower's SecAgg+ sends 2.0 (int64 words)",
        target=target,
        facts={"nodes_at_most": vector.lanes.max_nodes, "value_bits": vector.lanes.value_bits, "dimension": DIMENSION},
    )


class _Numbers:
    """Local work without a model."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.layout = UpdateLayout((TensorSlot("connector.weight", (300,)),))
        self.base_fingerprint = _BASE

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        return LocalUpdate(update_of(self._number, len(state)), 10, 0.0, 10, {}, {})

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        """Nothing is scored."""


def beyond(nodes: int) -> list[Row]:
    """Bytes of a round's messages beyond the vector that a hospital sends, and beyond the sum that it receives."""
    sent: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}

    def count(direction: str, node: NodeId, message: NodeMessage | AggregatorMessage) -> bool:
        kind = type(message).__name__
        if kind not in SETUP:
            sent[direction][kind] += len(_on_the_wire(message))
        return True

    works = {NodeId(f"node-{at:03d}"): _Numbers(at) for at in range(nodes)}
    Federation(_policy(), works, tap=count).run()
    return [_beyond(nodes, "sent", sent["up"]), _beyond(nodes, "received", sent["down"])]


def _beyond(nodes: int, direction: str, messages: Counter[str]) -> Row:
    control, vector = sum(messages.values()) / nodes, MaskedRound(nodes, DIMENSION).vector.words * 8
    return Row(
        name=f"bytes-beyond-the-vector/{direction}-n{nodes}-d10M",
        value=control / vector,
        unit="of the vector's bytes",
        target=BEYOND[nodes],
        facts={
            "bytes_per_hospital_and_round": control,
            "vector_bytes": vector,
            "by_message": {kind: size / nodes for kind, size in sorted(messages.items())},
            "counted": "one round, nobody lost; without TLS framing and heartbeats",
        },
    )


def _on_the_wire(message: NodeMessage | AggregatorMessage) -> bytes:
    if isinstance(message, UploadBundle):
        return to_wire(UploadPart(bundle=message))
    envelope = NodeEnvelope if type(message).__name__ in _FROM_NODES else AggregatorEnvelope
    return to_wire(enclose(envelope, message))


_FROM_NODES = frozenset({"SurvivorSignature", "Refusal", "Reveal", "ResultAck", "VoidAck"})


def _policy() -> Policy:
    policy = load_policy(POLICIES / "fedavg.yaml")
    values = policy.model_dump()
    values["model"]["base"]["sha256"] = _BASE.hex()
    values["rounds"] = 1
    values["evaluation"] |= {"release": "none"}
    values["limits"]["step_norm"] = float(np.float32(1e9))
    return Policy.model_validate(values)
