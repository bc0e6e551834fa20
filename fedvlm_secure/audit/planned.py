"""What each round of a private run was agreed to release, and whether noised scores on record fit that."""

from __future__ import annotations

import math

from fedvlm_secure.audit.claims import TOLERANCE, Faults
from fedvlm_secure.audit.record import PrivacyTerms, Round, ScoreTerms, Start
from fedvlm_secure.dp.events import Composed, Event, from_record


def planned_event(terms: PrivacyTerms, round_number: int) -> Event:
    """What one hospital releases in round `round_number`, counted from 1: its training, its scores, or both."""
    training, scores = from_record(terms.round_event), terms.scores
    if scores is None or not is_due(scores, round_number):
        return training
    released = from_record(scores.event)
    return released if round_number > scores.training_rounds else Composed((training, released))


def is_due(scores: ScoreTerms, round_number: int) -> bool:
    """Whether round `round_number`, counted from 1, releases noised scores."""
    if scores.release == "final":
        return round_number > scores.training_rounds
    return round_number <= scores.training_rounds and (round_number - 1) % scores.every == 0


def released_faults(closed: Round, start: Start) -> Faults:
    """Noised scores that stand where none were agreed, or with less noise than the sum's hospitals have made."""
    if not closed.released:
        return
    scores = None if start.privacy is None else start.privacy.scores
    if scores is None or closed.outcome != "result" or not is_due(scores, closed.round):
        yield "released", "are scores that this round was not agreed to release"
        return
    if tuple(sorted(entry.task for entry in closed.released)) != tuple(sorted(scores.tasks)):
        yield "released", "are not one pair of numbers for each task"
    deviation = math.sqrt(scores.share_variance * len(closed.survivors or ())) / scores.steps_per_patient
    if any(not math.isclose(entry.deviation, deviation, rel_tol=TOLERANCE) for entry in closed.released):
        yield "released", f"carry another noise than {deviation:.6g} patients, as its hospitals made"
