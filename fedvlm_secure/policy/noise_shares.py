"""Who makes the noise of one sum, and on whom one may count: the same at every party, from the policy alone.

Noise is sized for the smallest cohort that the policy admits. A larger one has at least as many survivors to count on
(`thresholds.resolve` never falls as hospitals join), so that noise and events are those of the whole run, whoever
joins or leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fedvlm_secure.dp.observers import Observers, observers_of
from fedvlm_secure.dp.rounding import IntegerClip, grid_steps_for
from fedvlm_secure.dp.shared_noise import SharedNoise, guaranteed_makers, shared_noise
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import thresholds
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.policy.shared_noise_rules import LANES
from fedvlm_secure.ring.lanes import lane_format

ALONE = 1
"""The hospital itself: the one noise maker of `dp_sgd`, and the last honest one of `distributed`."""

LARGEST_DEVIATIONS = 24
"""No share is larger, in standard deviations. Tables end at 13.5 of theirs; at most three, of variances that add up to
the share's, are added, and (a + b + c)^2 <= 3 (a^2 + b^2 + c^2): 13.5 sqrt(3) = 23.4."""


@dataclass(frozen=True)
class Makers:
    """Honest noise makers in every sum that can be opened.

    Attributes:
        counted: against the aggregator with the hospitals of a coalition: the number of record rests on these.
        readers: where every hospital keeps its share to itself: against the aggregator alone, and readers of the model.
        coalition: hospitals whose shares are not counted, at least 1 under `distributed`.
    """

    counted: int
    readers: int
    coalition: int


def makers_of(policy: Policy) -> Makers:
    """The noise makers of a policy with a mechanism.

    Raises:
        PolicyError: as `thresholds.resolve` for the smallest cohort.
    """
    if not isinstance(policy.privacy, Distributed):
        return Makers(ALONE, ALONE, 0)
    terms = thresholds.resolve(policy.cohort, policy.cohort.min_nodes)
    return Makers(guaranteed_makers(terms.min_survivors, terms.c), terms.min_survivors, max(1, terms.c))


def spare_noise(policy: Policy) -> str | None:
    """A warning where the hospitals named could share the noise among more than it is sized for."""
    privacy, least = policy.privacy, policy.cohort.min_nodes
    if not isinstance(privacy, Distributed) or len(privacy.expected_patients) <= least:
        return None
    named = len(privacy.expected_patients)
    terms, counted = thresholds.resolve(policy.cohort, named), makers_of(policy).counted
    possible = guaranteed_makers(terms.min_survivors, terms.c)
    if possible <= counted:
        return None
    return (
        f"noise is sized for cohort.min_nodes {least}: {counted} hospitals are counted on; with min_nodes {named}, as "
        f"many as are named, {possible} would be, and each would add {1 - math.sqrt(counted / possible):.0%} less"
    )


def clip_of(privacy: PatientPrivacy, dimension: int) -> IntegerClip:
    """The public clip of a patient's gradient, float32 [d], on the coarsest grid that costs half a percent of noise."""
    return IntegerClip(privacy.clip_norm, grid_steps_for(dimension), dimension)


def noise_of(policy: Policy, privacy: PatientPrivacy, noise_multiplier: float, dimension: int) -> SharedNoise:
    """The noise of one sum, in the shares that hospitals draw.

    Raises:
        PolicyError: NOISE_TOO_FINE, NOISE_TOO_WIDE.
    """
    return shares(privacy.clip_norm, noise_multiplier, makers_of(policy).counted, dimension)


@lru_cache(maxsize=256)
def shares(clip_norm: float, noise_multiplier: float, makers: int, dimension: int) -> SharedNoise:
    """Noise of multiplier sigma / C over so many makers, on the grid of `clip_of`. Errors as `noise_of`."""
    clip = IntegerClip(clip_norm, grid_steps_for(dimension), dimension)
    return shared_noise(noise_multiplier, clip.squared, makers, dimension)


def observers_in(policy: Policy, noise_multiplier: float, dimension: int) -> Observers | None:
    """One round's sum by who looks on; None where each hospital makes all of its noise itself."""
    privacy = policy.privacy
    if not isinstance(privacy, Distributed):
        return None
    noise = noise_of(policy, privacy, noise_multiplier, dimension)
    return observers_of(noise, privacy.sampling_rate, makers_of(policy).readers)


def expected_batch(privacy: PatientPrivacy) -> float:
    """B: patients that one sum over all declared hospitals is expected to hold; public, whoever was drawn."""
    return privacy.sampling_rate * sum(privacy.expected_patients.values())


def scale_bits_of(dimension: int) -> int:
    """log2 of the grid steps in one clip norm: the power of two that the exact sum is divided by."""
    return grid_steps_for(dimension).bit_length() - 1


def box_of(policy: Policy, privacy: Distributed, noise_multiplier: float, dimension: int) -> int:
    """The largest magnitude of one coordinate of a hospital's clipped sum before noise, in grid steps.

    Raises:
        PolicyError: RING_HEADROOM, such a sum and its share of noise could leave a lane; the hint names what fits.
    """
    steps = grid_steps_for(dimension)
    per_update = expected_batch(privacy) / privacy.clip_norm * steps
    box = math.floor(policy.protection.max_update * per_update)
    share = noise_of(policy, privacy, noise_multiplier, dimension).share_variance
    room = lane_format(LANES, policy.cohort.min_nodes).largest - LARGEST_DEVIATIONS * (math.isqrt(share) + 1)
    if box < 1 or box > room:
        fits = f"a protection.max_update from {1 / per_update:.3g} to {room / per_update:.3g} fits"
        narrow = "privacy.noise_multiplier is too large for 32-bit lanes" if room < 1 else fits
        raise PolicyError(
            "RING_HEADROOM",
            f"protection.max_update {policy.protection.max_update:g} is {box} steps of a hospital's sum of gradients; "
            f"beside its noise a lane holds 1 to {max(0, room)}",
            narrow,
        )
    return box
