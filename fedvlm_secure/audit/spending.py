"""From events to the numbers of a record: written by a party, computed again by the auditor with the same functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedvlm_secure.audit.facts import LedgerHead, PrivacyFacts, PurseFacts
from fedvlm_secure.audit.record import LedgerEntry, PrivacyTerms, PurseState, ScoreTerms, Spending
from fedvlm_secure.dp.accounting import accountant_name, epsilon, two_hospitals
from fedvlm_secure.dp.events import (
    Composed,
    Event,
    PoissonSampled,
    SelfComposed,
    compose,
    flatten,
    from_record,
    to_record,
)

NOTHING = Composed(())
_MOST_PARTS = 4096
_WIDEST = 30_000.0
"""Privacy loss that one grid may span: 3e7 cells, about half a gigabyte while it is composed."""

_DEVIATIONS = 12


def privacy_terms(facts: PrivacyFacts) -> PrivacyTerms:
    """A run's mechanism as it stands in the start record."""
    plain = {name: value for name, value in vars(facts).items() if name not in ("round_event", "scores")}
    scores = (
        None if facts.scores is None else ScoreTerms(**{**vars(facts.scores), "event": to_record(facts.scores.event)})
    )
    round_record = to_record(facts.round_event)
    return PrivacyTerms(**plain, round_event=round_record, accountant=accountant_name(), scores=scores)


def round_spending(terms: PrivacyTerms, earlier: Event, charged: Event | None, purse: PurseFacts | None) -> Spending:
    """What a round cost.

    Args:
        terms: the run's.
        earlier: what the run's earlier rounds were charged with, together.
        charged: this round's event, None for nothing.
        purse: the hospital's, after this round.
    """
    run_epsilon = bounded(epsilon(add(earlier, charged), terms.delta, terms.adjacency))
    return Spending(
        event=None if charged is None else to_record(charged),
        epsilon_round=bounded(epsilon(charged or NOTHING, terms.delta, terms.adjacency)),
        epsilon_run=run_epsilon,
        epsilon_coalition=run_epsilon,  # the noise is made inside the hospital: no coalition can take it away
        epsilon_worst_case=run_epsilon,
        noise_variance=terms.share_variance,
        purse=None if purse is None else purse_state(purse.population_event, purse.delta, purse.limit, purse.head),
    )


def purse_state(event: Event, delta: float, limit: float, head: LedgerHead | None = None) -> PurseState:
    """A purse with its epsilon and what is left, and the head of the ledger that says so."""
    spent = bounded(epsilon(event, delta))
    return PurseState(
        event=to_record(event),
        delta=delta,
        epsilon=spent,
        limit=limit,
        remaining=0.0 if spent is None else max(0.0, limit - spent),
        head=None if head is None else LedgerEntry(sequence=head.sequence, digest=head.digest.hex()),
    )


def charged_so_far(spendings: Sequence[Spending | None]) -> Event:
    """Everything a run's rounds were charged with. Equal neighbours are counted, so that it stays small."""
    runs: list[tuple[dict[str, Any], int]] = []
    for one in spendings:
        if one is None or one.event is None:
            continue
        if runs and runs[-1][0] == one.event:
            runs[-1] = (one.event, runs[-1][1] + 1)
        else:
            runs.append((one.event, 1))
    return compose(SelfComposed(from_record(record), count) for record, count in runs) if runs else NOTHING


def add(earlier: Event, charged: Event | None) -> Event:
    """What was charged before, and one round more."""
    if charged is None:
        return earlier
    return charged if earlier == NOTHING else compose((earlier, charged))


def at_two_hospitals(terms: PrivacyTerms, run: Event) -> float | None:
    """Epsilon of a patient who is at two hospitals of the run, both charged alike; None where there is no bound."""
    return bounded(two_hospitals(run, terms.delta))


def bounded(value: float) -> float | None:
    """An epsilon as it stands in a record: None for infinity."""
    return value if math.isfinite(value) else None


def computable(event: Event) -> bool:
    """Whether the accountant's grid for this event fits into memory. A hostile record must not exhaust an auditor's."""
    flat = flatten(event)
    spread = math.fsum(
        count / (2 * noise**2) + _DEVIATIONS * math.sqrt(count) / noise
        for basic, count in flat.counts
        for noise in [basic.event.noise_multiplier if isinstance(basic, PoissonSampled) else basic.noise_multiplier]
    )
    return len(flat.counts) <= _MOST_PARTS and spread <= _WIDEST


def contains(later: Event, earlier: Event) -> bool:
    """Whether everything in `earlier` is also in `later`, with multiplicity: a purse never forgets."""
    new, old = flatten(later), flatten(earlier)
    counts = dict(new.counts)
    return (
        all(counts.get(event, 0) >= count for event, count in old.counts)
        and new.log_ratio >= old.log_ratio * (1 - 1e-12)
        and new.total_variation >= old.total_variation * (1 - 1e-12)
        and (new.non_private or not old.non_private)
    )
