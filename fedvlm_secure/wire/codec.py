"""One converter for every record: dataclass to protobuf and back, field by field from the declared types."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.wire.admission import admit, malformed
from fedvlm_secure.wire.fields import MAX_ENVELOPE_BYTES, WireField, wire_fields
from fedvlm_secure.wire.generated import fedvlm_pb2

R = TypeVar("R", bound=Record)


def to_wire(record: Record) -> bytes:
    """Protobuf bytes of a record.

    Raises:
        ValueError: longer than one envelope, or a list longer than its bound (our fault: the cohort is too large).
    """
    message = _message_class(type(record))()
    _fill(message, record)
    raw = message.SerializeToString()
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise ValueError(f"{type(record).__name__}: {len(raw)} bytes do not fit {MAX_ENVELOPE_BYTES}")
    return raw


def from_wire(cls: type[R], raw: bytes) -> R:
    """Inverse of `to_wire`: every bound is checked before protobuf sees the bytes.

    Raises:
        PeerViolation: MALFORMED_MESSAGE, whatever the bytes are.
    """
    admit(cls, raw)
    try:
        message = _message_class(cls).FromString(raw)
        return _read(cls, message)
    except (DecodeError, ValueError) as error:
        if isinstance(error, PeerViolation):
            raise
        raise malformed(f"{cls.__name__}: its fields contradict their declared types or each other") from None


def _message_class(cls: type[Record]) -> type[Message]:
    found: type[Message] = getattr(fedvlm_pb2, cls.__name__)
    return found


def _fill(message: Any, record: Record) -> None:
    for field in wire_fields(type(record)):
        value = getattr(record, field.name)
        if field.repeated and len(value) > field.max_items:
            raise ValueError(f"{type(record).__name__}.{field.name}: more than {field.max_items} entries")
        if field.record is None:
            if field.repeated:
                getattr(message, field.name).extend(value)
            else:
                setattr(message, field.name, value)
        elif field.repeated:
            target = getattr(message, field.name)
            for item in value:
                _fill(target.add(), item)
        elif value is not None:
            nested = getattr(message, field.name)
            nested.SetInParent()  # an empty nested record is present all the same
            _fill(nested, value)


def _read(cls: type[R], message: Any) -> R:
    return cls(**{field.name: _read_field(field, message) for field in wire_fields(cls)})


def _read_field(field: WireField, message: Any) -> Any:
    if field.record is None:
        value = getattr(message, field.name)
        if field.is_float and not math.isfinite(value):
            raise ValueError("not a finite number")
        return tuple(value) if field.repeated else value
    if field.repeated:
        return tuple(_read(field.record, item) for item in getattr(message, field.name))
    if message.HasField(field.name):
        return _read(field.record, getattr(message, field.name))
    if field.optional:
        return None
    raise ValueError(f"{field.name} is missing")
