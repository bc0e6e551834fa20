"""Poisson sampling over patients: each by a coin of its own, compared on 64 bits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from fedvlm_secure.dp.streams import stream
from fedvlm_secure.types import Int64Vector, Secret


def sampling_threshold(sampling_rate: float) -> int:
    """floor(q * 2^64), exactly: a uniform 64-bit word below it takes the patient.

    The float q is a fraction with 53 bits, so the product is a whole number for q >= 2^-11; below that the rate is
    lower than q by less than 2^-64, and a lower rate never costs more privacy.

    Raises:
        ValueError: q outside (0, 1], or so small that nobody could ever be drawn.
    """
    if not (math.isfinite(sampling_rate) and 2.0**-64 <= sampling_rate <= 1):
        raise ValueError(f"sampling_rate lies in (0, 1], got {sampling_rate}")
    return math.floor(Fraction(sampling_rate) * 2**64)


def poisson_sample(patients: int, sampling_rate: float, key: Secret) -> Int64Vector:
    """Draw each of `patients` independently with probability `sampling_rate`.

    Args:
        patients: size of the hospital's train population, >= 0; it decides nothing but the length.
        sampling_rate: q in (0, 1], the policy's.
        key: 32 fresh bytes, used for this step only.

    Returns:
        int64 [k], the drawn indices in rising order; k may be 0 and is never shown outside the hospital.
    """
    threshold = sampling_threshold(sampling_rate)
    if patients < 0:
        raise ValueError("the number of patients is not negative")
    if threshold == 1 << 64:
        return np.arange(patients, dtype=np.int64)
    words = stream(key, "poisson").take(patients)
    return np.flatnonzero(words < np.uint64(threshold)).astype(np.int64)
