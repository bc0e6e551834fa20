"""HeParameters: ring degree, moduli, lanes and margins of one cohort; what is not provably exact cannot be made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from fedvlm_secure.errors import PolicyError

Scheme = Literal["bfv", "ckks"]

TAG_PRIME = (1 << 31) - 1
TAGS = 3
"""One-time tags per ciphertext: a forgery passes with probability 2^-93."""

DEGREE = 4096
MODULUS_BITS = 60
"""One 60-bit prime. For degree 4096 the table below allows 109 bits at 128-bit security; 75 would still be 192-bit."""

LARGEST_MODULUS_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""log2 Q at 128-bit classical security, ternary secret. Source: Homomorphic Encryption Standard 2018, table 1."""

ERROR_BOUND = 21
ERROR_VARIANCE = 10.5
"""The library's centred binomial error is a difference of two sums of 21 bits. Source: SEAL 4, sample_poly_cbd."""

BFV_SAFETY = 4
CKKS_SIGMAS = 12.0
_MOST_LANES = 4


@dataclass(frozen=True)
class HeParameters:
    """Everything both sides must agree on, computed from scheme, cohort size and value bits alone.

    Args:
        scheme: `bfv` (exact) or `ckks` (rounded to the exact integer, refused where rounding could be wrong).
        nodes: n, summands that must fit.
        value_bits: bits of one node's lifted value, as in `LaneFormat`.
        lanes: values per slot.
        degree: N, ring degree.
        modulus: Q, one prime, Q = 1 mod 2N.
        plain_modulus: P, a prime = 1 mod 2N (bfv); 0 for ckks.
        scale_bits: log2 of the encoding's scale (ckks); 0 for bfv.

    Raises:
        PolicyError: HE_UNSAFE, below 128 bits of security, or a margin that does not hold.
    """

    scheme: Scheme
    nodes: int
    value_bits: int
    lanes: int
    degree: int
    modulus: int
    plain_modulus: int
    scale_bits: int

    def __post_init__(self) -> None:
        limit = LARGEST_MODULUS_BITS.get(self.degree, 0)
        if self.modulus.bit_length() > limit:
            raise _unsafe(
                f"{self.modulus.bit_length()} modulus bits at degree {self.degree}, 128-bit security: {limit}"
            )
        if self.lane_bits > TAG_PRIME.bit_length() - 1:
            raise _unsafe(f"lanes of {self.lane_bits} bits under tags modulo a prime of 31 bits")
        if self.scheme == "bfv":
            if self.plain_modulus <= max((1 << self.slot_bits) - 1, self.nodes * TAG_PRIME):
                raise _unsafe(f"slots of {self.slot_bits} bits under a plaintext modulus of {self.plain_modulus}")
            if self.noise_margin < BFV_SAFETY:
                raise _unsafe(f"noise margin {self.noise_margin:.3g}, required {BFV_SAFETY}")
        elif self.noise_margin < CKKS_SIGMAS:
            raise _unsafe(f"{self.noise_margin:.3g} sigma to half a unit, required {CKKS_SIGMAS}")
        elif self.slot_bits + self.scale_bits > self.modulus.bit_length() - 2:  # sqrt(2) * 2^(bits) stays below Q / 2
            raise _unsafe(f"slots of {self.slot_bits} bits at scale 2^{self.scale_bits} leave the modulus")

    @property
    def lane_bits(self) -> int:
        """Bits that hold the sum of n values."""
        return (self.nodes * ((1 << self.value_bits) - 1)).bit_length()

    @property
    def slot_bits(self) -> int:
        """Bits of a slot: all lanes, and the sum of n tags."""
        return max(self.lanes * self.lane_bits, (self.nodes * (TAG_PRIME - 1)).bit_length())

    @property
    def slots(self) -> int:
        """Slots of a ciphertext: N. A complex slot of ckks counts as two: real and imaginary part."""
        return self.degree

    @property
    def data_slots(self) -> int:
        """Slots that carry values; the last `TAGS` carry tags."""
        return self.slots - TAGS

    @property
    def values(self) -> int:
        """Values of one ciphertext."""
        return self.data_slots * self.lanes

    @property
    def ciphertext_words(self) -> int:
        """64-bit words of one ciphertext: two polynomials of N residues."""
        return 2 * self.degree

    @property
    def noise_margin(self) -> float:
        """How far the sum of n ciphertexts stays from a wrong decryption.

        bfv: Q / (2 P) over the largest possible error, n * (21 + 1): a proof, since the error's support is bounded.
        ckks: half a unit over one standard deviation of a slot: n errors and n encodings' roundings over N
        coefficients at this scale, and float64 in both transforms (one rounding per butterfly level and direction).
        """
        if self.scheme == "bfv":
            return self.modulus / (2 * self.plain_modulus * self.nodes * (ERROR_BOUND + 1))
        lattice = math.sqrt(self.degree * self.nodes * (ERROR_VARIANCE + 1 / 12)) / 2.0**self.scale_bits
        levels = 2 * (self.degree.bit_length() + 1)
        floating = levels * 2.0 ** (self.slot_bits - 53)
        return 0.5 / math.hypot(lattice, floating)


def _unsafe(cause: str) -> PolicyError:
    return PolicyError("HE_UNSAFE", cause, "these parameters are never used; a smaller cohort or fewer lanes may fit")


def choose_parameters(scheme: Scheme, *, nodes: int, value_bits: int) -> HeParameters:
    """The parameters with the most lanes that are provably safe for this cohort.

    Args:
        nodes: n, the epoch's roster.
        value_bits: `LaneFormat.value_bits` of the same run, so that the integers are the masked mode's.

    Raises:
        PolicyError: HE_HEADROOM, no number of lanes fits; the hint names the largest cohort that does.
    """
    if nodes < 1 or not 2 <= value_bits <= 24:
        raise ValueError("a cohort has nodes, and values have 2 to 24 bits")
    found = _most_lanes(scheme, nodes, value_bits)
    if found is None:
        low, high = 0, nodes  # what fits n fits fewer
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _most_lanes(scheme, middle, value_bits) else (low, middle)
        raise PolicyError(
            "HE_HEADROOM",
            f"protection.method: {scheme} has no room for the sum of {nodes} nodes' values of {value_bits} bits",
            f"at most {low} nodes fit; use protection.method: masking, or protection.lanes with fewer bits per value",
        )
    return found


def _most_lanes(scheme: Scheme, nodes: int, value_bits: int) -> HeParameters | None:
    for lanes in range(_MOST_LANES, 0, -1):
        lane_bits = (nodes * ((1 << value_bits) - 1)).bit_length()
        slot_bits = max(lanes * lane_bits, (nodes * (TAG_PRIME - 1)).bit_length())
        if slot_bits > MODULUS_BITS - 4:
            continue
        try:
            return HeParameters(
                scheme=scheme,
                nodes=nodes,
                value_bits=value_bits,
                lanes=lanes,
                degree=DEGREE,
                modulus=ntt_prime(MODULUS_BITS, DEGREE),
                plain_modulus=ntt_prime(slot_bits + 1, DEGREE) if scheme == "bfv" else 0,
                scale_bits=0 if scheme == "bfv" else MODULUS_BITS - 2 - slot_bits,
            )
        except PolicyError:
            continue
    return None


_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
"""Miller-Rabin with these bases is a proof below 3.3e24. Source: Sorenson and Webster 2015."""


def is_prime(number: int) -> bool:
    """Deterministic Miller-Rabin for 38 <= number < 2^64."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _WITNESSES:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := pow(power, 2, number)) == number - 1 for _ in range(twos - 1)):
            return False
    return True


@cache
def ntt_prime(bits: int, degree: int) -> int:
    """The largest prime below 2^bits that is 1 modulo 2 * degree, so that the ring has all its roots."""
    candidate = (1 << bits) - 2 * degree + 1
    while candidate.bit_length() == bits:
        if is_prime(candidate):
            return candidate
        candidate -= 2 * degree
    raise ValueError(f"no prime of {bits} bits is 1 modulo {2 * degree}")
