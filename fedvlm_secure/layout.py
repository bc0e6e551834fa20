"""UpdateLayout: what the coordinates of the flat vector [d] mean, agreed by digest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.types import Digest


@dataclass(frozen=True)
class TensorSlot:
    """One trainable tensor: canonical parameter name and shape, row-major in the vector."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class UpdateLayout:
    """Names, shapes and offsets of the flat float32 vector [d], in order.

    Raises:
        ValueError: no tensor, a name twice, or a shape with a dimension below 1.
    """

    slots: tuple[TensorSlot, ...]

    def __post_init__(self) -> None:
        if not self.slots:
            raise ValueError("a layout needs at least one trainable tensor")
        if len({slot.name for slot in self.slots}) != len(self.slots):
            raise ValueError("a layout names each tensor once")
        if any(dimension < 1 for slot in self.slots for dimension in slot.shape):
            raise ValueError("a layout's shapes are positive")

    @property
    def dimension(self) -> int:
        """d, the number of coordinates."""
        return sum(slot.size for slot in self.slots)

    @property
    def digest(self) -> Digest:
        return canonical.digest("layout", [[slot.name, list(slot.shape)] for slot in self.slots])

    def spans(self) -> Iterator[tuple[TensorSlot, slice]]:
        """Each slot with its coordinates in the flat vector."""
        start = 0
        for slot in self.slots:
            yield slot, slice(start, start + slot.size)
            start += slot.size

    def tensor_at(self, coordinate: int) -> str:
        """Name of the tensor that holds a coordinate (for error messages: a name, never a value)."""
        for slot, span in self.spans():
            if span.start <= coordinate < span.stop:
                return slot.name
        raise ValueError(f"coordinate {coordinate} outside a layout of {self.dimension}")
