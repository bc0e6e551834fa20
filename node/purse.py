"""The hospital's ledger as the purse of one run: asked before a round is trained, charged before it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedvlm_secure.audit.facts import PurseFacts
from fedvlm_secure.dp.delta import default_delta
from fedvlm_secure.dp.events import NonPrivate, compose
from fedvlm_secure.errors import BudgetExhausted
from fedvlm_secure.rounds.purse import Charge
from fedvlm_secure.types import Digest, Entropy
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.ledger_file import WallClock
from node.ledger_heads import require_signed_heads
from node.ledger_patients import patient_hashes

NO_LIMIT_YET = 0.0
"""Limit of a population that a run without protection opened: private runs wait for the operator's own number."""


class LedgerPurse:
    """`rounds.purse.Purse` of one population.

    Args:
        ledger: this hospital's.
        population: an open population of it.
    """

    def __init__(self, ledger: Ledger, population: str) -> None:
        self._ledger, self._population = ledger, population
        self._marked: set[Digest] = set()

    def reserve(self, charge: Charge) -> None:
        """Set the whole run aside at its first round; later rounds ask whether the limit still covers them.

        Raises:
            BudgetExhausted: BUDGET_EXHAUSTED.
            StorageError, PolicyError: as `Ledger.reserve`.
        """
        if isinstance(charge.event, NonPrivate):
            if charge.run_hash not in self._marked:
                self._ledger.record_unprotected(charge.run_hash, self._population)
                self._marked.add(charge.run_hash)
            return
        self._ledger.reserve(charge.run_hash, self._population, charge.whole)
        if not self._ledger.covers(charge.run_hash, charge.event):
            balance = self._ledger.balance(self._population)
            raise BudgetExhausted(
                "BUDGET_EXHAUSTED",
                f"population {self._population}: epsilon {balance.spent:.4f} is spent, and the limit of "
                f"{balance.limit:g} does not cover round {charge.round + 1} of {charge.rounds}",
                "look at `fedvlm-node ledger`; the operator alone decides on `fedvlm-node ledger limit`",
            )

    def spend(self, charge: Charge) -> bool:
        """See `Ledger.spend`."""
        return self._ledger.spend(charge.run_hash, charge.round, charge.event)

    def at_round(self, run_hash: Digest, round_number: int) -> PurseFacts:
        """See `audit.facts.PurseReader`."""
        balance = self._ledger.balance(self._population)
        return PurseFacts(
            round_event=self._ledger.charged(run_hash, round_number),
            population_event=compose((NonPrivate(), balance.event)) if balance.unprotected else balance.event,
            delta=balance.delta,
            limit=balance.limit,
            head=self._ledger.head,
        )

    def close(self, run_hash: Digest) -> None:
        """See `Ledger.close_run`."""
        self._ledger.close_run(run_hash)


def open_purse(
    state: Path,
    anchor: Path | None,
    population: str,
    patients: Iterable[str],
    *,
    private: bool,
    entropy: Entropy,
    wall_s: WallClock,
) -> tuple[LedgerPurse, str | None]:
    """Open the ledger, bind the data set's patients to their population, and give that population's purse.

    A run without protection opens ledger and population itself, with the limit 0: it has to be recorded. Private runs
    find both or are refused, so that a ledger which was lost is never replaced unseen.

    Args:
        state: the node's folder.
        anchor: where the ledger's anchor lies, None for the usual place.
        population: named in node.yaml.
        patients: patient ids of every row; only their keyed hashes are kept.
        private: whether the policy has a mechanism.

    The ledger must come after every head that this hospital signed into its audit records: they are a third place,
    beside ledger and anchor, that has to be set back with them.

    Returns:
        The purse, and a warning where delta is large beside the number of patients.

    Raises:
        StorageError: LEDGER_MISSING, LEDGER_TAMPERED, LEDGER_ROLLED_BACK, AUDIT_MALFORMED, or an I/O error.
        DataError: PATIENTS_SHARED, PATIENT_ID_MISSING.
        PolicyError: POPULATION_UNKNOWN, DELTA_TOO_LARGE.
    """
    paths, named = ledger_paths(state, anchor), set(patients)
    unopened = not any(path.exists() for path in (paths.ledger, paths.anchor, paths.key))
    ledger = Ledger.create(paths, entropy, wall_s) if unopened and not private else Ledger(paths, wall_s)
    require_signed_heads(ledger, (state / "runs",))
    if not private and population not in ledger.populations():
        ledger.add_population(population, delta=default_delta(len(named)), epsilon_limit=NO_LIMIT_YET)
    warning = ledger.bind_patients(population, patient_hashes(named, ledger.key))
    return LedgerPurse(ledger, population), warning
