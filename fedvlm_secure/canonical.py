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
_SIZE, _SIGNED, _FLOAT = struct.Struct(">Q"), struct.Struct(">q"), struct.Struct(">d")


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
    if kind is bytes:  # these two are by far the commonest; the rest is below in full
        out += b"b" + _SIZE.pack(len(value)) + value  # type: ignore[arg-type, operator]
        return
    if kind is str:
        _encode_text(value, out)  # type: ignore[arg-type]
        return
    match value:
        case None:
            out += b"n"
        case bool():
            out += b"t" if value else b"f"
        case bytes() | bytearray() | memoryview():
            raw = bytes(value)  # a memoryview's len counts items, not bytes
            out += b"b" + _SIZE.pack(len(raw)) + raw
        case str():
            _encode_text(value, out)
        case int():
            if 0 <= value < 1 << 64:
                out += b"u" + _SIZE.pack(value)
            elif -(1 << 63) <= value < 0:
                out += b"i" + _SIGNED.pack(value)
            else:
                raise ValueError("canonical encoding: integer outside i64 and u64")
        case float():
            if math.isnan(value):
                raise ValueError("canonical encoding: NaN")
            out += b"d" + _FLOAT.pack(value + 0.0)  # -0.0 + 0.0 is 0.0
        case list() | tuple():
            out += b"l" + _SIZE.pack(len(value))
            for item in value:
                _encode(item, out, depth + 1)
        case Mapping():
            entries = []
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError("canonical encoding: map keys are str")
                entries.append((key.encode("utf-8"), item))
            entries.sort(key=lambda entry: entry[0])
            out += b"m" + _SIZE.pack(len(entries))
            for raw_key, item in entries:
                out += _SIZE.pack(len(raw_key)) + raw_key
                _encode(item, out, depth + 1)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            _encode({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, out, depth)
        case _:
            raise ValueError(f"canonical encoding: no encoding for {type(value).__name__}")


def _encode_text(value: str, out: bytearray) -> None:
    raw = value.encode("utf-8")
    out += b"s" + _SIZE.pack(len(raw)) + raw


def decode(raw: bytes) -> Any:
    """Inverse of `encode` on its image: every other byte string is refused.

    Returns:
        None, bool, bytes, str, int, float, list or dict.

    Raises:
        ValueError: truncated, trailing, unsorted or otherwise not the encoding of any value.
    """
    raw = bytes(raw)  # of a view, whose slices are views
    value, end = _decode(raw, 0, 0)
    if end != len(raw):
        raise ValueError("canonical encoding: trailing bytes")
    return value


def decode_first(raw: bytes) -> tuple[Any, int]:
    """The value that `raw` begins with, and where it ends: for who reads piece by piece.

    Raises:
        ValueError: truncated, or no encoding.
    """
    return _decode(bytes(raw), 0, 0)


def _end_of(raw: bytes, at: int, count: int) -> int:
    if count > len(raw) - at:
        raise ValueError("canonical encoding: truncated")
    return at + count


def _take_size(raw: bytes, at: int) -> tuple[int, int]:
    end = _end_of(raw, at, _SIZE.size)
    (size,) = _SIZE.unpack_from(raw, at)
    if size > len(raw) - end:  # every counted item takes at least one byte, so this also bounds lists
        raise ValueError("canonical encoding: truncated")
    return size, end


def _decode(raw: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Each tag admits only what `_encode` writes under it, so that no two byte strings decode to one value."""
    if depth > _MAX_DEPTH:
        raise ValueError("canonical encoding: nested too deeply")
    at = _end_of(raw, at, 1)
    match raw[at - 1 : at]:
        case b"b":
            size, at = _take_size(raw, at)
            return raw[at : at + size], at + size
        case b"s":
            size, at = _take_size(raw, at)
            return raw[at : at + size].decode("utf-8"), at + size
        case b"u" | b"i" | b"d" as tag:
            return _decode_number(tag, raw, at), _end_of(raw, at, _SIZE.size)
        case b"l":
            count, at = _take_size(raw, at)
            items = []
            for _ in range(count):
                item, at = _decode(raw, at, depth + 1)
                items.append(item)
            return items, at
        case b"m":
            return _decode_map(raw, at, depth)
        case b"n":
            return None, at
        case b"t" | b"f" as tag:
            return tag == b"t", at
        case _:
            raise ValueError("canonical encoding: unknown type tag")


def _decode_number(tag: bytes, raw: bytes, at: int) -> int | float:
    _end_of(raw, at, _SIZE.size)
    if tag == b"d":
        (number,) = _FLOAT.unpack_from(raw, at)
        if math.isnan(number) or (number == 0.0 and math.copysign(1.0, number) < 0.0):
            raise ValueError("canonical encoding: NaN, or a zero below zero")
        return float(number)
    (integer,) = (_SIZE if tag == b"u" else _SIGNED).unpack_from(raw, at)
    if tag == b"i" and integer >= 0:
        raise ValueError("canonical encoding: only integers below zero are signed")
    return int(integer)


def _decode_map(raw: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    count, at = _take_size(raw, at)
    entries: dict[str, Any] = {}
    before: bytes | None = None
    for _ in range(count):
        size, at = _take_size(raw, at)
        key, at = raw[at : at + size], at + size
        if before is not None and key <= before:
            raise ValueError("canonical encoding: keys out of order, or twice")
        entries[key.decode("utf-8")], at = _decode(raw, at, depth + 1)
        before = key
    return entries, at


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
