"""What the ledger refuses: an unknown population, a number out of range, a charge that is not covered."""

from __future__ import annotations

import math

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.dp.events import Event
from fedvlm_secure.errors import BudgetExhausted, PolicyError
from fedvlm_secure.types import Digest
from node.ledger_book import Book, Population, Run, Tally, tally, untally
from node.ledger_consent import Decision
from node.ledger_entries import LimitSet, OperatorsSet


def epsilon_of(spent: Tally, delta: float) -> float:
    """Epsilon of everything in a tally together."""
    return epsilon(untally(spent), delta)


def open_population(book: Book, name: str) -> Population:
    """The open population of that name.

    Raises:
        PolicyError: POPULATION_UNKNOWN.
    """
    population = book.populations.get(name)
    if population is None:
        raise PolicyError("POPULATION_UNKNOWN", f"no population {name!r} here", "add it with `fedvlm-node ledger add`")
    if population.merged_into is not None:
        raise PolicyError(
            "POPULATION_UNKNOWN", f"population {name} was merged into {population.merged_into}", "use that one"
        )
    return population


def require_covered(name: str, population: Population, wanted: Tally, what: str) -> None:
    """Refuse what comes to more than the limit.

    Raises:
        BudgetExhausted: BUDGET_EXHAUSTED.
    """
    needed = epsilon_of(wanted, population.delta)
    if needed > population.epsilon_limit:
        raise BudgetExhausted(
            "BUDGET_EXHAUSTED",
            f"population {name}: {what} comes to epsilon {needed!r}, above the limit of {population.epsilon_limit!r}",
            "leave this run, plan a smaller one, or let the operator decide on `fedvlm-node ledger limit`",
        )


def require_reserved(run: Run, round_number: int, event: Event) -> None:
    """Refuse a round that would release more than its run set aside.

    Raises:
        BudgetExhausted: BUDGET_EXHAUSTED.
    """
    if tally(event) - run.left:
        raise BudgetExhausted(
            "BUDGET_EXHAUSTED",
            f"round {round_number} would release more than this run has reserved and not yet spent",
            "the run must reserve its whole plan first",
        )


def checked_decision(book: Book, decision: Decision) -> float:
    """The population's present limit, 0 where there is none; the decision's own numbers are in range.

    Raises:
        PolicyError: LIMIT_RANGE, POPULATION_UNKNOWN, POPULATION_EXISTS, DELTA_MISSING.
    """
    if isinstance(decision, OperatorsSet):
        return 0.0
    asked = decision.epsilon_limit
    if not (math.isfinite(asked) and asked >= 0):
        raise PolicyError("LIMIT_RANGE", f"a limit on epsilon is finite and >= 0, got {asked}", "such as 8")
    if isinstance(decision, LimitSet):
        return open_population(book, decision.population).epsilon_limit
    require_delta(decision.delta, 1)
    if decision.population in book.populations:
        raise PolicyError(
            "POPULATION_EXISTS", f"population {decision.population} exists already", "choose another name"
        )
    return 0.0


def run_conflict(run: Digest, cause: str) -> PolicyError:
    """RUN_CONFLICT."""
    return PolicyError("RUN_CONFLICT", f"run {run.hex()[:16]}: {cause}", "approve the policy again for a new run")
