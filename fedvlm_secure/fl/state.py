"""ServerState: the model's difference from the common start and what the algorithm remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.types import Digest, Float32Vector, Float64Vector


@dataclass(frozen=True)
class ServerState:
    """What a closed round leaves behind.

    Args:
        model: float32 [d], difference from the common start.
        slots: per name a float64 [d] vector (moments).
        numbers: per name a float64 scalar (running products).
    """

    model: Float32Vector
    slots: Mapping[str, Float64Vector] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.dtype != np.float32 or self.model.ndim != 1:
            raise ValueError("model must be float32 [d]")
        if any(slot.dtype != np.float64 or slot.shape != self.model.shape for slot in self.slots.values()):
            raise ValueError("slots must be float64 [d]")

    @property
    def digest(self) -> Digest:
        """Hash of the little-endian bytes of every array, in name order. -0.0 counts as 0.0."""
        return canonical.digest(
            "state",
            hashlib.sha256(_little_endian(self.model)).digest(),
            {name: hashlib.sha256(_little_endian(slot)).digest() for name, slot in self.slots.items()},
            dict(self.numbers),
        )

    def to_bytes(self) -> bytes:
        return canonical.encode(
            {
                "model": _little_endian(self.model),
                "slots": {name: _little_endian(slot) for name, slot in self.slots.items()},
                "numbers": dict(self.numbers),
            }
        )

    @staticmethod
    def from_bytes(raw: bytes) -> ServerState:
        """Inverse of `to_bytes`.

        Raises:
            ValueError: not the encoding of a state.
        """
        values = canonical.decode(raw)
        shaped = isinstance(values, dict) and set(values) == {"model", "slots", "numbers"}
        if not shaped or not isinstance(values["slots"], dict) or not isinstance(values["numbers"], dict):
            raise ValueError("not a server state")
        if not all(isinstance(raw_array, bytes) for raw_array in (values["model"], *values["slots"].values())):
            raise ValueError("a server state's arrays are bytes")
        if not all(isinstance(number, float) for number in values["numbers"].values()):
            raise ValueError("a server state's numbers are float64")
        return ServerState(
            model=np.frombuffer(values["model"], dtype="<f4").astype(np.float32),
            slots={name: np.frombuffer(slot, dtype="<f8").astype(np.float64) for name, slot in values["slots"].items()},
            numbers=values["numbers"],
        )


def _little_endian(array: Float32Vector | Float64Vector) -> bytes:
    without_minus_zero = array + array.dtype.type(0)
    return without_minus_zero.astype(array.dtype.newbyteorder("<")).tobytes()
