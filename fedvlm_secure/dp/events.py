"""Privacy events: what was released, as frozen mathematics. They are logged, summed up later, never the other way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import Digest

_MAX_PARTS = 1 << 20


@dataclass(frozen=True)
class Gaussian:
    """A vector of L2 sensitivity 1 plus Gaussian noise of standard deviation `noise_multiplier` > 0."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _require(_finite(self.noise_multiplier) and self.noise_multiplier > 0, "noise_multiplier > 0")


@dataclass(frozen=True)
class PoissonSampled:
    """`event` on a Poisson sample of rate `sampling_rate` in (0, 1]."""

    sampling_rate: float
    event: Gaussian

    def __post_init__(self) -> None:
        _require(isinstance(self.event, Gaussian), "only a Gaussian is sampled")
        _require(_finite(self.sampling_rate) and 0 < self.sampling_rate <= 1, "sampling_rate in (0, 1]")


@dataclass(frozen=True)
class MixtureOfGaussians:
    """Noise N(0, noise_multiplier^2), shifted by `sensitivities[i]` with probability `probabilities[i]`."""

    noise_multiplier: float
    sensitivities: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(_finite(self.noise_multiplier) and self.noise_multiplier > 0, "noise_multiplier > 0")
        _require(len(self.sensitivities) == len(self.probabilities) >= 1, "one probability per sensitivity")
        _require(all(_finite(s) and s >= 0 for s in self.sensitivities), "sensitivities >= 0")
        _require(all(_finite(p) and p >= 0 for p in self.probabilities), "probabilities >= 0")
        _require(abs(math.fsum(self.probabilities) - 1) < 1e-9, "probabilities add up to 1")


@dataclass(frozen=True)
class NonPrivate:
    """A release without any formal protection."""


@dataclass(frozen=True)
class SelfComposed:
    """`event`, `count` >= 0 times, each chosen with all earlier results in view."""

    event: Event
    count: int

    def __post_init__(self) -> None:
        _require(isinstance(self.event, _EVENTS), "an event is composed")
        _require(type(self.count) is int and 0 <= self.count < 1 << 53, "count >= 0")


@dataclass(frozen=True)
class Composed:
    """All of `events`, each chosen with the earlier results in view. No events: nothing was released."""

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        _require(isinstance(self.events, tuple) and all(isinstance(e, _EVENTS) for e in self.events), "events")


@dataclass(frozen=True)
class Perturbed:
    """A mechanism whose law is close to a post-processing of `event`.

    Its probabilities are within `total_variation` of a law that is at every point within the factor
    exp(+-log_ratio) of that post-processing. Both add up under composition.
    """

    event: Event
    log_ratio: float
    total_variation: float

    def __post_init__(self) -> None:
        _require(isinstance(self.event, _EVENTS), "an event is perturbed")
        _require(not flatten(self.event).non_private, "nothing is close to an unprotected release")
        _require(_finite(self.log_ratio) and self.log_ratio >= 0, "log_ratio >= 0")
        _require(_finite(self.total_variation) and 0 <= self.total_variation <= 1, "total_variation in [0, 1]")


Basic = Gaussian | PoissonSampled | MixtureOfGaussians
Event = Gaussian | PoissonSampled | MixtureOfGaussians | NonPrivate | SelfComposed | Composed | Perturbed
_EVENTS = (Gaussian, PoissonSampled, MixtureOfGaussians, NonPrivate, SelfComposed, Composed, Perturbed)
_KINDS = {kind.__name__: kind for kind in _EVENTS}


@dataclass(frozen=True)
class Flat:
    """An event with composition resolved: how often each basic event, and the sums of the perturbations.

    Attributes:
        counts: (basic event, count >= 1), in an order that depends only on the content.
        log_ratio: total kappa.
        total_variation: total distance, at most 1.
        non_private: something was released without protection.
    """

    counts: tuple[tuple[Basic, int], ...]
    log_ratio: float
    total_variation: float
    non_private: bool


def flatten(event: Event) -> Flat:
    """Resolve composition. Equal multisets of releases give equal results, however they were nested."""
    counts: dict[Basic, int] = {}
    log_ratios: list[float] = []
    distances: list[float] = []
    non_private = False

    def visit(part: Event, times: int) -> None:
        nonlocal non_private
        match part:
            case _ if times == 0:
                return
            case NonPrivate():
                non_private = True
            case SelfComposed(inner, count):
                visit(inner, times * count)
            case Composed(events):
                for inner in events:
                    visit(inner, times)
            case Perturbed(inner, log_ratio, distance):
                log_ratios.append(times * log_ratio)
                distances.append(times * distance)
                visit(inner, times)
            case _:
                counts[part] = counts.get(part, 0) + times

    visit(event, 1)
    ordered = sorted(counts.items(), key=lambda item: canonical.encode(to_record(item[0])))
    return Flat(tuple(ordered), math.fsum(log_ratios), min(1.0, math.fsum(distances)), non_private)


def compose(events: Iterable[Event]) -> Event:
    """One event for many; equal neighbours are merged into counts, so that 1,000 equal rounds stay one record."""
    merged: list[Event] = []
    for event in events:
        inner, count = (event.event, event.count) if isinstance(event, SelfComposed) else (event, 1)
        if merged:
            last = merged[-1]
            last_inner, last_count = (last.event, last.count) if isinstance(last, SelfComposed) else (last, 1)
            if last_inner == inner:
                merged[-1] = SelfComposed(inner, last_count + count)
                continue
        merged.append(event)
    return merged[0] if len(merged) == 1 else Composed(tuple(merged))


def to_record(event: Event) -> dict[str, Any]:
    """The event as plain values under `kind`, for `canonical.encode` and for JSON."""
    record: dict[str, Any] = {"kind": type(event).__name__}
    for name, value in vars(event).items():
        if isinstance(value, _EVENTS):
            record[name] = to_record(value)
        elif isinstance(value, tuple):
            record[name] = [to_record(item) if isinstance(item, _EVENTS) else item for item in value]
        else:
            record[name] = value
    return record


def from_record(record: object) -> Event:
    """Inverse of `to_record`.

    Raises:
        PeerViolation: EVENT_MALFORMED: unknown kind, missing or extra field, or a value out of range.
    """
    try:
        return _parse(record, 0)
    except (ValueError, TypeError, OverflowError) as error:  # a sum of numbers near the largest float overflows
        raise PeerViolation("EVENT_MALFORMED", f"not a privacy event: {error}", "the record was altered") from error


def _parse(record: object, depth: int) -> Event:
    _require(isinstance(record, Mapping) and depth < 16, "a map with a kind")
    fields = dict(record)  # type: ignore[call-overload]
    kind = _KINDS.get(str(fields.pop("kind", "")))
    if kind is None:
        raise ValueError("unknown kind")
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            values[str(name)] = _parse(value, depth + 1)
        elif isinstance(value, list | tuple):
            _require(len(value) <= _MAX_PARTS, "too many parts")
            parts = (_parse(item, depth + 1) if isinstance(item, Mapping) else item for item in value)
            values[str(name)] = tuple(parts)
        else:
            values[str(name)] = value
    event: Event = kind(**values)
    return event


def event_digest(event: Event) -> Digest:
    """SHA-256 of the canonical record."""
    return canonical.digest("dp-event", to_record(event))


def _finite(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"privacy event: {what}")
