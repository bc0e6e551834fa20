"""The exact discrete Gaussian sampler of Canonne, Kamath and Steinke 2020: integers and fractions only, slow.

The reference against which the tables are tested. About 30 microseconds per value and sigma-independent.
"""

from __future__ import annotations

import math
from fractions import Fraction

from fedvlm_secure.ring.keystream import Keystream

_REFILL_WORDS = 1024


class UniformIntegers:
    """Uniform integers below a bound from a keystream, by rejection: exact for every bound."""

    def __init__(self, keystream: Keystream) -> None:
        self._keystream = keystream
        self._words: list[int] = []

    def below(self, bound: int) -> int:
        """Uniform in [0, bound), bound >= 1."""
        bits = (bound - 1).bit_length()
        while True:
            value = 0
            for _ in range(-(-bits // 64)):
                if not self._words:
                    self._words = self._keystream.take(_REFILL_WORDS).tolist()
                value = value << 64 | self._words.pop()
            value >>= -bits % 64
            if value < bound:
                return value

    def bernoulli(self, probability: Fraction) -> bool:
        """True with exactly this probability, in [0, 1]."""
        return self.below(probability.denominator) < probability.numerator


def bernoulli_exp(gamma: Fraction, uniform: UniformIntegers) -> bool:
    """True with probability exp(-gamma), gamma >= 0 (algorithm 1)."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), uniform):
            return False
        gamma -= 1
    k = 1
    while uniform.bernoulli(gamma / k):
        k += 1
    return k % 2 == 1


def discrete_laplace(scale: int, uniform: UniformIntegers) -> int:
    """P[x] proportional to exp(-|x| / scale), scale >= 1 (algorithm 2 with s = 1)."""
    while True:
        low = uniform.below(scale)
        if not bernoulli_exp(Fraction(low, scale), uniform):
            continue
        high = 0
        while bernoulli_exp(Fraction(1), uniform):
            high += 1
        negative = uniform.bernoulli(Fraction(1, 2))
        magnitude = low + scale * high
        if negative and magnitude == 0:
            continue
        return -magnitude if negative else magnitude


def discrete_gaussian(variance: Fraction, uniform: UniformIntegers) -> int:
    """One value of N_Z(0, variance), variance > 0 (algorithm 3)."""
    scale = math.isqrt(math.floor(variance)) + 1  # floor(sigma) + 1
    while True:
        value = discrete_laplace(scale, uniform)
        if bernoulli_exp((abs(value) - variance / scale) ** 2 / (2 * variance), uniform):
            return value
