"""R1 in homomorphic mode: plain packed words to ciphertexts with tags, one wire chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedvlm_secure.he.carriage import Carriage, WordSource
from fedvlm_secure.he.cipher import Cipher
from fedvlm_secure.he.parameters import TAG_PRIME
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Secret, Words


def pack_slots(carriage: Carriage, lanes: Int64Vector, tags: Int64Vector) -> Words:
    """uint64 [ciphertexts, slots] of int64 lanes [ciphertexts, M] and tags [ciphertexts, T] in the last slots."""
    own = carriage.parameters
    planes = lanes.reshape(len(lanes), own.lanes, own.data_slots).astype(np.uint64)
    slots: Words = np.zeros((len(lanes), own.slots), dtype=np.uint64)
    for lane in range(own.lanes):
        slots[:, : own.data_slots] += planes[:, lane] << np.uint64(lane * own.lane_bits)
    slots[:, own.data_slots :] = tags.astype(np.uint64)
    return slots


def encrypt_words(
    words: WordSource, *, carriage: Carriage, cipher: Cipher, group_key: Secret, ctx: Digest, node: NodeId
) -> Iterator[bytes]:
    """One node's upload in chunks of 1 MiB; memory beyond `words` is a few chunks, whatever d.

    Call it once per (ctx, node) and store what it yields: a second encryption of other integers under the same ctx
    would use the tags' one-time pads twice.

    Args:
        words: uint64 [carriage.format.words], plain, from `VectorFormat.pack`; read in slices, each word once per lane.
        cipher: of the epoch's seed (`GroupSecrets.seed`) and `carriage.parameters`.
        ctx: the attempt's context; it covers the digest of the `HeContext`.

    Yields:
        Little-endian residues; `carriage.words` words in all. Every chunk but the last has 1 MiB.

    Raises:
        ValueError: wrong length, a value outside its lane, or a cipher of other parameters.
    """
    own = carriage.parameters
    if len(words) != carriage.format.words:
        raise ValueError(f"there must be {carriage.format.words} words")
    if cipher.parameters != own:
        raise ValueError("the cipher has other parameters than the carriage")
    hashing = LaneHash(group_key, ctx, own)
    pads = TagPads(group_key, ctx, (node,))
    limbs = carriage.split_scalars(words)
    for batch in carriage.batches():
        lanes = carriage.read(words, limbs, batch)
        if int(lanes.max()) >= 1 << own.value_bits:
            raise ValueError("a value outside its lane; noisy or summed words are never encrypted")
        tags = (hashing.of(lanes) + pads.take(len(batch))) % TAG_PRIME
        yield b"".join(cipher.encrypt(row) for row in pack_slots(carriage, lanes, tags))
