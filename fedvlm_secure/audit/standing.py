"""Where each party stands after a run: what was spent, what is left, in how many rounds it took part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.record import AuditRecord, End, PurseState, Round, Start


@dataclass(frozen=True)
class Standing:
    """One party's last stated numbers.

    Args:
        outcome: of its last word; `running` without one.
        epsilon, delta: of the run; None under `privacy: none` and before the first round.
        readers: epsilon of the run against the aggregator alone and readers of the model, where noise is shared.
        worst_case: the same if every other party is dishonest; `epsilon` itself where no noise is shared.
        two_hospitals: epsilon of a patient at two hospitals.
        population_epsilon: everything ever charged to its population; None where nothing bounds it.
        unbounded: something was released about this population without formal protection.
    """

    party: str
    records: int
    rounds: int
    charged: int
    outcome: str
    code: str
    epsilon: float | None
    readers: float | None
    worst_case: float | None
    delta: float | None
    two_hospitals: float | None
    population_epsilon: float | None
    population_delta: float | None
    limit: float | None
    remaining: float | None
    unbounded: bool

    def as_json(self) -> dict[str, object]:
        """Every field but the name."""
        fields = asdict(self)
        del fields["party"]
        return fields


def standings(audited: AuditedRun) -> tuple[Standing, ...]:
    """One per party, in the order of the chains."""
    return tuple(_standing(party, records) for party, records in audited.chains.items())


def rounds_of(records: tuple[AuditRecord, ...]) -> tuple[Round, ...]:
    """A chain's rounds, in order."""
    return tuple(record.body for record in records if isinstance(record.body, Round))


def start_of(records: tuple[AuditRecord, ...]) -> Start | None:
    """A chain's start record, if it has one in its place."""
    first = records[0].body
    return first if isinstance(first, Start) else None


def _standing(party: str, records: tuple[AuditRecord, ...]) -> Standing:
    rounds, start, last = rounds_of(records), start_of(records), records[-1].body
    spendings = [one.spending for one in rounds if one.spending is not None]
    purse: PurseState | None = spendings[-1].purse if spendings else None
    terms = None if start is None else start.privacy
    return Standing(
        party=party,
        records=len(records),
        rounds=len(rounds),
        charged=sum(one.event is not None for one in spendings),
        outcome=last.outcome if isinstance(last, End) else "running",
        code=last.code if isinstance(last, End) else "",
        epsilon=spendings[-1].epsilon_run if spendings else None,
        readers=spendings[-1].epsilon_readers if spendings else None,
        worst_case=spendings[-1].epsilon_worst_case if spendings else None,
        delta=None if terms is None else terms.delta,
        two_hospitals=last.epsilon_two_hospitals if isinstance(last, End) else None,
        population_epsilon=None if purse is None else purse.epsilon,
        population_delta=None if purse is None else purse.delta,
        limit=None if purse is None else purse.limit,
        remaining=None if purse is None else purse.remaining,
        unbounded=purse is not None and purse.epsilon is None,
    )
