"""Section: the base of every record that is read from YAML, and the few types that YAML text is read as."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, NewType

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Seconds = NewType("Seconds", int)
"""A duration; written `20s`, `30m`, `12h` or `2d`."""

Auto = Literal["auto"]

_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Section(BaseModel):
    """A frozen record; unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    TAG: ClassVar[str] = ""
    """Name of the field whose literal value selects this class among others; read before anything else."""

    SHORTHAND: ClassVar[str] = ""
    """Name of the field that a bare list stands for."""


def parse_seconds(text: str) -> Seconds:
    """Read `20s`, `30m`, `12h`, `2d`.

    Raises:
        ValueError: anything else.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a whole number and s, m, h or d, like 30m")
    return Seconds(int(match[1]) * _UNIT_S[match[2]])


def format_seconds(seconds: int) -> str:
    """Inverse of `parse_seconds`, in the largest unit that divides."""
    for unit in ("d", "h", "m"):
        if seconds % _UNIT_S[unit] == 0:
            return f"{seconds // _UNIT_S[unit]}{unit}"
    return f"{seconds}s"


def contradiction(field: str, message: str, hint: str = "") -> PydanticCustomError:
    """What a section's validator raises about one of its fields, so that it is reported at that field's line."""
    return PydanticCustomError("contradiction", "{message}", {"field": field, "message": message, "hint": hint})


def _plain_line(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise PydanticCustomError("text", "must be one printable line without spaces at its ends")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_plain_line)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
