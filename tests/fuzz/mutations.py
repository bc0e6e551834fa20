"""Structure-aware damage: a record of the protocol with some of its fields changed to what a liar would try."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

from fedvlm_secure.secagg.record import Record
from tests.fuzz.choices import Choices

R = TypeVar("R", bound=Record)

_INTEGERS = (0, 1, -1, 2, 255, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63), 1 << 40)
_FLOATS = (0.0, -1.0, 1e-320, 1e308, math.inf, -math.inf, 0.1, 3.0)
_TEXTS = ("", "x", "../../x", "\x00", "\x1b[2J\x1b[31m", "=cmd|' /C calc'!A0", "\u202e", "A" * 4096, "BAD_DEALER")
_NAMES = ("a", "b", "c", "d", "zz", "-", "0" * 64)
_LONGEST = 300


def mutated(record: R, choices: Choices) -> R:
    """The record with one to three of its fields changed; unchanged where no such record can be made."""
    for _ in range(1 + choices.below(3)):
        names = [field.name for field in dataclasses.fields(record) if field.name != "signature"]
        if not names:
            return record
        name = choices.pick(names)
        try:
            record = dataclasses.replace(record, **{name: _other(getattr(record, name), choices)})
        except ValueError:
            continue  # a record checks itself: this one cannot be written down, let alone sent
    return record


def _other(value: Any, choices: Choices) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return choices.pick((value + 1, value - 1, -value, value * 2, *_INTEGERS))
        case float():
            return choices.pick((-value, value * 2, *_FLOATS))
        case str():
            return choices.pick((*_NAMES, *_TEXTS))
        case bytes():
            return _other_bytes(value, choices)
        case tuple():
            return _other_list(value, choices)
        case None:
            return None
        case Record():
            return mutated(value, choices)
        case _:
            raise TypeError(f"a record holds a {type(value).__name__}")


def _other_bytes(value: bytes, choices: Choices) -> bytes:
    match choices.below(6):
        case 0 if value:
            at = choices.below(256) % len(value)
            return value[:at] + bytes([value[at] ^ (1 << choices.below(8))]) + value[at + 1 :]
        case 1:
            return value[:-1]
        case 2:
            return value + b"\x00"
        case 3:
            return bytes(len(value))
        case 4:
            return b"\xff" * len(value)
        case _:
            return b""


def _other_list(value: tuple[Any, ...], choices: Choices) -> tuple[Any, ...]:
    if not value:
        return value
    at = choices.below(256) % len(value)
    match choices.below(7):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return (*value[:at], value[at], *value[at:])
        case 2:
            return value[::-1]
        case 3:
            return ()
        case 4:
            return value + (value[at],) * (_LONGEST - len(value))
        case 5:
            return (*value[:at], value[-1 - at], *value[at + 1 :])
        case _:
            return (*value[:at], _other(value[at], choices), *value[at + 1 :])
