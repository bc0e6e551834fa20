"""One-time linear authentication tags over the lanes of each ciphertext, under the group key.

tag_{u,i,k} = sum_j kappa_{k,j} * lane_{u,i,j} + pad_{u,i,k} mod p. The tags of a sum are the sum of the tags, and pass
only under the pads of exactly the nodes in S. A wrong lane in ciphertext i passes with probability p^-T = 2^-93.

Source: Wegman and Carter 1981, section 4 (one-time pads over a linear hash), in the additive form of Catalano and
Fiore 2013.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlm_secure.he.group_secrets import derive
from fedvlm_secure.he.parameters import TAG_PRIME, TAGS, HeParameters
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Secret

_PRIME = np.uint64(TAG_PRIME)
_EXACT_BITS = 53
"""A float64 product sum below 2^53 is exact in any order, so BLAS may do it."""


class LaneHash:
    """sum_j kappa_{k,j} * lane_{i,j} mod p, for k < T: secret, the same for all nodes and ciphertexts of one ctx."""

    def __init__(self, group_key: Secret, ctx: Digest, parameters: HeParameters) -> None:
        places = parameters.values
        words = Keystream(derive(group_key, "he-kappa", ctx)).take(TAGS * places)
        kappa = (words % _PRIME).reshape(TAGS, places)  # at most 2^-33 from uniform
        self._piece_bits = _EXACT_BITS - parameters.lane_bits - places.bit_length()
        mask = np.uint64((1 << self._piece_bits) - 1)
        shifts = range(0, TAG_PRIME.bit_length(), self._piece_bits)
        self._pieces = [((kappa >> np.uint64(shift)) & mask).astype(np.float64).T.copy() for shift in shifts]

    def of(self, lanes: Int64Vector) -> Int64Vector:
        """int64 [ciphertexts, M], each 0 .. 2^lane_bits - 1, to int64 [ciphertexts, T], each below p."""
        exact = lanes.astype(np.float64)
        total = np.zeros((len(lanes), TAGS), dtype=np.int64)
        for piece in reversed(self._pieces):
            total = ((total << self._piece_bits) + (exact @ piece).astype(np.int64) % TAG_PRIME) % TAG_PRIME
        return total


class TagPads:
    """The one-time pads of some nodes, ciphertext after ciphertext, added together modulo p.

    Pad (u, i, k) is word i * T + k of node u's stream, modulo p: at most 2^-33 from uniform.
    """

    def __init__(self, group_key: Secret, ctx: Digest, nodes: Sequence[NodeId]) -> None:
        self._streams = [Keystream(derive(group_key, "he-pad", ctx, node)) for node in nodes]

    def take(self, ciphertexts: int) -> Int64Vector:
        """The next ciphertexts' pads, summed over the nodes: int64 [ciphertexts, T], each below p."""
        total = np.zeros(ciphertexts * TAGS, dtype=np.int64)
        for stream in self._streams:
            total = (total + (stream.take(ciphertexts * TAGS) % _PRIME).astype(np.int64)) % TAG_PRIME
        return total.reshape(ciphertexts, TAGS)
