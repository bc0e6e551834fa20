"""What one noisy sum costs: variance per share, guaranteed noise makers, and the event to log.

`dp_sgd` is the case of one noise maker, the hospital itself. Derivation and proofs:
docs/decisions/0101-accounting-of-shared-integer-noise.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from fedvlm_secure.dp.discrete_gaussian import LARGEST_NOISE_VARIANCE, DiscreteGaussian
from fedvlm_secure.dp.events import Gaussian, MixtureOfGaussians, Perturbed, PoissonSampled
from fedvlm_secure.dp.smoothing import ROUNDING_VARIANCE, rounding_log_ratio, shares_log_ratio
from fedvlm_secure.errors import PolicyError

SMALLEST_SHARE_VARIANCE = 16
"""Nothing finer than 4 grid steps per share: below it the sum of shares stops looking like one discrete Gaussian."""

_MULTIPLIER_BITS = 40


@dataclass(frozen=True)
class SharedNoise:
    """Integer noise made in shares.

    Attributes:
        share_variance: sigma^2 of each share in grid steps squared.
        makers: noise makers that are counted on, all honest.
        clip_squared: c~^2, the squared integer clip (`IntegerClip.squared`).
        dimension: d.

    Raises:
        PolicyError: NOISE_TOO_FINE, NOISE_TOO_WIDE.
        ValueError: makers, clip or dimension below 1.
    """

    share_variance: int
    makers: int
    clip_squared: int
    dimension: int

    def __post_init__(self) -> None:
        if min(self.makers, self.clip_squared, self.dimension) < 1:
            raise ValueError("makers, clip_squared and dimension are at least 1")
        if self.share_variance < SMALLEST_SHARE_VARIANCE:
            raise PolicyError(
                "NOISE_TOO_FINE",
                f"a noise share has variance {self.share_variance} grid steps squared; at least 16 is needed",
                "use more grid steps per clip norm (finer grid), or a larger noise multiplier",
            )
        if self.share_variance > LARGEST_NOISE_VARIANCE:
            raise PolicyError(
                "NOISE_TOO_WIDE",
                f"a noise share has variance {self.share_variance} grid steps squared; at most 2^50 is drawn",
                "use fewer grid steps per clip norm (coarser grid), or a smaller noise multiplier",
            )

    @property
    def guaranteed_variance(self) -> int:
        """sigma_S^2: variance of the sum of the guaranteed shares, in grid steps squared."""
        return self.share_variance * self.makers

    def actual_variance(self, survivors: int) -> int:
        """Variance of the noise in a sum over this many survivors: every one of them adds a share."""
        if survivors < 1:
            raise ValueError("a sum has at least one survivor")
        return self.share_variance * survivors

    def effective_multiplier(self, makers: int | None = None) -> float:
        """z_eff = sqrt(sigma_S^2 - 4) / c~, rounded down to a multiple of 2^-40 in integer arithmetic.

        Args:
            makers: honest noise makers to assume; the guaranteed number without it.
        """
        variance = self.share_variance * self._assumed(makers) - ROUNDING_VARIANCE
        return math.isqrt((variance << 2 * _MULTIPLIER_BITS) // self.clip_squared) / (1 << _MULTIPLIER_BITS)

    def step_event(self, sampling_rate: float, makers: int | None = None) -> Perturbed:
        """One noisy sum over a Poisson sample of patients, seen by whoever holds all but `makers` of the shares.

        Against aggregator and readers `makers` is min_survivors; against a coalition of c' hospitals with the
        aggregator min_survivors - c' (the number of record); if every other hospital is dishonest, 1.
        """
        assumed = self._assumed(makers)
        return self._perturbed(PoissonSampled(sampling_rate, Gaussian(self.effective_multiplier(assumed))), assumed)

    def two_hospital_event(self, sampling_rate: float, makers: int | None = None) -> Perturbed:
        """The same sum for a patient who is at two hospitals of the cohort, drawn by each on its own."""
        assumed = self._assumed(makers)
        out = 1.0 - sampling_rate
        chances = (out * out, 2.0 * sampling_rate * out, sampling_rate * sampling_rate)
        possible = [(float(times), chance) for times, chance in enumerate(chances) if chance > 0]
        times, kept = zip(*possible, strict=True)
        event = MixtureOfGaussians(self.effective_multiplier(assumed), times, kept)
        return self._perturbed(event, assumed)

    def _assumed(self, makers: int | None) -> int:
        assumed = self.makers if makers is None else makers
        if assumed < 1:
            raise ValueError("at least one honest noise maker is assumed: the patient's own hospital")
        return assumed

    def _perturbed(self, event: PoissonSampled | MixtureOfGaussians, makers: int) -> Perturbed:
        per_value = shares_log_ratio(float(self.share_variance), makers) + rounding_log_ratio()
        table = DiscreteGaussian(self.share_variance).total_variation_bound * makers
        return Perturbed(event, self.dimension * per_value, min(1.0, self.dimension * table))


def guaranteed_makers(min_survivors: int, colluding: int) -> int:
    """Honest noise makers in every accepted sum: min_survivors - c', c' = max(1, colluding).

    Raises:
        PolicyError: NO_NOISE_MAKER: the coalition could remove all noise.
    """
    makers = min_survivors - max(1, colluding)
    if makers < 1:
        raise PolicyError(
            "NO_NOISE_MAKER",
            f"{min_survivors} survivors less {max(1, colluding)} colluding leave no honest noise maker",
            "raise min_survivors",
        )
    return makers


def shared_noise(noise_multiplier: float, clip_squared: int, makers: int, dimension: int) -> SharedNoise:
    """Split noise of multiplier z = sigma / c~ over the guaranteed makers; each share's variance is rounded up.

    Raises:
        PolicyError: as `SharedNoise`.
        ValueError: z not finite and positive, or makers below 1.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0 and makers >= 1):
        raise ValueError("noise_multiplier > 0 and makers >= 1")
    variance = math.ceil(Fraction(noise_multiplier) ** 2 * clip_squared / makers)
    return SharedNoise(variance, makers, clip_squared, dimension)
