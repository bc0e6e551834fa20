"""Our events as `dp_accounting` events and back, for cross-checks with that library's other accountants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlm_secure.dp.events import (
    Composed,
    Event,
    Gaussian,
    MixtureOfGaussians,
    NonPrivate,
    PoissonSampled,
    SelfComposed,
    flatten,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent  # type: ignore[import-untyped]


def to_dp_accounting(event: Event) -> DpEvent:
    """The basic events as one `dp_accounting` event, to check with its accountants. Perturbations are left out."""
    from dp_accounting import dp_event

    flat = flatten(event)
    parts: list[DpEvent] = [dp_event.NonPrivateDpEvent()] if flat.non_private else []
    for basic, count in flat.counts:
        match basic:
            case Gaussian(multiplier):
                part: DpEvent = dp_event.GaussianDpEvent(multiplier)
            case PoissonSampled(rate, Gaussian(multiplier)):
                part = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(multiplier))
            case MixtureOfGaussians(multiplier, sensitivities, probabilities):
                part = dp_event.MixtureOfGaussiansDpEvent(multiplier, sensitivities, probabilities)
        parts.append(dp_event.SelfComposedDpEvent(part, count))
    return dp_event.ComposedDpEvent(parts)


def from_dp_accounting(event: DpEvent) -> Event:
    """Inverse of `to_dp_accounting` on what it produces.

    Raises:
        ValueError: a kind of event that is not logged here.
    """
    from dp_accounting import dp_event

    match event:
        case dp_event.NonPrivateDpEvent():
            return NonPrivate()
        case dp_event.GaussianDpEvent():
            return Gaussian(float(event.noise_multiplier))
        case dp_event.PoissonSampledDpEvent(event=dp_event.GaussianDpEvent()):
            return PoissonSampled(float(event.sampling_probability), Gaussian(float(event.event.noise_multiplier)))
        case dp_event.MixtureOfGaussiansDpEvent():
            return MixtureOfGaussians(
                float(event.standard_deviation),
                tuple(float(s) for s in event.sensitivities),
                tuple(float(p) for p in event.sampling_probs),
            )
        case dp_event.SelfComposedDpEvent():
            return SelfComposed(from_dp_accounting(event.event), int(event.count))
        case dp_event.ComposedDpEvent():
            return Composed(tuple(from_dp_accounting(part) for part in event.events))
        case _:
            raise ValueError(f"{type(event).__name__} is not an event of this project")
