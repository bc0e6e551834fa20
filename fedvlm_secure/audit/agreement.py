"""What the parties of one run say, side by side: nobody can rewrite a chain of its own without standing alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedvlm_secure.audit.record import AuditRecord, PrivacyTerms, Round, Start
from fedvlm_secure.audit.verify import Finding

Chains = Mapping[str, Sequence[AuditRecord]]
"""Records by party."""

AGREED = (
    "policy_name",
    "policy_hash",
    "roster",
    "nodes",
    "threshold",
    "colluding",
    "min_survivors",
    "protection",
    "lanes",
    "dimension",
    "rounds",
    "base",
    "layout",
    "model",
    "version",
    "released",
    "visibility",
    "not_protected",
    "statement",
)
OWN_TERMS = frozenset({"expected_patients", "noise_ratio", "random_source", "accountant"})
"""Differ between hospitals, or with the library that is installed there."""


def disagreements(chains: Chains) -> list[Finding]:
    """Compare the chains of one run, each checked by itself before.

    Who differs from most is named; where there is no majority everybody is.
    """
    found = list(_compare(chains, lambda record: 0, "run_hash", lambda record: record.run_hash))
    found += _compare(chains, lambda record: 0, "run", lambda record: record.run)
    for name in AGREED:
        found += _compare(chains, _only_start, name, _start_field(name))
    for name in PrivacyTerms.model_fields:
        if name not in OWN_TERMS:
            found += _compare(chains, _only_start, f"privacy.{name}", _terms_field(name))
    for name in ("outcome", "ctx", "survivors", "model_before", "model_after", "result"):
        found += _compare(chains, _seen_round, name, _round_field(name))
    found += _absences(chains)
    return found


def _only_start(record: AuditRecord) -> int | None:
    return 0 if isinstance(record.body, Start) else None


def _seen_round(record: AuditRecord) -> int | None:
    return record.body.round if isinstance(record.body, Round) else None


def _start_field(name: str) -> Callable[[AuditRecord], Any]:
    return lambda record: getattr(record.body, name)


def _terms_field(name: str) -> Callable[[AuditRecord], Any]:
    def value(record: AuditRecord) -> Any:
        terms = record.body.privacy if isinstance(record.body, Start) else None
        return "no privacy" if terms is None else getattr(terms, name)

    return value


def _round_field(name: str) -> Callable[[AuditRecord], Any]:
    """None, as for what a party missed, says nothing and is not compared."""

    def value(record: AuditRecord) -> Any:
        found = getattr(record.body, name)
        return None if found == "missed" else found

    return value


def _compare(
    chains: Chains,
    place: Callable[[AuditRecord], int | None],
    name: str,
    value: Callable[[AuditRecord], Any],
) -> Iterator[Finding]:
    """Group the records by place, and name those whose value is not that of most."""
    groups: dict[int, list[tuple[str, int, str]]] = {}
    for party, records in chains.items():
        for at, record in enumerate(records):
            where = place(record)
            said = None if where is None else value(record)
            if where is not None and said is not None:
                groups.setdefault(where, []).append((party, at, repr(said)))
    for said_by in groups.values():
        votes = Counter(said for _, _, said in said_by).most_common()
        if len(votes) == 1:
            continue
        clear = votes[0][1] > votes[1][1]
        for party, at, said in said_by:
            if not (clear and said == votes[0][0]):
                yield Finding(at, party, name, "differs from what the other parties state")


def _absences(chains: Chains) -> Iterator[Finding]:
    """Who is in a round's sum has a record of that round."""
    rounds = {
        party: {record.body.round for record in records if isinstance(record.body, Round)}
        for party, records in chains.items()
    }
    missing: dict[str, set[int]] = {}
    for records in chains.values():
        for record in records:
            for node in (record.body.survivors or ()) if isinstance(record.body, Round) else ():
                if node in rounds and isinstance(record.body, Round) and record.body.round not in rounds[node]:
                    missing.setdefault(node, set()).add(record.body.round)
    for party, lacking in missing.items():
        cause = f"is missing for round {min(lacking)}, in whose sum the others have this hospital"
        yield Finding(len(chains[party]), party, "round", cause)
