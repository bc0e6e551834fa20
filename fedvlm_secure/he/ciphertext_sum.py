"""What the aggregator does with ciphertexts: check that they are residues, and add them.

Adding two ciphertexts of one ring and one prime is adding their residues modulo Q, coefficient by coefficient, in
either representation (Fan and Vercauteren 2012, section 4; Cheon et al. 2017, section 3.2). So no native library parses
foreign bytes here: the words are bounded by length and by Q before they are used as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.types import NodeId, Words


def check_chunk(carriage: Carriage, index: int, content: bytes, *, owner: str) -> Words:
    """One chunk of an upload or of the encrypted sum as residues: uint64 [words of this chunk], all below Q.

    Args:
        index: the chunk's number, 0 for the first.
        owner: who is named in the error (a node id, or "the sum").

    Raises:
        PeerViolation: BAD_CIPHERTEXT: truncated, oversized, beyond the last chunk, or a word that is no residue
            (any other library's file, other parameters, compressed or random bytes).
    """
    at = index * CHUNK_WORDS
    expected = min(CHUNK_WORDS, carriage.words - at) if index >= 0 else 0
    if expected <= 0 or len(content) != expected * WORD_BYTES:
        raise _bad(owner, f"chunk {index} has {len(content)} bytes, expected {max(expected, 0) * WORD_BYTES}")
    residues = np.frombuffer(content, dtype="<u8")
    if int(residues.max()) >= carriage.parameters.modulus:
        raise _bad(owner, f"chunk {index} holds a word that is no residue of the run's modulus")
    return residues


def sum_chunks(carriage: Carriage, uploads: Mapping[NodeId, Iterable[bytes]]) -> Iterator[bytes]:
    """The encrypted sum, chunk by chunk, of uploads read in step; memory is two chunks, whatever d and n.

    Args:
        uploads: exactly the survivors', each an iterable of its chunks in order (a spooled file). They were checked on
            arrival; they are checked again, since a disk lies between.

    Yields:
        1 MiB of little-endian residues (the last chunk is shorter): `carriage.words` words in all.

    Raises:
        PeerViolation: BAD_CIPHERTEXT, which names the node; what was yielded before is to be thrown away.
        ValueError: no upload, or more than the parameters have room for.
    """
    if not 1 <= len(uploads) <= carriage.parameters.nodes:
        raise ValueError(f"{len(uploads)} uploads, room for {carriage.parameters.nodes}")
    streams = {owner: iter(chunks) for owner, chunks in uploads.items()}
    for index, _ in enumerate(carriage.batches()):
        total: Words | None = None
        for owner, stream in streams.items():
            residues = check_chunk(carriage, index, next(stream, b""), owner=owner)
            if total is None:
                total = residues.astype(np.uint64)
            else:
                _add(total, residues, carriage.parameters.modulus)
        if total is not None:
            yield total.astype("<u8", copy=False).tobytes()
    for owner, stream in streams.items():
        if next(stream, None) is not None:
            raise _bad(owner, f"more than {carriage.words} words")


def _add(total: Words, residues: Words, modulus: int) -> None:
    """total + residues modulo Q, in place."""
    prime = np.uint64(modulus)
    for at in range(0, len(total), CACHE_WORDS):
        target = total[at : at + CACHE_WORDS]
        np.add(target, residues[at : at + CACHE_WORDS], out=target)
        np.minimum(target, target - prime, out=target)  # below Q, the subtraction wraps to a huge number


def _bad(owner: str, cause: str) -> PeerViolation:
    return PeerViolation(
        "BAD_CIPHERTEXT", f"the ciphertexts of {owner}: {cause}", "the peer lies or runs another version"
    )
