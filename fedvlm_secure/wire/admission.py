"""Measure a message before protobuf parses it, so that nothing is allocated for what is refused.

The walk follows the declared fields: an unknown field, a wire type that is not the field's, a singular field written
twice, a list longer than its bound and a digest of another size all end it. Its cost is one step per field present.
"""

from __future__ import annotations

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.wire.fields import (
    MAX_ENVELOPE_BYTES,
    WireField,
    WireType,
    wire_fields,
)

_MAX_VARINT_BYTES = 10


def malformed(cause: str) -> PeerViolation:
    """The one error for whatever cannot be a message of the protocol. `cause` never holds the peer's bytes."""
    return PeerViolation(
        "MALFORMED_MESSAGE",
        cause,
        "the message was dropped unread; compare the versions of both sides",
    )


def admit(cls: type[Record], raw: bytes) -> None:
    """Refuse what is not a well-formed `cls` within all bounds.

    Raises:
        PeerViolation: MALFORMED_MESSAGE.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise malformed(f"{cls.__name__}: {len(raw)} bytes, at most {MAX_ENVELOPE_BYTES} are read")
    _walk(cls, raw, 0, len(raw))


def _walk(cls: type[Record], raw: bytes, at: int, end: int) -> None:
    by_number = {field.number: field for field in wire_fields(cls)}
    counts: dict[int, int] = {}
    while at < end:
        tag, at = _varint(raw, at, end, cls)
        field = by_number.get(tag >> 3)
        if field is None or tag & 7 != field.wire_type.value:
            raise malformed(f"{cls.__name__}: field number or type that it does not have")
        counts[field.number] = counts.get(field.number, 0) + 1
        if counts[field.number] > field.max_items:
            raise malformed(f"{cls.__name__}.{field.name}: more than {field.max_items} entries")
        at = _skip(cls, field, raw, at, end)


def _skip(cls: type[Record], field: WireField, raw: bytes, at: int, end: int) -> int:
    if field.wire_type is WireType.VARINT:
        return _varint(raw, at, end, cls)[1]
    if field.wire_type is WireType.FIXED64:
        if end - at < 8:
            raise malformed(f"{cls.__name__}.{field.name}: truncated")
        return at + 8
    size, at = _varint(raw, at, end, cls)
    if size > end - at:
        raise malformed(f"{cls.__name__}.{field.name}: truncated")
    if not field.min_bytes <= size <= field.max_bytes:
        raise malformed(f"{cls.__name__}.{field.name}: {size} bytes, not {field.min_bytes} to {field.max_bytes}")
    if field.record is not None:
        _walk(field.record, raw, at, at + size)
    return at + size


def _varint(raw: bytes, at: int, end: int, cls: type[Record]) -> tuple[int, int]:
    value = 0
    for position in range(_MAX_VARINT_BYTES):
        if at >= end:
            raise malformed(f"{cls.__name__}: truncated")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at
    raise malformed(f"{cls.__name__}: a number longer than 64 bits")
