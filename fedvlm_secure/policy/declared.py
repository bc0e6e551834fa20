"""What a field's type annotation accepts: sections, lists, maps and scalars, unions taken apart."""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fedvlm_secure.policy.section import Seconds, Section

_SCALARS = (str, int, float, bool, Seconds, Path, NoneType)


@dataclass(frozen=True)
class Declared:
    """The alternatives of one annotation.

    `items` is the element type of a list and `values` the value type of a map with str keys; None where there is none.
    """

    sections: tuple[type[Section], ...]
    scalars: tuple[Any, ...]
    items: Any = None
    values: Any = None


def alternatives(annotation: Any) -> Declared:
    """Take an annotation apart.

    Raises:
        TypeError: a type that no YAML node is read as (a fault of the schema).
    """
    sections: list[type[Section]] = []
    scalars: list[Any] = []
    items = values = None
    for kind in _flatten(annotation):
        if isinstance(kind, type) and issubclass(kind, Section):
            sections.append(kind)
        elif get_origin(kind) is Literal or kind in _SCALARS:
            scalars.append(kind)
        elif get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
            items = get_args(kind)[0]
        elif get_origin(kind) is dict:
            values = get_args(kind)[1]
        else:
            raise TypeError(f"no YAML reading for {kind!r}")
    scalars.sort(key=lambda kind: kind is str)  # any text is a str, so str is tried last
    return Declared(tuple(sections), tuple(scalars), items, values)


def _flatten(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _flatten(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for arm in get_args(annotation) for kind in _flatten(arm)]
    return [annotation]
