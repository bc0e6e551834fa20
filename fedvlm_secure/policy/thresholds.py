"""How many hospitals must survive a round, and how many must sign: plain arithmetic that every party does for itself.

Nodes compute these from their own approved policy and the roster; they are never taken from the aggregator.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.schema import CohortPolicy

SMALLEST_COHORT = 3


@dataclass(frozen=True)
class CohortTerms:
    """The constants of an epoch: cohort size n, tolerated colluding or restored nodes c, threshold t, min_survivors."""

    n: int
    c: int
    t: int
    min_survivors: int

    @property
    def losses_before_survivors(self) -> int:
        """Nodes that may be lost before the survivor set is fixed."""
        return self.n - self.min_survivors

    @property
    def losses_by_reveal(self) -> int:
        """Nodes that may be lost in all by the reveal."""
        return self.n - self.t

    @property
    def warning(self) -> str:
        """What an operator has to know about c = 0; empty otherwise."""
        return "" if self.c else "one dishonest or restored node breaks this"


def resolve(cohort: CohortPolicy, nodes: int, *, shared_key: bool = False) -> CohortTerms:
    """The terms of a cohort of `nodes` hospitals.

    Args:
        shared_key: every hospital holds the key of all updates (homomorphic aggregation): `auto` is c = 0 then.

    t = (n + c)//2 + 1, so that 2t > n + c: two survivor sets of one round cannot both gather t signatures.

    Raises:
        PolicyError: COHORT_TOO_SMALL, or COHORT_INFEASIBLE when more survivors or colluders are asked for than fit.

    Source: threshold rule of Bonawitz et al. 2017, section 6.2, for server and c nodes colluding.
    """
    if nodes < SMALLEST_COHORT:
        raise PolicyError(
            "COHORT_TOO_SMALL",
            f"a cohort of {nodes} hospitals is below {SMALLEST_COHORT}: each would learn the other's update",
            f"admit at least {SMALLEST_COHORT} hospitals",
        )
    if nodes < cohort.min_nodes:
        raise PolicyError(
            "COHORT_TOO_SMALL",
            f"the roster has {nodes} hospitals, cohort.min_nodes is {cohort.min_nodes}",
            "admit more hospitals, or agree on a policy with a smaller cohort.min_nodes",
        )
    tolerated = 1 if nodes >= 4 and not shared_key else 0
    colluding = tolerated if cohort.colluding == "auto" else cohort.colluding
    threshold = (nodes + colluding) // 2 + 1
    asked = SMALLEST_COHORT if cohort.min_survivors == "auto" else cohort.min_survivors
    survivors = max(threshold, colluding + 2, SMALLEST_COHORT, asked)
    if survivors > nodes:
        raise PolicyError(
            "COHORT_INFEASIBLE",
            f"{nodes} hospitals cannot leave {survivors} survivors (colluding {colluding}, min_survivors {asked})",
            "lower cohort.min_survivors or cohort.colluding, or admit more hospitals",
        )
    return CohortTerms(nodes, colluding, threshold, survivors)
