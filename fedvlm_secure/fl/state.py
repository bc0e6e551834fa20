"""ServerState: the model's difference from the common start and what the algorithm remembers, in memory or stored.

A step needs a state once, block by block, and so do its digest and its encoding: whatever holds one, nothing here
makes a second one of it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.fl.state_form import Reader, StateForm
from fedvlm_secure.types import Digest, Float32Vector, Float64Vector

BLOCK = 1 << 14
"""Coordinates of a block: what a step makes of one stays in cache."""

Block = Float32Vector | Float64Vector


class State(ABC):
    """What a closed round leaves behind, wherever it is held."""

    @property
    @abstractmethod
    def form(self) -> StateForm:
        """All of it but the content of its arrays."""

    @abstractmethod
    def blocks(self, array: int) -> Iterator[Block]:
        """One array in blocks of `BLOCK` values, at least one: the model float32 [d] if 0, else a slot, float64 [d]."""

    @property
    def digest(self) -> Digest:
        """Hash of the little-endian bytes of every array, in name order. -0.0 counts as 0.0."""
        form = self.form
        model, *slots = (_hash(self.blocks(array)) for array in range(1 + len(form.slots)))
        return canonical.digest("state", model, dict(zip(form.slots, slots, strict=True)), dict(form.numbers))

    def parts(self) -> Iterator[ServerState]:
        """The state cut into consecutive ones of `BLOCK` coordinates."""
        form = self.form
        for model, *slots in zip(*(self.blocks(array) for array in range(1 + len(form.slots))), strict=True):
            yield ServerState(model, dict(zip(form.slots, slots, strict=True)), form.numbers)

    def encoded(self, chunk_bytes: int) -> Iterator[bytes]:
        """`to_bytes` in pieces of `chunk_bytes`, the last of which may be shorter."""
        held = bytearray()
        for piece in self._pieces():
            held += piece
            while len(held) >= chunk_bytes:
                yield bytes(held[:chunk_bytes])
                del held[:chunk_bytes]
        if held:
            yield bytes(held)

    def _pieces(self) -> Iterator[bytes | memoryview]:
        heads = self.form.heads
        for array, head in enumerate(heads[:-1]):
            yield head
            yield from map(_little_endian, self.blocks(array))
        yield heads[-1]

    def to_bytes(self) -> bytes:
        """The whole encoding; see `StateForm`."""
        return b"".join(self._pieces())


@dataclass(frozen=True)
class ServerState(State):
    """A state in memory.

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
    def form(self) -> StateForm:
        return StateForm.of(len(self.model), self.slots, self.numbers)

    def blocks(self, array: int) -> Iterator[Block]:
        """Views of the array; see `State.blocks`."""
        whole = self.slots[self.form.slots[array - 1]] if array else self.model
        return (whole[at : at + BLOCK] for at in range(0, max(1, len(whole)), BLOCK))

    @staticmethod
    def joined(dimension: int, parts: Iterable[ServerState]) -> ServerState:
        """The state of `dimension` coordinates that `State.parts` would cut into these.

        Raises:
            ValueError: they are none, or have not as many coordinates.
        """
        model: Float32Vector = np.empty(dimension, dtype=np.float32)
        slots: dict[str, Float64Vector] = {}
        numbers: Mapping[str, float] = {}
        end = 0
        for part in parts:
            start, end = end, end + len(part.model)
            model[start:end] = part.model
            for name, slot in part.slots.items():
                if name not in slots:
                    slots[name] = np.empty(dimension)
                slots[name][start:end] = slot
            numbers = part.numbers
        if end != dimension:
            raise ValueError(f"parts of {end} coordinates are no state of {dimension}")
        return ServerState(model, slots, numbers)

    @staticmethod
    def from_bytes(raw: bytes) -> ServerState:
        """Inverse of `to_bytes`.

        Raises:
            ValueError: not the encoding of a state.
        """
        return StoredState.read(lambda: lambda start, size: raw[start : start + size], len(raw)).load()


@dataclass(frozen=True)
class StoredState(State):
    """A state that stays where its encoding is held; each use reads what it needs of it.

    Args:
        open_reader: a reader of the encoding for one pass over one array.
    """

    stored_form: StateForm
    open_reader: Callable[[], Reader]

    @staticmethod
    def read(open_reader: Callable[[], Reader], size_bytes: int) -> StoredState:
        """The state whose encoding of `size_bytes` the readers read.

        Raises:
            ValueError: not the encoding of a state.
        """
        return StoredState(StateForm.read(open_reader(), size_bytes), open_reader)

    @property
    def form(self) -> StateForm:
        return self.stored_form

    @property
    def model(self) -> Float32Vector:
        """The model alone, float32 [d]."""
        whole: Float32Vector = np.empty(self.form.dimension, dtype=np.float32)
        for at, block in enumerate(self.blocks(0)):
            whole[at * BLOCK : (at + 1) * BLOCK] = block
        return whole

    def blocks(self, array: int) -> Iterator[Block]:
        """Read one after the other; see `State.blocks`.

        Raises:
            ValueError: the encoding is not held any more.
        """
        start, item = self.form.starts[array], np.dtype("<f8" if array else "<f4")
        reader = self.open_reader()
        for at in range(0, max(1, self.form.dimension), BLOCK):
            count = min(BLOCK, self.form.dimension - at)
            raw = reader(start + at * item.itemsize, count * item.itemsize)
            yield np.frombuffer(raw, dtype=item, count=count).astype(item.newbyteorder("="), copy=False)

    def load(self) -> ServerState:
        """All of it, in memory."""
        return ServerState.joined(self.form.dimension, self.parts())


def _hash(blocks: Iterable[Block]) -> bytes:
    hasher = hashlib.sha256()
    for block in blocks:
        hasher.update(_little_endian(block))
    return hasher.digest()


def _little_endian(block: Block) -> memoryview:
    without_minus_zero = block + block.dtype.type(0)
    return without_minus_zero.astype(block.dtype.newbyteorder("<"), copy=False).view(np.uint8).data
