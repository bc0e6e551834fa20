"""A simulated hospital's budget, in memory."""

from __future__ import annotations

import math

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import Event, NonPrivate, compose
from fedvlm_secure.errors import BudgetExhausted
from fedvlm_secure.rounds.purse import Charge
from fedvlm_secure.types import Digest


class MemoryPurse:
    """Charges by run and round, round by round: what later rounds need is not set aside.

    Args:
        limit: the most epsilon at `delta` that may ever be spent.

    Attributes:
        charges: (run hash, round) -> what was released.
        unprotected: runs without formal protection that trained here.
    """

    def __init__(self, limit: float = math.inf, delta: float = 1e-5) -> None:
        self.charges: dict[tuple[Digest, int], Event] = {}
        self.unprotected: set[Digest] = set()
        self.limit, self._delta = limit, delta

    def reserve(self, charge: Charge) -> None:
        """See `rounds.purse.Purse`."""
        if isinstance(charge.event, NonPrivate):
            self.unprotected.add(charge.run_hash)
            return
        self._require(charge)

    def spend(self, charge: Charge) -> bool:
        """See `rounds.purse.Purse`."""
        key = (charge.run_hash, charge.round)
        if key in self.charges:
            return False
        self._require(charge)
        self.charges[key] = charge.event
        return True

    def close(self, run_hash: Digest) -> None:
        """Nothing was set aside."""

    def spent(self) -> float:
        """Epsilon of all charges together."""
        return epsilon(compose(self.charges.values()), self._delta) if self.charges else 0.0

    def _require(self, charge: Charge) -> None:
        if math.isinf(self.limit):
            return
        needed = epsilon(compose([*self.charges.values(), charge.event]), self._delta)
        if needed > self.limit:
            raise BudgetExhausted(
                "BUDGET_EXHAUSTED",
                f"round {charge.round} brings epsilon to {needed:.3f}, above the limit of {self.limit:g}",
                "raise the simulated limit or plan fewer rounds",
            )
