"""StateForm: where the arrays of a state stand in its encoding, so that it is written and read piece by piece."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fedvlm_secure.canonical import decode_first, encode

Reader = Callable[[int, int], bytes]
"""(start, size) -> the bytes of an encoding from `start` on, fewer than `size` only where it ends."""

MODEL_ITEM_BYTES = 4
SLOT_ITEM_BYTES = 8
_COUNT = struct.Struct(">Q")
_MOST_SLOTS = 16
_WINDOW_BYTES = 1 << 16


@dataclass(frozen=True)
class StateForm:
    """All of a state but the content of its arrays.

    The encoding is `canonical.encode({"model": bytes, "numbers": {name: float}, "slots": {name: bytes}})`: arrays as
    little-endian bytes, maps sorted by name.

    Args:
        dimension: d.
        slots: names of the float64 [d] vectors, sorted by their bytes.
        numbers: per name a float64 scalar.
    """

    dimension: int
    slots: tuple[str, ...]
    numbers: Mapping[str, float]

    @staticmethod
    def of(dimension: int, slots: Iterable[str], numbers: Mapping[str, float]) -> StateForm:
        """The form with these slots, in whatever order they come."""
        return StateForm(dimension, tuple(sorted(slots, key=lambda name: name.encode("utf-8"))), numbers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the model, then of each slot."""
        return (MODEL_ITEM_BYTES * self.dimension, *[SLOT_ITEM_BYTES * self.dimension] * len(self.slots))

    @property
    def heads(self) -> tuple[bytes, ...]:
        """What stands before the model, before each slot, and behind the last array."""
        between = _key("numbers") + encode(dict(self.numbers)) + _key("slots") + b"m" + _COUNT.pack(len(self.slots))
        before = [_key(name) + b"b" + _COUNT.pack(SLOT_ITEM_BYTES * self.dimension) for name in self.slots]
        first = b"m" + _COUNT.pack(3) + _key("model") + b"b" + _COUNT.pack(MODEL_ITEM_BYTES * self.dimension)
        if not before:
            return first, between
        return first, between + before[0], *before[1:], b""

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each array begins in the encoding, in the order of `sizes`; then the encoding's length."""
        found, at = [], 0
        for head, size in zip(self.heads, (*self.sizes, 0), strict=True):
            found.append(at + len(head))
            at += len(head) + size
        return tuple(found)

    @property
    def size_bytes(self) -> int:
        """Length of the encoding."""
        return self.starts[-1]

    @staticmethod
    def read(reader: Reader, size_bytes: int) -> StateForm:
        """The form of an encoding of `size_bytes`; its arrays are not read.

        Raises:
            ValueError: it is not the encoding of any state.
        """
        form = _guess(reader)
        ends = zip(form.starts, form.heads, strict=True)
        if form.size_bytes != size_bytes or any(reader(end - len(head), len(head)) != head for end, head in ends):
            raise ValueError("not a server state")
        return form


def _guess(reader: Reader) -> StateForm:
    """The only form that the encoding can have; whether it has it is for `StateForm.read` to compare."""
    size_at = len(StateForm(0, (), {}).heads[0]) - _COUNT.size
    size = _count(reader(size_at, _COUNT.size))
    at = size_at + _COUNT.size + size + len(_key("numbers"))
    numbers, length = decode_first(reader(at, _WINDOW_BYTES))
    if not isinstance(numbers, dict) or not all(isinstance(number, float) for number in numbers.values()):
        raise ValueError("a server state's numbers are float64")
    at += length + len(_key("slots")) + 1
    count = _count(reader(at, _COUNT.size))
    if count > _MOST_SLOTS:
        raise ValueError(f"a server state has at most {_MOST_SLOTS} slots")
    names = []
    at += _COUNT.size
    for _ in range(count):
        named = _count(reader(at, _COUNT.size))
        name = reader(at + _COUNT.size, min(named, _WINDOW_BYTES)).decode("utf-8")
        names.append(name)
        at += len(_key(name)) + 1 + _COUNT.size + SLOT_ITEM_BYTES * (size // MODEL_ITEM_BYTES)
    return StateForm.of(size // MODEL_ITEM_BYTES, set(names), numbers)  # a name that came twice makes it too short


def _key(name: str) -> bytes:
    raw = name.encode("utf-8")
    return _COUNT.pack(len(raw)) + raw


def _count(raw: bytes) -> int:
    if len(raw) != _COUNT.size:
        raise ValueError("not a server state: truncated")
    return int(_COUNT.unpack(raw)[0])
