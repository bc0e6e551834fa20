"""Whether a run's stated terms fit together: the logged event is the one that clip, noise, rate and steps make."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedvlm_secure.audit.record import PrivacyTerms, ScoreTerms
from fedvlm_secure.dp.events import Gaussian, PoissonSampled, flatten, from_record

TOLERANCE = 1e-6
"""Relative: convolutions differ in the last digits between builds of numpy and scipy."""

Faults = Iterator[tuple[str, str]]
"""(field, cause)."""


def claim_faults(terms: PrivacyTerms) -> Faults:
    """What an event that promises more than clip and noise give, or that is another one than stated, shows."""
    flat = flatten(from_record(terms.round_event))
    match flat.counts:
        case ((PoissonSampled(rate, Gaussian(multiplier)), count),):
            pass
        case ((Gaussian(multiplier), count),):
            rate = 1.0
        case _:
            yield "round_event", "is not one Poisson-sampled Gaussian, repeated"
            return
    if rate != terms.sampling_rate:
        yield "sampling_rate", f"the event samples at {rate:g}"
    if count != terms.steps:
        yield "steps", f"the event holds {count}"
    if flat.non_private:
        yield "round_event", "holds a release without protection"
    made = math.sqrt(terms.share_variance / terms.clip_squared) if terms.clip_squared else 0.0
    if multiplier > made * (1 + TOLERANCE):
        yield "share_variance", f"noise over clip is {made:.6g}, the event claims {multiplier:.6g}"
    if terms.noise_multiplier > made * (1 + TOLERANCE):
        yield "noise_multiplier", f"noise over clip is only {made:.6g}"
    if terms.guaranteed_variance > terms.share_variance:
        yield "guaranteed_variance", "exceeds the hospital's own noise, the only one counted on under dp_sgd"
    if terms.scores is not None:
        yield from _score_faults(terms.scores)
    if abs(terms.grid * math.sqrt(terms.clip_squared) - terms.clip_norm) > 0.05 * terms.clip_norm:
        yield "clip_norm", "is not the integer clip times the grid (within the rounding allowance of 5 %)"


def _score_faults(scores: ScoreTerms) -> Faults:
    """The same for a noised release: one Gaussian over everybody, no more than the noise over the bound gives."""
    flat = flatten(from_record(scores.event))
    match flat.counts:
        case ((PoissonSampled(1.0, Gaussian(multiplier)), 1),) | ((Gaussian(multiplier), 1),):
            pass
        case _:
            yield "scores.event", "is not one Gaussian over all test patients"
            return
    if flat.non_private:
        yield "scores.event", "holds a release without protection"
    if scores.bound_squared != len(scores.tasks) * scores.steps_per_patient**2:
        yield "scores.bound_squared", "is not one patient in each task"
    made = math.sqrt(scores.share_variance / scores.bound_squared)
    if multiplier > made * (1 + TOLERANCE):
        yield "scores.share_variance", f"noise over bound is {made:.6g}, the event claims {multiplier:.6g}"
    if scores.noise_multiplier > made * (1 + TOLERANCE):
        yield "scores.noise_multiplier", f"noise over bound is only {made:.6g}"
