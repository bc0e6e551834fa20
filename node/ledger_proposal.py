"""A decision on its way from the first operator to the second: a small public file with one consent in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from fedvlm_secure.errors import FedvlmError, PolicyError
from node.ledger_consent import Decision
from node.ledger_entries import Consent, LimitSet, Operator, OperatorsSet, PopulationAdded

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (LimitSet, PopulationAdded, OperatorsSet)}


def with_consent(decision: Decision, consent: Consent) -> Decision:
    """The decision with one more consent; one that is there from the same operator is replaced."""
    others = tuple(each for each in decision.consents if each.operator != consent.operator)
    return replace(decision, consents=(*others, consent))


def in_words(decision: Decision) -> str:
    """What is decided, for the second operator to read."""
    match decision:
        case LimitSet(population=name, epsilon_limit=limit):
            return f"population {name}: limit {limit:g}"
        case PopulationAdded(population=name, delta=delta, epsilon_limit=limit):
            return f"new population {name}: limit {limit:g} at delta {delta:g}"
        case OperatorsSet(operators=operators):
            names = " and ".join(each.name for each in operators)
            return f"{names} decide on limits together" if names else "one operator alone decides on limits again"


def format_proposal(decision: Decision) -> bytes:
    """The file's text, ASCII JSON."""
    fields: dict[str, object] = {"version": 1, "kind": type(decision).__name__}
    match decision:
        case LimitSet() | PopulationAdded():
            fields |= {name: value for name, value in vars(decision).items() if name != "consents"}
        case OperatorsSet(operators=operators):
            fields["operators"] = [{"name": each.name, "public": each.public.hex()} for each in operators]
    consents = [{"operator": each.operator, "signature": each.signature.hex()} for each in decision.consents]
    return (json.dumps({**fields, "consents": consents}, indent=2) + "\n").encode("ascii")


def parse_proposal(raw: bytes, origin: str) -> Decision:
    """Inverse of `format_proposal`. The consents are checked when the decision is taken.

    Raises:
        PolicyError: PROPOSAL_INVALID.
    """
    try:
        fields: dict[str, Any] = json.loads(raw)
        if fields.pop("version") != 1:
            raise ValueError("another version")
        kind = _KINDS[fields.pop("kind")]
        consents = tuple(
            Consent(str(each["operator"]), bytes.fromhex(each["signature"])) for each in fields.pop("consents")
        )
        if kind is OperatorsSet:
            operators = tuple(
                Operator(str(each["name"]), bytes.fromhex(each["public"])) for each in fields["operators"]
            )
            return OperatorsSet(operators, consents)
        numbers = {name: value if name == "population" else float(value) for name, value in fields.items()}
        if not isinstance(numbers["population"], str):
            raise ValueError("a population's name")
        decision: Decision = kind(**numbers, consents=consents)
        return decision
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FedvlmError) as error:
        raise PolicyError(
            "PROPOSAL_INVALID",
            f"{origin} is no proposal of a decision",
            "use the file that `fedvlm-node ledger limit ... --operator KEYFILE` wrote, unchanged",
        ) from error
