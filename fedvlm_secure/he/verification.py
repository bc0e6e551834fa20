"""What a decryptor publishes of a sum, and how a node checks it without a ciphertext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.group_secrets import derive
from fedvlm_secure.he.parameters import TAG_PRIME, TAGS
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Secret, Words


@dataclass(frozen=True)
class DecryptedSum:
    """A decrypted sum in the masked mode's form, and the proof that goes with it to the other nodes.

    Args:
        words: uint64 [format.words]: bit for bit what masking and unmasking the same uploads gives.
        proof: uint64 [carriage.proof_words]: the sum's tags, then the sums of the scalars' limbs under a keystream of
            the group key (limb by limb they would say more than the totals, for instance how many weights are 1).
    """

    words: Words
    proof: Words


def make_proof(tags: Int64Vector, limbs: Int64Vector, *, group_key: Secret, ctx: Digest) -> Words:
    """Tags, int64 [ciphertexts, T], and covered limbs, int64 [scalars * limbs], as one array of words."""
    covered = limbs.astype(np.uint64)
    _cover(group_key, ctx).add_to(covered)
    return np.concatenate([tags.astype(np.uint64).reshape(-1), covered])


def _cover(group_key: Secret, ctx: Digest) -> Keystream:
    return Keystream(derive(group_key, "he-limbs", ctx))


def lanes_in_range(carriage: Carriage, lanes: Int64Vector, batch: range, contributors: int) -> bool:
    """Whether each lane can be a sum of that many values, and every unused place is 0."""
    largest = contributors * ((1 << carriage.parameters.value_bits) - 1)
    unused = carriage.unused(batch)
    tail = lanes.reshape(-1)[lanes.size - unused :]
    return int(lanes.min()) >= 0 and int(lanes.max()) <= largest and not tail.any()


def verify_sum(
    published: DecryptedSum, *, carriage: Carriage, group_key: Secret, ctx: Digest, survivors: Sequence[NodeId]
) -> None:
    """Check published integers against the tags of exactly the survivors' uploads.

    It shows that nobody without the group key altered or made up the sum, the aggregator least of all. It does not
    bind another holder of the group key: a decrypting node that lies can make fitting tags. Who doubts one decrypts
    the encrypted sum itself (`EpochKey`), which every node can.

    Raises:
        PeerViolation: HE_SUM_FALSE.
    """
    words, proof = published.words, published.proof
    if words.shape != (carriage.format.words,) or proof.shape != (carriage.proof_words,):
        raise _false("it has another length")
    count = carriage.ciphertexts * TAGS
    tags = proof[:count].reshape(-1, TAGS)
    uncovered = proof[count:].copy()
    _cover(group_key, ctx).subtract_from(uncovered)
    if int(uncovered.max(initial=0)) >= 1 << carriage.parameters.lane_bits:
        raise _false("a scalar's limb leaves its lane")
    limbs = uncovered.astype(np.int64)
    hashing = LaneHash(group_key, ctx, carriage.parameters)
    pads = TagPads(group_key, ctx, survivors)
    sound = True
    for batch in carriage.batches():
        lanes = carriage.read(words, limbs, batch)
        in_range = lanes_in_range(carriage, lanes, batch, len(survivors))
        expected = _tags_of(hashing, pads, lanes, len(batch))
        sound &= in_range and bool(np.array_equal(expected, tags[batch.start : batch.stop]))
    if not sound:
        raise _false("its values do not fit their tags")
    if not carriage.follows(words, limbs):
        raise _false("its scalars, unused bits or check words do not follow from its values")


def _tags_of(hashing: LaneHash, pads: TagPads, lanes: Int64Vector, ciphertexts: int) -> Words:
    """The tags that a sum of these lanes has under these nodes' pads: uint64 [ciphertexts, T]."""
    expected: Words = ((hashing.of(lanes) + pads.take(ciphertexts)) % TAG_PRIME).astype(np.uint64)
    return expected


def _false(cause: str) -> PeerViolation:
    return PeerViolation(
        "HE_SUM_FALSE", f"the published sum is refused: {cause}", "it is not the sum of the survivors' uploads; leave"
    )
