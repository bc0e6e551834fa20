"""The one byte encoding that is hashed, signed and journalled.

Every value is a one-byte type tag, a length or count as u64 big-endian where its size is not fixed, and its bytes.
Maps are sorted by their encoded key, -0.0 is 0.0, NaN is refused, so equal values have equal bytes and different
values different ones. Protobuf bytes are never hashed or signed: their encoding is not unique.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedvlm_secure.types import Digest

LABEL_PREFIX = "fedvlm/v1/"
_MAX_DEPTH = 32
_SIZE = struct.Struct(">Q")


def encode(value: object) -> bytes:
    """Encode bytes, str, int, float, bool, None, lists, tuples, maps with str keys, and frozen records (as maps).

    Integers must fit i64 or u64. A record's fields become a map by field name.

    Raises:
        ValueError: NaN, an integer out of range, or a type that has no encoding.
    """
    out = bytearray()
    _encode(value, out, 0)
    return bytes(out)


def _encode(value: object, out: bytearray, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("canonical encoding: nested too deeply")
    kind = type(value)
    if kind is bytes:  # by far the commonest; the rest is below in full
        out += b"b" + _SIZE.pack(len(value)) + value  # type: ignore[arg-type, operator]
        return
    match value:
        case None:
            out += b"n"
        case bool():
            out += b"t" if value else b"f"
        case bytes() | bytearray() | memoryview():
            raw = bytes(value)  # a memoryview's len counts items, not bytes
            out += b"b" + struct.pack(">Q", len(raw)) + raw
        case str():
            raw = value.encode("utf-8")
            out += b"s" + struct.pack(">Q", len(raw)) + raw
        case int():
            if 0 <= value < 1 << 64:
                out += b"u" + struct.pack(">Q", value)
            elif -(1 << 63) <= value < 0:
                out += b"i" + struct.pack(">q", value)
            else:
                raise ValueError("canonical encoding: integer outside i64 and u64")
        case float():
            if math.isnan(value):
                raise ValueError("canonical encoding: NaN")
            out += b"d" + struct.pack(">d", value + 0.0)  # -0.0 + 0.0 is 0.0
        case list() | tuple():
            out += b"l" + struct.pack(">Q", len(value))
            for item in value:
                _encode(item, out, depth + 1)
        case Mapping():
            entries = []
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError("canonical encoding: map keys are str")
                entries.append((key.encode("utf-8"), item))
            entries.sort(key=lambda entry: entry[0])
            out += b"m" + struct.pack(">Q", len(entries))
            for raw_key, item in entries:
                out += struct.pack(">Q", len(raw_key)) + raw_key
                _encode(item, out, depth + 1)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            _encode({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, out, depth)
        case _:
            raise ValueError(f"canonical encoding: no encoding for {type(value).__name__}")


def decode(raw: bytes) -> Any:
    """Inverse of `encode` on its image: every other byte string is refused.

    Returns:
        None, bool, bytes, str, int, float, list or dict.

    Raises:
        ValueError: truncated, trailing, unsorted or otherwise not the encoding of any value.
    """
    view = memoryview(raw)
    value, end = _decode(view, 0, 0)
    if end != len(view):
        raise ValueError("canonical encoding: trailing bytes")
    if encode(value) != raw:
        raise ValueError("canonical encoding: not the canonical form")
    return value


def decode_first(raw: bytes) -> tuple[Any, int]:
    """The value that `raw` begins with, and where it ends.

    Its form is not compared with the canonical one: who reads piece by piece has to encode again, and compare.

    Raises:
        ValueError: truncated, or no encoding.
    """
    return _decode(memoryview(raw), 0, 0)


def _take(view: memoryview, at: int, count: int) -> tuple[bytes, int]:
    if count > len(view) - at:
        raise ValueError("canonical encoding: truncated")
    return bytes(view[at : at + count]), at + count


def _take_size(view: memoryview, at: int) -> tuple[int, int]:
    raw, at = _take(view, at, 8)
    size = int.from_bytes(raw, "big")
    if size > len(view) - at:  # every counted item takes at least one byte, so this also bounds lists
        raise ValueError("canonical encoding: truncated")
    return size, at


def _decode(view: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("canonical encoding: nested too deeply")
    tag, at = _take(view, at, 1)
    match tag:
        case b"n":
            return None, at
        case b"t" | b"f":
            return tag == b"t", at
        case b"b" | b"s":
            size, at = _take_size(view, at)
            raw, at = _take(view, at, size)
            return (raw if tag == b"b" else raw.decode("utf-8")), at
        case b"u" | b"i" | b"d":
            raw, at = _take(view, at, 8)
            return struct.unpack({b"u": ">Q", b"i": ">q", b"d": ">d"}[tag], raw)[0], at
        case b"l":
            count, at = _take_size(view, at)
            items = []
            for _ in range(count):
                item, at = _decode(view, at, depth + 1)
                items.append(item)
            return items, at
        case b"m":
            count, at = _take_size(view, at)
            entries: dict[str, Any] = {}
            for _ in range(count):
                size, at = _take_size(view, at)
                raw, at = _take(view, at, size)
                entries[raw.decode("utf-8")], at = _decode(view, at, depth + 1)
            if len(entries) != count:
                raise ValueError("canonical encoding: duplicate key")
            return entries, at
        case _:
            raise ValueError("canonical encoding: unknown type tag")


def digest(label: str, *values: object) -> Digest:
    """SHA-256 over the label `fedvlm/v1/<label>` and the values, canonically encoded as one list."""
    return Digest(hashlib.sha256(encode([LABEL_PREFIX + label, *values])).digest())


def digests(label: str, shared: Sequence[object], tails: Iterable[Sequence[object]]) -> Iterator[Digest]:
    """`digest(label, *shared, *tail)` of every tail; what they share is encoded and hashed once.

    Args:
        tails: all of one length.
    """
    before: hashlib._Hash | None = None
    length = 0
    for tail in tails:
        if before is None:
            length = len(tail)
            head = bytearray(b"l" + _SIZE.pack(1 + len(shared) + length))
            for value in (LABEL_PREFIX + label, *shared):
                _encode(value, head, 1)
            before = hashlib.sha256(head)
        if len(tail) != length:
            raise ValueError("canonical digests: tails of different lengths")
        rest = bytearray()
        for value in tail:
            _encode(value, rest, 1)
        hashed = before.copy()
        hashed.update(rest)
        yield Digest(hashed.digest())
