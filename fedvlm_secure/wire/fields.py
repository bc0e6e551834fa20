"""How each field of a record is written: read once from its declared type, used by the check and by the converter."""

from __future__ import annotations

import types as pytypes
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedvlm_secure.secagg.record import MAX_TEXT_BYTES, Record, field_types
from fedvlm_secure.types import DIGEST_BYTES, SIGNATURE_BYTES, Digest, NodeId, Signature

MAX_ENVELOPE_BYTES = 4 << 20
"""Largest protobuf message that is looked at. A cohort of 100 needs 1.2 MB for its largest, the survivor set."""

MAX_LIST = 1024
"""Longest list: no cohort is larger."""

MAX_SQUARE_LIST = MAX_ENVELOPE_BYTES // DIGEST_BYTES
"""Longest list with one entry per pair of nodes: what fits an envelope when each entry is a digest."""

_ONE_PER_PAIR = frozenset({"pair_shares", "leaves"})
_NODE_ID_BYTES = 64


class WireType(Enum):
    """The protobuf wire types in use (protobuf encoding guide, "Message structure")."""

    VARINT = 0
    FIXED64 = 1
    LENGTH = 2


@dataclass(frozen=True)
class WireField:
    """One field as it travels.

    Args:
        name, number: as in proto/fedvlm.proto.
        wire_type: how protobuf writes it.
        record: class of a nested record, or None.
        max_items: 1, or the longest list.
        repeated: a list.
        optional: may be absent (nested records only; an absent number or text is 0 or empty).
        min_bytes, max_bytes: size of one entry, where it is written with a length.
        is_float: a double; must be finite.
    """

    name: str
    number: int
    wire_type: WireType
    record: type[Record] | None
    max_items: int
    repeated: bool
    optional: bool
    min_bytes: int
    max_bytes: int
    is_float: bool


_SIZES: Mapping[Any, tuple[WireType, int, int]] = {
    int: (WireType.VARINT, 0, 0),
    bool: (WireType.VARINT, 0, 0),
    float: (WireType.FIXED64, 0, 0),
    NodeId: (WireType.LENGTH, 1, _NODE_ID_BYTES),
    Digest: (WireType.LENGTH, DIGEST_BYTES, DIGEST_BYTES),
    Signature: (WireType.LENGTH, SIGNATURE_BYTES, SIGNATURE_BYTES),
    str: (WireType.LENGTH, 0, MAX_TEXT_BYTES),
    bytes: (WireType.LENGTH, 0, MAX_ENVELOPE_BYTES),
}

_FIELDS: dict[type[Record], tuple[WireField, ...]] = {}


def wire_fields(cls: type[Record]) -> tuple[WireField, ...]:
    """The fields of a record class, numbered from 1 in the order of their declaration."""
    if cls not in _FIELDS:
        _FIELDS[cls] = tuple(
            _wire_field(name, number, declared) for number, (name, declared) in enumerate(field_types(cls).items(), 1)
        )
    return _FIELDS[cls]


def _wire_field(name: str, number: int, declared: Any) -> WireField:
    repeated = typing.get_origin(declared) is tuple
    optional = typing.get_origin(declared) in (pytypes.UnionType, typing.Union)
    inner = declared
    if repeated or optional:
        inner = next(arg for arg in typing.get_args(declared) if arg not in (type(None), Ellipsis))
    record = inner if isinstance(inner, type) and issubclass(inner, Record) else None
    if (inner not in _SIZES and record is None) or (optional and record is None):
        raise TypeError(f"{name}: {declared} has no form on the wire")
    wire_type, low, high = _SIZES.get(inner, (WireType.LENGTH, 0, MAX_ENVELOPE_BYTES))
    if repeated and wire_type is not WireType.LENGTH:
        raise TypeError(f"{name}: lists of numbers have no form on the wire")
    longest = MAX_SQUARE_LIST if name in _ONE_PER_PAIR else MAX_LIST
    return WireField(
        name=name,
        number=number,
        wire_type=wire_type,
        record=record,
        max_items=longest if repeated else 1,
        repeated=repeated,
        optional=optional,
        min_bytes=low,
        max_bytes=high,
        is_float=inner is float,
    )
