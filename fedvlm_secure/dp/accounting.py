"""Epsilon from logged events: the privacy loss distributions of dp-accounting are the number of record."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from fedvlm_secure.dp.events import (
    Basic,
    Event,
    Flat,
    Gaussian,
    MixtureOfGaussians,
    PoissonSampled,
    SelfComposed,
    compose,
    flatten,
)
from fedvlm_secure.errors import PolicyError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution  # type: ignore[import-untyped]

Adjacency = Literal["add_or_remove", "replace_one"]

INTERVAL = 1e-3
"""Grid of privacy losses. Rounding is pessimistic: against 1e-4 epsilon grows by 0.7 % at worst, time falls tenfold."""

SMALLEST_DELTA = 1e-10
"""Below it the floating-point error of the convolutions would no longer be small beside delta."""

SMALLEST_MULTIPLIER = 0.05
LARGEST_MEAN_LOSS = 5_000.0
"""Beyond either, epsilon is in the thousands and the distributions take gigabytes: no bound is computed."""

_MOST_PARTS = 4096
_WIDEST = 30_000.0
"""Privacy loss that one grid may span: 3e7 cells, about half a gigabyte while it is composed."""

_DEVIATIONS = 12

_MAX_FIXED_POINT_STEPS = 64


def accountant_name() -> str:
    """Name, version and grid of the accountant, for the audit record."""
    from importlib.metadata import version

    return f"dp-accounting {version('dp-accounting')} PLD, interval {INTERVAL:g}"


def epsilon(event: Event, delta: float, adjacency: Adjacency = "add_or_remove") -> float:
    """The epsilon of record of everything in `event` at `delta`.

    An upper bound: losses are rounded up, and perturbations are added in full (`perturbed_epsilon`).

    Args:
        event: all that was released.
        delta: in [1e-10, 1).
        adjacency: one patient added or removed, or one replaced by another (larger).

    Returns:
        0 for nothing. Infinity where no bound holds (NonPrivate, or delta used up by the tables' distance) or none is
        computed because it would be in the thousands.

    Raises:
        PolicyError: DELTA_RANGE, or ADJACENCY_UNSUPPORTED for replace_one with a mixture.
    """
    if not SMALLEST_DELTA <= delta < 1:
        raise PolicyError(
            "DELTA_RANGE", f"delta is {delta}, outside [{SMALLEST_DELTA}, 1)", "1e-5, or 1e-6 from 10,000 patients on"
        )
    return _epsilon(flatten(event), delta, adjacency)


def trajectory(
    per_round: Event, rounds: int, delta: float, adjacency: Adjacency = "add_or_remove"
) -> tuple[float, ...]:
    """Epsilon after round 1, 2, ..., `rounds`; about 10 to 20 ms each."""
    return tuple(epsilon(SelfComposed(per_round, done), delta, adjacency) for done in range(1, rounds + 1))


def two_hospitals(event: Event, delta: float) -> float:
    """Epsilon of a patient at two hospitals whose mechanisms are separate and alike (`dp_sgd`): self-composition.

    Under `distributed` both parts enter one sum; `SharedNoise.two_hospital_event` is that event.
    """
    return epsilon(compose((event, event)), delta)


def computable(event: Event) -> bool:
    """Whether the accountant's grid for this event fits into memory. A hostile record must not exhaust an auditor's."""
    flat = flatten(event)
    spread = math.fsum(
        count / (2 * noise**2) + _DEVIATIONS * math.sqrt(count) / noise
        for basic, count in flat.counts
        for noise in [_noise_over_shift(basic)]
    )
    return len(flat.counts) <= _MOST_PARTS and spread <= _WIDEST


def _noise_over_shift(basic: Basic) -> float:
    """Noise over the largest shift that one patient makes; infinite where it makes none."""
    match basic:
        case PoissonSampled(_, gaussian):
            return gaussian.noise_multiplier
        case MixtureOfGaussians(noise, shifts, _):
            return noise / max(shifts) if max(shifts) > 0 else math.inf
        case _:
            return basic.noise_multiplier


@lru_cache(maxsize=4096)
def _epsilon(flat: Flat, delta: float, adjacency: Adjacency) -> float:
    if flat.non_private:
        return math.inf
    if not flat.counts:
        return 0.0
    if _mean_loss(flat) > LARGEST_MEAN_LOSS:
        return math.inf
    losses = _composed(flat, adjacency)
    return perturbed_epsilon(losses.get_epsilon_for_delta, flat.log_ratio, flat.total_variation, delta)


def _mean_loss(flat: Flat) -> float:
    """An upper bound on the mean loss of everything; infinite where a multiplier is below the smallest one."""
    total = 0.0
    for event, count in flat.counts:
        match event:
            case MixtureOfGaussians(multiplier, sensitivities, probabilities):
                rate = 1.0
                square = math.fsum(p * s * s for s, p in zip(sensitivities, probabilities, strict=True))
            case PoissonSampled(rate, Gaussian(multiplier)):
                square = rate
            case Gaussian(multiplier):
                rate, square = 1.0, 1.0
        if multiplier < SMALLEST_MULTIPLIER:
            return math.inf
        by_convexity = square / (2 * multiplier**2)
        by_order_two = math.log1p(rate * rate * math.expm1(1 / multiplier**2))
        total += count * (by_convexity if rate == 1 else min(by_convexity, by_order_two))
    return total


def perturbed_epsilon(
    unperturbed: Callable[[float], float], log_ratio: float, total_variation: float, delta: float
) -> float:
    """Smallest epsilon of R where R is within beta of P', P' within exp(+-kappa) of P at every point.

    If P is (e, d)-private then R is (e + 2 kappa, exp(kappa) d + beta (1 + exp(e + 2 kappa)))-private. The epsilon that
    makes this delta the given one is a fixed point, approached from below and then left upward by 1e-9.

    Args:
        unperturbed: delta -> epsilon of P.
        log_ratio: kappa >= 0.
        total_variation: beta in [0, 1].
        delta: of R.
    """
    if log_ratio == 0 and total_variation == 0:
        return float(unperturbed(delta))
    value = 0.0
    for _ in range(_MAX_FIXED_POINT_STEPS):
        if value > 600:
            return math.inf
        left = (delta - total_variation * (1 + math.exp(value + 1e-9))) * math.exp(-log_ratio)
        if left <= 0:
            return math.inf
        found = float(unperturbed(left)) + 2 * log_ratio
        if found <= value + 1e-9:
            return found
        value = found
    return math.inf


def _composed(flat: Flat, adjacency: Adjacency) -> PrivacyLossDistribution:
    parts = [_losses(event, adjacency).self_compose(count) for event, count in flat.counts]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total


@lru_cache(maxsize=256)
def _losses(event: Basic, adjacency: Adjacency) -> PrivacyLossDistribution:
    from dp_accounting import NeighboringRelation  # type: ignore[import-untyped]
    from dp_accounting.pld import privacy_loss_distribution as pld  # type: ignore[import-untyped]

    relation = (
        NeighboringRelation.ADD_OR_REMOVE_ONE if adjacency == "add_or_remove" else NeighboringRelation.REPLACE_ONE
    )
    if isinstance(event, MixtureOfGaussians):
        if adjacency != "add_or_remove":
            raise PolicyError(
                "ADJACENCY_UNSUPPORTED",
                "a patient at two hospitals is accounted for under add-or-remove only",
                "leave adjacency at add_or_remove",
            )
        return pld.from_mixture_gaussian_mechanism(
            event.noise_multiplier, event.sensitivities, event.probabilities, value_discretization_interval=INTERVAL
        )
    rate, gaussian = (event.sampling_rate, event.event) if isinstance(event, PoissonSampled) else (1.0, event)
    return pld.from_gaussian_mechanism(
        gaussian.noise_multiplier,
        value_discretization_interval=INTERVAL,
        sampling_prob=rate,
        neighboring_relation=relation,
    )
