"""The common start of the LoRA factors: the same bits on every node, from the policy's seed alone."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure import canonical


def uniform_start(seed: int, name: str, rows: int, columns: int) -> NDArray[np.float32]:
    """LoRA A for the mode `both`: uniform in +-1/sqrt(columns), which is PEFT's own start.

    Args:
        seed: the policy's, 0 or more.
        name: canonical parameter name, so that each tensor gets its own stream.
        rows: rank r.
        columns: d_in.

    Returns:
        float32 [r, d_in]. Only integers, one division and one multiplication: no libm, no torch, equal on all CPUs.
    """
    raw = hashlib.shake_256(canonical.digest("lora-start", seed, name)).digest(4 * rows * columns)
    drawn = np.frombuffer(raw, dtype="<u4").astype(np.float64) * (2.0 / 2**32) - 1.0
    return (drawn / math.sqrt(columns)).astype(np.float32).reshape(rows, columns)


def orthogonal_start(seed: int, name: str, rows: int, columns: int) -> NDArray[np.float32]:
    """LoRA A for the mode `ffa`: orthogonal rows of length 1/sqrt(3), the length a uniform row has on average.

    Gram-Schmidt with correctly rounded sums (`math.fsum`), because a BLAS dot product differs between CPUs.

    Returns:
        float32 [r, d_in].

    Raises:
        ValueError: r above d_in, where no orthogonal rows exist.

    Source: Sun et al. 2024 (FFA-LoRA), section 3.
    """
    if rows > columns:
        raise ValueError(f"rank {rows} above the width {columns} of {name}")
    basis: list[NDArray[np.float64]] = []
    for row in uniform_start(seed, name, rows, columns).astype(np.float64):
        for earlier in basis:
            row = row - math.fsum(row * earlier) * earlier
        basis.append(row / math.sqrt(math.fsum(row * row)))
    return (np.stack(basis) / math.sqrt(3.0)).astype(np.float32)
