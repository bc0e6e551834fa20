"""Entropy of tests: a seeded SHAKE-256 stream, and one that counts what it gave."""

from __future__ import annotations

from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Secret, Words


def entropy(label: str, seed: int = 0) -> ShakeEntropy:
    """A stream of its own for each label."""
    return ShakeEntropy(seed, f"test/{label}")


def secret(label: str, seed: int = 0) -> Secret:
    """32 bytes that depend on the label alone."""
    return Secret(entropy(label, seed).bytes(32))


def words(label: str, count: int) -> Words:
    """uint64 [count], uniform."""
    return Keystream(secret(label)).take(count)
