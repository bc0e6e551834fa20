"""Record and Statement: frozen messages that check themselves, and the ones that carry a signature."""

from __future__ import annotations

import dataclasses
import math
import types as pytypes
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar, TypeVar, dataclass_transform

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import DIGEST_BYTES, SIGNATURE_BYTES, Digest, NodeId, Signature, node_id

MAX_TEXT_BYTES = 4096


_FIELD_TYPES: dict[str, Mapping[str, Any]] = {}  # resolving annotations is slow; a class's never change


def field_types(cls: type[Any]) -> Mapping[str, Any]:
    """The resolved type of each field of a record class, in order."""
    key = f"{cls.__module__}.{cls.__qualname__}"
    if key not in _FIELD_TYPES:
        hints = typing.get_type_hints(cls)
        _FIELD_TYPES[key] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _FIELD_TYPES[key]


Check = Callable[[Any, str], None]
"""(value, where) of a field; raises ValueError."""


@cache
def _check_of(expected: Any) -> Check:
    """The check of a declared type, made once: messages are checked far more often than there are types."""
    if expected in (Digest, Signature):
        return partial(_check_size, DIGEST_BYTES if expected is Digest else SIGNATURE_BYTES)
    if expected in _CHECKS:
        return _CHECKS[expected]
    if typing.get_origin(expected) is tuple:
        return partial(_check_items, _check_of(typing.get_args(expected)[0]))
    if typing.get_origin(expected) in _UNIONS:
        inner = _check_of(_present(expected))
        return lambda value, where: None if value is None else inner(value, where)
    return partial(_check_class, expected)


def _check_node(value: str, _: str) -> None:
    node_id(value)


def _check_size(size: int, value: object, where: str) -> None:
    if not isinstance(value, bytes) or len(value) != size:
        raise ValueError(f"{where} has {size} bytes")


def _check_int(value: object, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{where} is a 64-bit integer")


def _check_float(value: object, where: str) -> None:
    if not isinstance(value, float) or math.isnan(value):  # NaN has no encoding: it could not be hashed
        raise ValueError(f"{where} is a number")


def _check_text(value: object, where: str) -> None:
    if not isinstance(value, str) or len(value.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"{where} is text of at most {MAX_TEXT_BYTES} bytes")


def _check_items(check: Check, value: object, where: str) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{where} is a tuple")
    for item in value:
        check(item, where)


def _check_class(expected: type[Any], value: object, where: str) -> None:
    if not isinstance(value, expected):
        raise ValueError(f"{where} is not of type {expected}")


def _present(union: Any) -> Any:
    """T of `T | None`."""
    return next(arg for arg in typing.get_args(union) if arg is not type(None))


_CHECKS: Mapping[Any, Check] = {NodeId: _check_node, int: _check_int, float: _check_float, str: _check_text}
_UNIONS = (pytypes.UnionType, typing.Union)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen message whose fields are checked against their declared types when it is made.

    Field types: NodeId, Digest, Signature, bytes, str, int (64 bits), float, other records, `T | None`,
    `tuple[T, ...]`.

    Raises:
        ValueError: a field does not hold its type, an id or a length its bound.
    """

    def __post_init__(self) -> None:
        for name, expected in field_types(type(self)).items():
            _check_of(expected)(getattr(self, name), f"{type(self).__name__}.{name}")


def record_bytes(record: Record) -> bytes:
    """Canonical encoding of a record (what a journal stores)."""
    return canonical.encode(record)


R = TypeVar("R", bound=Record)


def record_from_bytes(cls: type[R], raw: bytes) -> R:
    """Inverse of `record_bytes`.

    Raises:
        ValueError: not the encoding of a `cls`.
    """
    return _build(cls, canonical.decode(raw))


def _build(cls: type[R], values: object) -> R:
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} is encoded as a map")
    hints = field_types(cls)
    if set(values) != set(hints):
        raise ValueError(f"{cls.__name__} has other fields")
    return cls(**{name: _reading_of(hints[name])(value) for name, value in values.items()})


@cache
def _reading_of(expected: Any) -> Callable[[Any], Any]:
    """What makes a field's value of a declared type from its decoded form; see `_check_of`."""
    if typing.get_origin(expected) is tuple:
        return partial(_read_items, _reading_of(typing.get_args(expected)[0]))
    if typing.get_origin(expected) in _UNIONS:
        inner = _reading_of(_present(expected))
        return lambda value: None if value is None else inner(value)
    if isinstance(expected, type) and issubclass(expected, Record):
        return partial(_build, expected)
    return _as_it_is


def _read_items(read: Callable[[Any], Any], value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError("a tuple is encoded as a list")
    return tuple(value) if read is _as_it_is else tuple(map(read, value))


def _as_it_is(value: Any) -> Any:
    return value


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Statement(Record):
    """A record signed with Ed25519 by whoever states it.

    The signature is over `digest`: SHA-256 of the label and every field but the signature, canonically encoded. The
    label is bound to the class, so that a signature of one kind never serves as another.
    """

    label: ClassVar[str]
    signature: Signature

    @cached_property
    def digest(self) -> Digest:
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "signature"}
        return canonical.digest(self.label, body)


S = TypeVar("S", bound=Statement)


class Signer:
    """One party's Ed25519 identity."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def sign(self, cls: type[S], **fields: Any) -> S:
        """Make a signed statement of `cls` from its other fields."""
        draft = cls(signature=Signature(bytes(SIGNATURE_BYTES)), **fields)
        return dataclasses.replace(draft, signature=Signature(self._key.sign(draft.digest)))


def verify(statement: Statement, public: bytes) -> None:
    """Check a statement's signature under a pinned Ed25519 public key (32 bytes).

    Raises:
        PeerViolation: BAD_SIGNATURE.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(statement.signature, statement.digest)
    except InvalidSignature:
        raise PeerViolation(
            "BAD_SIGNATURE",
            f"the signature of a {type(statement).__name__} does not verify under the pinned identity",
            "compare the roster's fingerprints by telephone; the message was dropped",
        ) from None
