"""A cohort that encrypts: random integers of each node, their uploads, the ring's own sum, and the decryptor's key."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal

import numpy as np

from fedvlm_secure.canonical import digest
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.cipher import Cipher
from fedvlm_secure.he.ciphertext_sum import sum_chunks
from fedvlm_secure.he.encryption import encrypt_words
from fedvlm_secure.he.epoch_key import EpochKey, KeyState
from fedvlm_secure.he.group_secrets import GroupSecrets
from fedvlm_secure.he.parameters import HeParameters, Scheme, choose_parameters
from fedvlm_secure.he.verification import DecryptedSum, verify_sum
from fedvlm_secure.ring.lanes import lane_format
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.types import Digest, NodeId, Words
from tests.support.entropy import entropy

SECRETS = GroupSecrets.draw(entropy("he group secrets"))
SCALARS = ("weight", "loss_sum")
TOP_SCALAR = (1 << 48) - 1
Draw = Literal["uniform", "largest", "smallest", "edges"]


@cache
def parameters_for(scheme: Scheme, nodes: int, value_bits: int = 16) -> HeParameters:
    return choose_parameters(scheme, nodes=nodes, value_bits=value_bits)


@cache
def cipher_for(parameters: HeParameters) -> Cipher:
    return Cipher(parameters, SECRETS.seed)


def ctx_of(*name: object) -> Digest:
    return digest("test-ctx", *name)


class EncryptedCohort:
    """`n` nodes' plain words and uploads in one attempt."""

    def __init__(
        self, scheme: Scheme, n: int, *, dimension: int = 9001, seed: int = 0, draw: Draw = "uniform", name: str = "0"
    ) -> None:
        lanes = lane_format("auto", n)
        self.parameters = parameters_for(scheme, n, lanes.value_bits)
        self.carriage = Carriage(self.parameters, VectorFormat(dimension, lanes, SCALARS))
        self.cipher = cipher_for(self.parameters)
        self.ctx = ctx_of(scheme, n, seed, name)
        self.nodes = tuple(NodeId(f"h-{i:02}") for i in range(n))
        generator = np.random.Generator(np.random.PCG64(seed))
        self.plain = {node: self._words(generator, draw) for node in self.nodes}
        self.uploads = {node: self.encrypt(node) for node in self.nodes}

    def _words(self, generator: np.random.Generator, draw: Draw) -> Words:
        fmt = self.carriage.format
        low, high = -fmt.lanes.offset, fmt.lanes.largest
        choices = {"uniform": (low, high), "largest": (high, high), "smallest": (low, low)}
        if draw == "edges":
            integers = generator.choice(np.array([low, low + 1, -1, 0, 1, high - 1, high]), fmt.dimension)
        else:
            first, last = choices[draw]
            integers = generator.integers(first, last, fmt.dimension, endpoint=True)
        top = TOP_SCALAR if draw == "largest" else int(generator.integers(0, TOP_SCALAR, endpoint=True))
        return fmt.pack(integers.astype(np.int64), {"weight": 1 << 16, "loss_sum": top})

    def encrypt(self, node: NodeId) -> list[bytes]:
        return list(
            encrypt_words(
                self.plain[node],
                carriage=self.carriage,
                cipher=self.cipher,
                group_key=SECRETS.group_key,
                ctx=self.ctx,
                node=node,
            )
        )

    def ring_sum(self, nodes: Iterable[NodeId] | None = None) -> Words:
        """What masking and unmasking gives: the words added modulo 2^64."""
        total: Words = np.zeros(self.carriage.format.words, dtype=np.uint64)
        for node in nodes or self.nodes:
            total += self.plain[node]
        return total

    def encrypted_sum(self, nodes: Iterable[NodeId] | None = None) -> list[bytes]:
        return list(sum_chunks(self.carriage, {node: self.uploads[node] for node in nodes or self.nodes}))

    def key(self, state: KeyState | None = None) -> EpochKey:
        return EpochKey(SECRETS, self.parameters, state or KeyState())

    def decrypt(self, chunks: Iterable[bytes], nodes: tuple[NodeId, ...] | None = None) -> DecryptedSum:
        key = self.key()
        key.spend(0)
        return key.decrypt(0, chunks, carriage=self.carriage, ctx=self.ctx, survivors=nodes or self.nodes)

    def verify(self, published: DecryptedSum, nodes: tuple[NodeId, ...] | None = None) -> None:
        verify_sum(
            published,
            carriage=self.carriage,
            group_key=SECRETS.group_key,
            ctx=self.ctx,
            survivors=nodes or self.nodes,
        )
