"""Structure-aware damage to plain values (JSON, YAML, canonical): the text stays well formed, what it says does not."""

from __future__ import annotations

import math
from typing import Any

from tests.fuzz.choices import Choices

Tree = Any
"""None, bool, int, float, str, bytes, list or dict with str keys."""

_ODD: tuple[Tree, ...] = (
    *(None, True, False, 0, 1, -1, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 1 << 80),
    *(0.0, -0.5, 1.5, 1e-320, 1e308, math.inf, -math.inf, math.nan),
    *(
        "",
        "x",
        "NaN",
        "no",
        "1e-5",
        "0x10",
        "../../etc/passwd",
        "/etc/passwd",
        "~",
        "a\x00b",
        "\x1b[31m",
        "=1+1",
        "\u202e",
    ),
    *("A" * 5000, "9" * 5000, "\ud800", "ß", "2026-02-30T99:99:99Z", "00" * 32, "-", "auto"),
    *(b"", b"\x00" * 31, b"\xff" * 33),
    *([], [[]], {}, {"kind": "NonPrivate"}, {"": {}}, [1, 2, 3]),
)


def damaged(tree: Tree, choices: Choices) -> Tree:
    """The tree with one to four places changed."""
    for _ in range(1 + choices.below(4)):
        tree = _changed(tree, choices, 0)
    return tree


def _changed(tree: Tree, choices: Choices, depth: int) -> Tree:
    inner = isinstance(tree, dict | list) and len(tree) > 0 and choices.below(8) > 0
    if not inner:
        return _replacement(tree, choices, depth)
    if isinstance(tree, dict):
        return _changed_map(tree, choices, depth)
    at = choices.below(256) % len(tree)
    match choices.below(5):
        case 0:
            return tree[:at] + tree[at + 1 :]
        case 1:
            return [*tree[:at], tree[at], *tree[at:]]
        case 2:
            return tree[::-1]
        case _:
            return [*tree[:at], _changed(tree[at], choices, depth + 1), *tree[at + 1 :]]


def _changed_map(tree: dict[str, Tree], choices: Choices, depth: int) -> Tree:
    key = choices.pick(sorted(tree))
    rest = {name: value for name, value in tree.items() if name != key}
    match choices.below(8):
        case 0:
            return rest
        case 1:
            return {**rest, key + "x": tree[key]}
        case 2:
            return {**tree, choices.pick(("extra", "", "kind", "__class__", "a\x1b[0m")): tree[key]}
        case 3:
            return {**tree, key: tree[choices.pick(sorted(tree))]}
        case _:
            return {**tree, key: _changed(tree[key], choices, depth + 1)}


def _replacement(tree: Tree, choices: Choices, depth: int) -> Tree:
    match choices.below(6):
        case 0 if depth < 8:
            return [tree] * (1 + choices.below(3))
        case 1 if depth < 8:
            return {"kind": tree}
        case 2 if isinstance(tree, str):
            return tree[:-1] if choices.below(2) else tree * 2
        case 3 if isinstance(tree, int | float) and not isinstance(tree, bool):
            return choices.pick((tree + 1, -tree, tree / 3, tree * 1000))
        case 4:
            nested: Tree = tree
            for _ in range(choices.pick((2, 15, 40, 400))):
                nested = [nested] if choices.below(2) else {"event": nested}
            return nested
        case _:
            return choices.pick(_ODD)
