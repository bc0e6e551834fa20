"""What a mistyped key or value was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from fedvlm_secure.policy.declared import alternatives
from fedvlm_secure.policy.section import Section


def key_hint(key: str, prefix: str, siblings: Iterable[str], root: type[Section]) -> str:
    """A hint for an unknown key: the nearest sibling, else the place where such a key belongs, else what is known."""
    known = sorted(siblings)
    elsewhere = [path for path in key_paths(root) if path.rpartition(".")[2] == key]
    if elsewhere and not difflib.get_close_matches(key, known, n=1, cutoff=0.7):
        return f"did you mean {' or '.join(elsewhere[:2])}?"
    return near(key, prefix, known)


def near(key: str, prefix: str, known: Iterable[str]) -> str:
    """The nearest of the known keys, else all of them."""
    choices = sorted(known)
    if nearest := difflib.get_close_matches(key, choices, n=1, cutoff=0.7):
        return f"did you mean {prefix}{nearest[0]}?"
    return f"known here: {', '.join(choices)}"


def value_hint(value: str, choices: Iterable[str]) -> str:
    """A hint for a value that is none of the choices; empty when none is near."""
    nearest = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]}?" if nearest else ""


def key_paths(cls: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key path of a schema, dotted."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        for section in alternatives(field.annotation).sections:
            yield from key_paths(section, f"{prefix}{name}.")
