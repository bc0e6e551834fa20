"""Who must agree to a decision about limits, and what exactly each of them signs.

Where two operators are named, raising a limit, adding a population with one, and switching the rule off need both;
lowering a limit needs one. Every reader of the ledger checks the signatures again, so an entry that was slipped in
without them is as good as an edited one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedvlm_secure import canonical
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.types import Digest
from node.ledger_entries import LimitSet, Operator, OperatorsSet, PopulationAdded, plain_fields

Decision = LimitSet | PopulationAdded | OperatorsSet
OPERATORS = 2


def decision_digest(decision: Decision, ledger: bytes, number: int) -> Digest:
    """What an operator signs: this decision, for this ledger, as its next one. A consent cannot be used twice.

    Args:
        decision: its consents are not part of the digest.
        ledger: the 16 bytes that tell this ledger from every other one.
        number: decisions taken before.
    """
    fields = plain_fields(dataclasses.replace(decision, consents=()))
    return canonical.digest("ledger-decision", ledger, number, type(decision).__name__, fields)


def needed(decision: Decision, operators: Sequence[Operator], limit: float) -> tuple[tuple[Operator, ...], int]:
    """Whose consents count, and how many of them it takes.

    Args:
        operators: the two of this ledger, or none.
        limit: the population's present limit on epsilon, 0 for a new one.
    """
    match decision:
        case OperatorsSet(operators=new):
            return tuple(operators) or new, OPERATORS
        case _ if not operators:
            return (), 0
        case PopulationAdded(epsilon_limit=asked):
            return tuple(operators), OPERATORS if asked > 0 else 0
        case LimitSet(epsilon_limit=asked):
            return tuple(operators), OPERATORS if asked > limit else 1


def require_consents(
    decision: Decision, operators: Sequence[Operator], ledger: bytes, number: int, limit: float
) -> None:
    """Refuse a decision that lacks an operator's consent.

    Raises:
        PolicyError: OPERATOR_NEEDED, CONSENT_INVALID (a signature that does not hold, or nobody's who has a say), or
            OPERATORS (not two different ones).
    """
    if isinstance(decision, OperatorsSet):
        _require_two(decision.operators, operators)
    who, count = needed(decision, operators, limit)
    digest = decision_digest(decision, ledger, number)
    public = {operator.name: operator.public for operator in who}
    given = {consent.operator: consent.signature for consent in decision.consents}
    for name, signature in given.items() if who else ():
        if name not in public or not _holds(public[name], signature, digest):
            raise PolicyError(
                "CONSENT_INVALID",
                f"the consent of {name[:64]!r} is not for this decision of this ledger",
                "a consent serves once; propose the decision again",
            )
    if len(given) < count:
        raise PolicyError(
            "OPERATOR_NEEDED",
            f"this decision takes {count} of the operators {', '.join(sorted(public))}, {len(given)} agreed",
            "sign with --operator KEYFILE; the other operator then runs `fedvlm-node ledger confirm FILE`",
        )


def _require_two(new: Sequence[Operator], present: Sequence[Operator]) -> None:
    distinct = len({each.name for each in new}) == len({each.public for each in new}) == len(new)
    if not distinct or len(new) != (0 if present else OPERATORS):
        raise PolicyError(
            "OPERATORS",
            f"{len(new)} operators after {len(present)}; the rule takes two different ones, or is switched off",
            "switch it off before others take over",
        )


def _holds(public: bytes, signature: bytes, digest: Digest) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, digest)
    except (InvalidSignature, ValueError):
        return False
    return True
