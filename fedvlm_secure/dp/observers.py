"""One shared-noise sum as different people see it: what is charged, and what the same run means for the others.

A run's record is an event in which each sum stands as `counted`. What somebody else would compute is that event with
each sum exchanged for another; all else in it (released scores, which nobody shares noise for) stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedvlm_secure.dp.events import Composed, Event, Perturbed, SelfComposed, compose
from fedvlm_secure.dp.shared_noise import SharedNoise

NOTHING = Composed(())
_ALONE = 1


@dataclass(frozen=True)
class Observers:
    """One sum, as an event.

    Attributes:
        counted: against the aggregator with the coalition whose shares are not counted: the number of record.
        readers: against the aggregator alone and the model's readers: every hospital keeps its share to itself.
        alone: every other hospital has shown its share: the patient's own hospital's is left.
        twice: `counted`, for a patient who is at two hospitals of the cohort and may enter the sum twice.
    """

    counted: Event
    readers: Event
    alone: Event
    twice: Event

    def to_readers(self, run: Event) -> Event:
        """A run as the model's readers see it."""
        return exchanged(run, self.counted, self.readers)

    def to_everybody_else(self, run: Event) -> Event:
        """A run in which only the patient's own hospital is honest."""
        return exchanged(run, self.counted, self.alone)

    def at_two_hospitals(self, run: Event) -> Event:
        """A run for a patient of two hospitals: each sum once, as `twice`; what each releases by itself, two times."""
        return compose((exchanged(run, self.counted, self.twice), exchanged(run, self.counted, NOTHING)))


def observers_of(noise: SharedNoise, sampling_rate: float, readers: int) -> Observers:
    """The views of one sum.

    Args:
        noise: with the makers that are counted on.
        sampling_rate: q.
        readers: makers against readers and the aggregator alone, at least those counted on.
    """
    return Observers(
        counted=noise.step_event(sampling_rate),
        readers=noise.step_event(sampling_rate, readers),
        alone=noise.step_event(sampling_rate, _ALONE),
        twice=noise.two_hospital_event(sampling_rate),
    )


def exchanged(event: Event, old: Event, new: Event) -> Event:
    """`event` with `new` wherever `old` stands in it."""
    match event:
        case _ if event == old:
            return new
        case SelfComposed(inner, count):
            return SelfComposed(exchanged(inner, old, new), count)
        case Composed(parts):
            return Composed(tuple(exchanged(part, old, new) for part in parts))
        case Perturbed(inner, log_ratio, total_variation):
            return Perturbed(exchanged(inner, old, new), log_ratio, total_variation)
        case _:
            return event
