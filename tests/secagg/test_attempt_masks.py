"""A mask expanded ahead of time is the mask made on the way, is used once, and hides nothing twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.secagg.masking import AttemptKeys, apply_masks, masks_of
from fedvlm_secure.types import Digest, NodeId, Words
from tests.secagg.test_masking import CTX, Attempt
from tests.support.entropy import words

WORDS = CHUNK_WORDS + 5


@pytest.mark.parametrize("node", ["a", "c", "d"])
def test_mask_expanded_ahead_and_mask_made_on_the_way_give_the_same_upload(node: str) -> None:
    attempt = Attempt(4, 1)
    keys, seed = attempt.keys[NodeId(node)], attempt.seeds[NodeId(node)].self_seed
    at_once = words("plain", WORDS)
    apply_masks(at_once, keys, seed)
    masks = masks_of(keys, seed, words=WORDS)
    with ThreadPoolExecutor(2) as pool:
        sources = (masks.expand(), masks.expand(pool=pool, parts=2), masks.stream())
    for source in sources:
        masked: Words = words("plain", WORDS)
        for at in (0, CHUNK_WORDS):
            source.add_to(masked[at : at + CHUNK_WORDS])
        assert np.array_equal(masked, at_once)


def test_expanded_mask_is_used_up_by_one_vector() -> None:
    attempt = Attempt(4, 1)
    mask = masks_of(attempt.keys[NodeId("a")], attempt.seeds[NodeId("a")].self_seed, words=WORDS).expand()
    for size in (CHUNK_WORDS, 5):
        with pytest.raises(ValueError, match="no whole chunk"):
            mask.add_to(np.zeros(size - 1, dtype=np.uint64))
        mask.add_to(np.zeros(size, dtype=np.uint64))
    with pytest.raises(ValueError, match="used up"):
        mask.add_to(np.zeros(5, dtype=np.uint64))


def test_masks_of_two_contexts_differ_in_every_pair_seed() -> None:
    attempt = Attempt(4, 1)
    keys, seed = attempt.keys[NodeId("b")], attempt.seeds[NodeId("b")].self_seed
    other = masks_of(AttemptKeys(keys.me, keys.cohort, Digest(bytes(32)), keys.roots), seed, words=8)
    mine = masks_of(keys, seed, words=8)
    assert (mine.ctx, other.ctx) == (CTX, bytes(32))
    pairs = {s.reveal() for masks in (mine, other) for s in (*masks.added[1:], *masks.subtracted)}
    assert len(pairs) == 6
