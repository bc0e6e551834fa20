"""What the records say about a purse is what the hospital's ledger says."""

from __future__ import annotations

import math
from pathlib import Path

from fedvlm_secure.audit.spending import contains, purse_state
from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import from_record
from node.purse import LedgerPurse
from tests.ledger.purse import DELTA, PLAN, ROUND, Purse, run_id, times


def test_charge_limit_and_everything_spent_come_from_the_ledger(tmp_path: Path) -> None:
    ledger = Purse(tmp_path).create(limit=8.0)
    reader = LedgerPurse(ledger, "chest")
    for run in (1, 2):
        ledger.reserve(run_id(run), "chest", PLAN)
    ledger.spend(run_id(1), 0, ROUND)
    ledger.spend(run_id(2), 0, ROUND)
    facts = reader.at_round(run_id(2), 0)
    assert facts.round_event == ROUND
    assert (facts.delta, facts.limit) == (DELTA, 8.0)
    state = purse_state(facts.population_event, facts.delta, facts.limit)
    assert state.epsilon == epsilon(times(4), DELTA)
    assert state.remaining == 8.0 - epsilon(times(4), DELTA)
    assert contains(from_record(state.event), ROUND)
    assert reader.at_round(run_id(2), 1).round_event is None


def test_a_population_once_released_unprotected_has_no_bound(tmp_path: Path) -> None:
    ledger = Purse(tmp_path).create()
    ledger.record_unprotected(run_id(9), "chest")
    facts = LedgerPurse(ledger, "chest").at_round(run_id(1), 0)
    assert math.isinf(epsilon(facts.population_event, facts.delta))
    state = purse_state(facts.population_event, facts.delta, facts.limit)
    assert (state.epsilon, state.remaining) == (None, 0.0)
