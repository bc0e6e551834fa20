"""Who went out of the sums and came in again too often, as the hospitals wrote it into their signed records."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.standing import rounds_of


@dataclass(frozen=True)
class Isolation:
    """One hospital whose update differences of sums could show.

    Args:
        hospital: who went out and came in.
        rounds: whose set was once too often, counted from 1, in order.
        noted_by: hospitals that signed such a set and wrote so.
    """

    hospital: str
    rounds: tuple[int, ...]
    noted_by: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Every field."""
        return asdict(self)


def isolations(audited: AuditedRun) -> tuple[Isolation, ...]:
    """One per hospital that any record names, by name; empty in the good case, and where no record speaks of it."""
    found: dict[str, dict[str, set[int]]] = {}
    for party, records in audited.chains.items():
        for closed in rounds_of(records):
            for hospital in closed.isolated or ():
                found.setdefault(hospital, {}).setdefault(party, set()).add(closed.round)
    return tuple(
        Isolation(hospital, tuple(sorted(set().union(*noted.values()))), tuple(sorted(noted)))
        for hospital, noted in sorted(found.items())
    )
