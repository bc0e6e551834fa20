"""One YAML scalar, read as one declared type. YAML's own guesses (`no`, `1e-5`, `0123`, `1:30`) play no part."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml

from fedvlm_secure.policy.section import Seconds, parse_seconds

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][-+]?[0-9]{1,3})?")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Unreadable(Exception):
    """The text is not of the declared type; the message says what is expected."""


def is_null(node: yaml.ScalarNode) -> bool:
    """Whether the value is left out: empty, `~` or `null` without quotes."""
    return node.style is None and node.value in _NULLS


def read_literal(node: yaml.ScalarNode, choices: tuple[object, ...]) -> object:
    """The choice whose text this is.

    Raises:
        Unreadable: none of them.
    """
    for choice in choices:
        if node.value == str(choice):
            return choice
    raise Unreadable(" | ".join(str(choice) for choice in choices))


def read_scalar(node: yaml.ScalarNode, kind: Any, folder: Path) -> object:
    """Read `node` as str, int, float, bool, Seconds, Path (relative to `folder`), None, or a Literal's choice.

    Raises:
        Unreadable: it is not one.
    """
    if choices := get_args(kind):
        return read_literal(node, choices)
    if kind is NoneType:
        if is_null(node):
            return None
        raise Unreadable("nothing")
    if is_null(node):
        raise Unreadable(_EXPECTED[kind])
    return _read_plain(node, kind, folder)


def _read_plain(node: yaml.ScalarNode, kind: Any, folder: Path) -> object:
    text, bare = node.value, node.style is None
    if kind is str:
        if all(character.isprintable() or character == "\n" for character in text):
            return text
    elif kind is int:
        if bare and _INTEGER.fullmatch(text):
            return int(text)
    elif kind is float:
        if bare and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    elif kind is bool:
        if bare and text in ("true", "false"):
            return text == "true"
    elif kind is Seconds:
        try:
            return parse_seconds(text)
        except ValueError as error:
            raise Unreadable(_EXPECTED[Seconds]) from error
    elif kind is Path:
        if text.isprintable():
            return folder / text
    else:
        raise TypeError(f"no reading of a scalar as {kind!r}")
    raise Unreadable(_EXPECTED[kind])


_EXPECTED: dict[Any, str] = {
    str: "text without control characters",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Seconds: "a duration such as 20s, 30m or 12h",
    Path: "a path",
    NoneType: "nothing",
}


def expectation(kind: Any) -> str:
    """What a declared scalar type accepts, in words."""
    choices = get_args(kind)
    return " | ".join(str(choice) for choice in choices) if choices else _EXPECTED[kind]
