"""What a node's machine asks of the budget. The hospital's ledger stands behind it; the simulator has one in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedvlm_secure.dp.events import Event
from fedvlm_secure.policy.private_release import round_event, run_event
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.types import Digest


@dataclass(frozen=True)
class Charge:
    """What one round of a run costs.

    Attributes:
        event: what this round releases; `NonPrivate` where the policy has no mechanism.
        rounds: rounds of the whole run.
        whole: what all rounds under this manifest release together.
    """

    run_hash: Digest
    round: int
    rounds: int
    event: Event
    whole: Event


class Purse(Protocol):
    """The patients' budget at one hospital. Every call is durable when it returns."""

    def reserve(self, charge: Charge) -> None:
        """Before a round is trained: it is covered, and no other run can take that away.

        A run without formal protection is marked for ever instead.

        Raises:
            BudgetExhausted: it is not covered; nothing was trained or sent.
            StorageError, PolicyError: the ledger is in doubt, or knows no such population.
        """
        ...

    def spend(self, charge: Charge) -> bool:
        """Charge a round, before the first byte of its first upload may leave; never given back.

        Returns:
            False if this round of the run was charged before: nothing is charged twice.

        Raises:
            BudgetExhausted, StorageError, PolicyError: as `reserve`; nothing may leave.
        """
        ...

    def close(self, run_hash: Digest) -> None:
        """The run is over here: what it reserved and did not spend is free again. A second call does nothing."""
        ...


def charge_for(policy: Policy, manifest: Manifest, round_number: int) -> Charge:
    """The charge of a round under a manifest that this node has checked against its own policy."""
    multiplier, dimension = manifest.noise_multiplier, manifest.dimension
    return Charge(
        manifest.run_hash,
        round_number,
        manifest.rounds,
        round_event(policy, multiplier, dimension, round_number),
        run_event(policy, multiplier, dimension, manifest.rounds, first=manifest.start_round),
    )
