"""Hash trees: the roots of RFC 6962, paths that hold only where they belong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.secagg.merkle import (
    CHUNK_BYTES,
    chunk_root,
    chunks_root,
    leaf_hash,
    path_holds,
    tree_path,
    tree_root,
)
from fedvlm_secure.types import Digest
from tests.support.vectors import unhex, vector

EXPECT = vector("rfc-6962")
LEAVES = [leaf_hash(unhex(leaf)) for leaf in EXPECT["leaves"]]


@pytest.mark.parametrize("count", range(1, 9))
def test_root_is_that_of_rfc_6962_for_even_and_odd_counts(count: int) -> None:
    assert tree_root(LEAVES[:count]).hex() == EXPECT["roots"][count - 1]


def test_paths_are_those_of_rfc_6962() -> None:
    assert [step.hex() for step in tree_path(LEAVES, 5)] == EXPECT["path_of_leaf_5_of_8"]
    assert [step.hex() for step in tree_path(LEAVES[:3], 2)] == EXPECT["path_of_leaf_2_of_3"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.data())
def test_path_holds_for_its_leaf_at_its_place_in_its_tree_only(count: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(bytes([i])) for i in range(count)]
    root, index = tree_root(leaves), data.draw(st.integers(0, count - 1))
    path = tree_path(leaves, index)
    assert path_holds(leaves[index], index, count, path, root)
    assert not path_holds(leaf_hash(b"other"), index, count, path, root)
    assert not path_holds(leaves[index], index, count, (*path, root), root)
    assert not path_holds(leaves[index], index, count, path, leaf_hash(b"root"))
    assert not path_holds(leaves[index], count, count, path, root)
    assert not path_holds(leaves[index], -1, count, path, root)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        changed = (*path[:at], Digest(bytes(32)), *path[at + 1 :])
        assert not path_holds(leaves[index], index, count, changed, root)
        assert not path_holds(leaves[index], index, count, path[:-1], root)
        other = data.draw(st.integers(0, count - 1).filter(lambda i: i != index))
        assert not path_holds(leaves[index], other, count, path, root)


def test_inner_node_does_not_pass_as_a_leaf() -> None:
    assert tree_root([leaf_hash(LEAVES[0] + LEAVES[1])]) != tree_root(LEAVES[:2])


def test_tree_without_a_leaf_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tree_root([])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_root_of_a_content_is_the_root_over_its_chunks(size: int) -> None:
    content = bytes(size)
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, max(size, 1), CHUNK_BYTES)]
    assert chunk_root(content) == chunks_root(chunks)
    assert chunk_root(content) != chunk_root(content + b"\x00")
