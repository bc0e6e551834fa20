"""Whether a run's stated terms fit together: the logged event is the one that clip, noise, rate and steps make."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedvlm_secure.audit.record import PrivacyTerms, ScoreTerms, ShareTerms, Start
from fedvlm_secure.dp.events import Event, Gaussian, MixtureOfGaussians, PoissonSampled, flatten, from_record

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
    counted = "share_variance" if terms.shares is None else "guaranteed_variance"
    made = math.sqrt(getattr(terms, counted) / terms.clip_squared) if terms.clip_squared else 0.0
    if multiplier > made * (1 + TOLERANCE):
        yield counted, f"noise over clip is {made:.6g}, the event claims {multiplier:.6g}"
    if terms.noise_multiplier > made * (1 + TOLERANCE):
        yield "noise_multiplier", f"noise over clip is only {made:.6g}"
    if (terms.shares is None) != (terms.mechanism == "dp_sgd"):
        yield "shares", f"do not fit the mechanism {terms.mechanism}"
    if terms.shares is not None:
        yield from _share_faults(terms, terms.shares)
    elif terms.guaranteed_variance != terms.share_variance:
        yield "guaranteed_variance", "is not the hospital's own noise, the only one counted on under dp_sgd"
    if terms.scores is not None:
        yield from _score_faults(terms.scores)
    if abs(terms.grid * math.sqrt(terms.clip_squared) - terms.clip_norm) > 0.05 * terms.clip_norm:
        yield "clip_norm", "is not the integer clip times the grid (within the rounding allowance of 5 %)"


def _share_faults(terms: PrivacyTerms, shares: ShareTerms) -> Faults:
    """Whether each observer's event is the one that its shares make: of the noise counted on, of all, of one."""
    if terms.guaranteed_variance != terms.share_variance * shares.makers:
        yield "guaranteed_variance", f"is not that of {shares.makers} shares"
    if not shares.makers <= shares.readers:
        yield "shares.readers", "are fewer than are counted on with a coalition"
    rounds = flatten(from_record(terms.round_event))
    if flatten(from_record(shares.step_event)) != rounds:
        yield "shares.step_event", "is not what a round is charged with"
    rate = terms.sampling_rate
    once = ((1.0, rate),)
    both = ((0.0, (1 - rate) ** 2), (1.0, 2 * rate * (1 - rate)), (2.0, rate * rate))
    for name, shifts, makers in (
        ("readers_event", once, shares.readers),
        ("alone_event", once, 1),
        ("two_hospitals_event", both, shares.makers),
    ):
        event = from_record(getattr(shares, name))
        largest = math.sqrt(terms.share_variance * makers / terms.clip_squared) if terms.clip_squared else 0.0
        found = _shifted(event, is_mixture=shifts is both)
        if found is None:
            yield f"shares.{name}", "is not one sum over a Poisson sample"
            continue
        multiplier, stated = found
        if not _alike(stated, shifts):
            yield f"shares.{name}", f"is of another sampling than at {rate:g}"
        if multiplier > largest * (1 + TOLERANCE):
            yield f"shares.{name}", f"claims noise of {multiplier:.6g}, {makers} shares give {largest:.6g}"


Shifts = tuple[tuple[float, float], ...]
"""(how many clip norms a patient moves the sum, with what chance)."""


def _shifted(event: Event, *, is_mixture: bool) -> tuple[float, Shifts] | None:
    """Multiplier and shifts of one step's event; None for any other."""
    match flatten(event).counts:
        case ((PoissonSampled(rate, Gaussian(multiplier)), 1),) if not is_mixture:
            return multiplier, ((1.0, rate),)
        case ((MixtureOfGaussians(multiplier, shifts, chances), 1),) if is_mixture:
            return multiplier, tuple(zip(shifts, chances, strict=True))
        case _:
            return None


def _alike(stated: Shifts, expected: Shifts) -> bool:
    """The same shifts with the same chances; what has no chance may be left out."""
    possible = [pair for pair in expected if pair[1] > 0]
    return len(stated) == len(possible) and all(
        one[0] == other[0] and math.isclose(one[1], other[1], rel_tol=TOLERANCE)
        for one, other in zip(stated, possible, strict=True)
    )


def maker_faults(start: Start, terms: PrivacyTerms) -> Faults:
    """Shares of noise are counted on only where so many survivors are required."""
    shares = terms.shares
    if shares is None:
        return
    if start.protection != "masking":
        yield "protection", f"is {start.protection}; noise is shared inside masks alone"
    if shares.coalition < max(1, start.colluding):
        yield "shares.coalition", f"is below the {max(1, start.colluding)} hospitals that must be counted with"
    if shares.makers > start.min_survivors - shares.coalition:
        yield "shares.makers", f"are more than {start.min_survivors} survivors less a coalition of {shares.coalition}"
    if shares.readers > start.min_survivors:
        yield "shares.readers", f"are more than the {start.min_survivors} survivors of every sum"


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
