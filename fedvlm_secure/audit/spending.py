"""From events to the numbers of a record: written by a party, computed again by the auditor with the same functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedvlm_secure.audit.facts import LedgerHead, PrivacyFacts, PurseFacts, ShareFacts
from fedvlm_secure.audit.record import LedgerEntry, PrivacyTerms, PurseState, ScoreTerms, ShareTerms, Spending
from fedvlm_secure.dp.accounting import accountant_name, computable, epsilon, two_hospitals
from fedvlm_secure.dp.events import (
    Composed,
    Event,
    SelfComposed,
    compose,
    flatten,
    from_record,
    to_record,
)
from fedvlm_secure.dp.observers import Observers

NOTHING = Composed(())


def privacy_terms(facts: PrivacyFacts) -> PrivacyTerms:
    """A run's mechanism as it stands in the start record."""
    plain = {name: value for name, value in vars(facts).items() if name not in ("round_event", "scores", "shares")}
    scores = (
        None if facts.scores is None else ScoreTerms(**{**vars(facts.scores), "event": to_record(facts.scores.event)})
    )
    round_record = to_record(facts.round_event)
    return PrivacyTerms(
        **plain,
        round_event=round_record,
        accountant=accountant_name(),
        scores=scores,
        shares=None if facts.shares is None else _share_terms(facts.shares),
    )


def _share_terms(shares: ShareFacts) -> ShareTerms:
    views = shares.observers
    return ShareTerms(
        makers=shares.makers,
        readers=shares.readers,
        coalition=shares.coalition,
        step_event=to_record(views.counted),
        readers_event=to_record(views.readers),
        alone_event=to_record(views.alone),
        two_hospitals_event=to_record(views.twice),
    )


def observers(terms: PrivacyTerms) -> Observers | None:
    """One round's sum by who looks on; None where each hospital makes all of its noise itself."""
    shares = terms.shares
    if shares is None:
        return None
    return Observers(
        counted=from_record(shares.step_event),
        readers=from_record(shares.readers_event),
        alone=from_record(shares.alone_event),
        twice=from_record(shares.two_hospitals_event),
    )


def round_spending(
    terms: PrivacyTerms, earlier: Event, charged: Event | None, purse: PurseFacts | None, survivors: int | None = None
) -> Spending:
    """What a round cost.

    Args:
        terms: the run's.
        earlier: what the run's earlier rounds were charged with, together.
        charged: this round's event, None for nothing.
        purse: the hospital's, after this round.
        survivors: hospitals in this round's sum; None where it gave none, or this party does not know.
    """
    run, views = add(earlier, charged), observers(terms)
    run_epsilon = bounded(epsilon(run, terms.delta, terms.adjacency))
    readers, worst = None, run_epsilon  # noise made inside the hospital: no coalition can take it away
    if views is not None:
        readers, worst = (_seen(event, terms) for event in (views.to_readers(run), views.to_everybody_else(run)))
    return Spending(
        event=None if charged is None else to_record(charged),
        epsilon_round=bounded(epsilon(charged or NOTHING, terms.delta, terms.adjacency)),
        epsilon_run=run_epsilon,
        epsilon_coalition=run_epsilon,
        epsilon_worst_case=worst,
        noise_variance=_noise_variance(terms, survivors),
        purse=None if purse is None else purse_state(purse.population_event, purse.delta, purse.limit, purse.head),
        epsilon_readers=readers,
    )


def _seen(event: Event, terms: PrivacyTerms) -> float | None:
    """Epsilon of a run as somebody else sees it; None where none is computed, which no charge rests on."""
    return bounded(epsilon(event, terms.delta, terms.adjacency)) if computable(event) else None


def _noise_variance(terms: PrivacyTerms, survivors: int | None) -> int:
    if terms.shares is None:
        return terms.share_variance
    return terms.guaranteed_variance if survivors is None else terms.share_variance * survivors


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
    """Epsilon of a patient who is at two hospitals of the run, both charged alike; None where there is no bound.

    Mechanisms of their own are composed; of a sum that both hospitals are in, the patient is a mixture.
    """
    views = observers(terms)
    if views is None:
        return bounded(two_hospitals(run, terms.delta))
    return _seen(views.at_two_hospitals(run), terms)


def bounded(value: float) -> float | None:
    """An epsilon as it stands in a record: None for infinity."""
    return value if math.isfinite(value) else None


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
