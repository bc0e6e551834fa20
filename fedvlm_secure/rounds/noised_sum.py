"""Under `distributed`: what a hospital's clipped sum becomes before it is packed, and what the total of all comes to.

A hospital's part is cut to a box (two neighbouring sums come no further apart) and gets one share of noise, once,
whatever the attempts; from then on nothing is clipped, rounded or drawn again. The total is divided by public numbers.
"""

from __future__ import annotations

import numpy as np

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.rounding import boxed
from fedvlm_secure.errors import ModelError
from fedvlm_secure.policy.noise_shares import box_of, clip_of, expected_batch, noise_of, scale_bits_of
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Float64Vector, Int64Vector, Secret


def noised_part(
    policy: Policy,
    privacy: Distributed,
    integers: Int64Vector | None,
    *,
    multiplier: float,
    dimension: int,
    key: Secret,
) -> Int64Vector:
    """One hospital's part of the sum, as it is journalled, packed and masked.

    Args:
        integers: int64 [d], the clipped sum of `train.summed` in grid steps; zeros where nobody was drawn.
        multiplier: noise multiplier of the run, as the manifest has it.
        dimension: d.
        key: 32 fresh bytes, for this call only.

    Returns:
        int64 [d], of magnitude within a lane whatever was drawn (`noise_shares.box_of`).

    Raises:
        ModelError: NO_CLIPPED_SUM, local work handed over something else: nothing was sent.
    """
    if integers is None or integers.dtype != np.int64 or integers.shape != (dimension,):
        raise ModelError(
            "NO_CLIPPED_SUM",
            f"local training gave no clipped sum of gradients over {dimension} values",
            "under distributed a hospital hands over integers, and no update of its own",
        )
    box = box_of(policy, privacy, multiplier, dimension)
    part = boxed(integers, box)
    DiscreteGaussian(noise_of(policy, privacy, multiplier, dimension).share_variance).add_to(part, key)
    return part


def mean_gradient(policy: Policy, privacy: Distributed, total: Int64Vector, *, dimension: int) -> Float64Vector:
    """The released sum as a step: learning_rate * C * total / (grid steps of C * B), float64.

    Element-wise float64 in separate calls, from exact integers over a power of two: every party comes to the same bits.

    Args:
        total: int64, a block of the sum over all survivors, in grid steps.
        dimension: d, of the whole.
    """
    steps = np.ldexp(total.astype(np.float64), -scale_bits_of(dimension))
    mean: Float64Vector = np.divide(np.multiply(steps, _unit(policy, privacy)), expected_batch(privacy))
    return mean


def noise_in_mean(policy: Policy, privacy: Distributed, multiplier: float, dimension: int, survivors: int) -> float:
    """Phi: variance of the noise in each coordinate of `mean_gradient`, of all survivors' shares together."""
    variance = float(noise_of(policy, privacy, multiplier, dimension).actual_variance(survivors))
    one = _unit(policy, privacy) / clip_of(privacy, dimension).grid_steps / expected_batch(privacy)
    return variance * (one * one)


def _unit(policy: Policy, privacy: Distributed) -> float:
    return policy.local.learning_rate * privacy.clip_norm
