"""Privacy events: one meaning, one encoding, nothing else accepted."""

from __future__ import annotations

import json
import math

import pytest

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import (
    Composed,
    Event,
    Gaussian,
    MixtureOfGaussians,
    NonPrivate,
    Perturbed,
    PoissonSampled,
    SelfComposed,
    compose,
    event_digest,
    flatten,
    from_record,
    to_record,
)
from fedvlm_secure.errors import PeerViolation

STEP = Perturbed(PoissonSampled(0.2, Gaussian(1.15)), 1e-30, 1e-35)
MIXTURE = MixtureOfGaussians(1.15, (0.0, 1.0, 2.0), (0.64, 0.32, 0.04))
EVERY: tuple[Event, ...] = (
    Gaussian(2.0),
    PoissonSampled(0.5, Gaussian(1.0)),
    MIXTURE,
    NonPrivate(),
    SelfComposed(STEP, 50),
    Composed((SelfComposed(STEP, 3), Gaussian(1.0), NonPrivate(), Composed(()))),
    STEP,
)


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_event_survives_canonical_bytes_and_json(event: Event) -> None:
    record = to_record(event)
    assert from_record(canonical.decode(canonical.encode(record))) == event
    assert from_record(json.loads(json.dumps(record))) == event


def test_different_events_have_different_digests() -> None:
    near = PoissonSampled(0.2, Gaussian(math.nextafter(1.15, 2)))
    digests = {event_digest(event) for event in (*EVERY, near, near.event, SelfComposed(STEP, 51))}
    assert len(digests) == len(EVERY) + 3


def test_flattening_ignores_nesting_and_order() -> None:
    gauss = Gaussian(3.0)
    one = Composed((SelfComposed(Composed((STEP, gauss)), 4), STEP))
    other = Composed((gauss, SelfComposed(STEP, 5), SelfComposed(gauss, 3)))
    assert flatten(one) == flatten(other)
    assert dict(flatten(one).counts) == {STEP.event: 5, gauss: 4}
    assert flatten(one).log_ratio == pytest.approx(5e-30, rel=1e-9, abs=0)
    assert flatten(one).total_variation == pytest.approx(5e-35, rel=1e-9, abs=0)


def test_nothing_released_zero_times_counts_as_nothing() -> None:
    assert flatten(SelfComposed(Composed((STEP, NonPrivate())), 0)) == flatten(Composed(()))
    assert flatten(SelfComposed(NonPrivate(), 1)).non_private


def test_equal_neighbours_are_merged_and_others_are_kept() -> None:
    merged = compose([STEP] * 1000 + [Gaussian(1.0), SelfComposed(STEP, 2), STEP])
    assert merged == Composed((SelfComposed(STEP, 1000), Gaussian(1.0), SelfComposed(STEP, 3)))
    assert compose([STEP]) == STEP
    assert compose([]) == Composed(())


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "Laplace", "noise_multiplier": 1.0},
        {"noise_multiplier": 1.0},
        {"kind": "Gaussian"},
        {"kind": "Gaussian", "noise_multiplier": 1.0, "extra": 1},
        {"kind": "Gaussian", "noise_multiplier": 0.0},
        {"kind": "Gaussian", "noise_multiplier": -1.0},
        {"kind": "Gaussian", "noise_multiplier": math.inf},
        {"kind": "Gaussian", "noise_multiplier": 1},
        {"kind": "Gaussian", "noise_multiplier": "1.0"},
        {"kind": "PoissonSampled", "sampling_rate": 1.5, "event": to_record(Gaussian(1.0))},
        {"kind": "PoissonSampled", "sampling_rate": 0.0, "event": to_record(Gaussian(1.0))},
        {"kind": "PoissonSampled", "sampling_rate": 0.5, "event": to_record(NonPrivate())},
        {"kind": "PoissonSampled", "sampling_rate": 0.5, "event": "Gaussian"},
        {"kind": "SelfComposed", "event": to_record(STEP), "count": -1},
        {"kind": "SelfComposed", "event": to_record(STEP), "count": 2.0},
        {"kind": "SelfComposed", "event": to_record(STEP), "count": True},
        {"kind": "Composed", "events": [1]},
        {"kind": "Composed", "events": to_record(STEP)},
        {"kind": "Perturbed", "event": to_record(STEP), "log_ratio": -1e-9, "total_variation": 0.0},
        {"kind": "Perturbed", "event": to_record(STEP), "log_ratio": 0.0, "total_variation": 1.5},
        {"kind": "Perturbed", "event": to_record(NonPrivate()), "log_ratio": 0.0, "total_variation": 0.0},
        {**to_record(MIXTURE), "probabilities": [0.5, 0.4, 0.2]},
        {**to_record(MIXTURE), "probabilities": [0.5, 0.5]},
        {**to_record(MIXTURE), "sensitivities": [0.0, 1.0, -2.0]},
        [],
        None,
        "Gaussian",
    ],
    ids=str,
)
def test_malformed_record_is_refused_with_one_code(fault: object) -> None:
    with pytest.raises(PeerViolation) as caught:
        from_record(fault)
    assert caught.value.code == "EVENT_MALFORMED"


def test_deep_nesting_is_refused_before_it_exhausts_the_stack() -> None:
    record = to_record(Gaussian(1.0))
    for _ in range(500):
        record = {"kind": "SelfComposed", "event": record, "count": 1}
    with pytest.raises(PeerViolation):
        from_record(record)
