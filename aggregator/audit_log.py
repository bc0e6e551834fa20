"""The coordinator's audit records: HOME/runs/RUN/audit.jsonl, written from the journal, so that none is skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from aggregator.authority import Authority
from aggregator.status import run_folder
from fedvlm_secure.audit.chain import FILE_NAME, AuditChain
from fedvlm_secure.audit.folder import ROSTER_NAME
from fedvlm_secure.audit.opening import start_record
from fedvlm_secure.audit.planned import planned_event
from fedvlm_secure.audit.record import End, ReleasedScore, Round, Start, TaskTotal, survivors_hash
from fedvlm_secure.audit.spending import at_two_hospitals, charged_so_far, round_spending
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.policy.roster import Roster, format_roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.closing import initial_state
from fedvlm_secure.rounds.gathering import NEW_EPOCH
from fedvlm_secure.store.private_files import private_folder, write_whole
from fedvlm_secure.types import Digest


class AggregatorAuditLog:
    """Follows one run's journal.

    Args:
        authority: home and identity.
        roster, policy: the run's.
        memory: the machine's journal; closed rounds are read from its summaries.
        wall_s: seconds since 1970.
    """

    def __init__(
        self,
        authority: Authority,
        roster: Roster,
        policy: Policy,
        memory: AggregatorMemory,
        wall_s: Callable[[], float],
    ) -> None:
        self._authority, self._roster, self._policy = authority, roster, policy
        self._memory, self._wall_s = memory, wall_s
        self._chain: AuditChain | None = None
        self._run_hash: Digest | None = None

    def observe(self) -> None:
        """Write a record of every round closed since the last call, and of the run's beginning.

        Raises:
            StorageError: a record cannot be written; the next call tries again.
        """
        if self._memory.opened is None:
            return
        manifest = self._memory.manifest
        chain = self._chain
        if chain is None or self._run_hash != manifest.run_hash:
            if chain is not None and chain.start is not None:
                self._write(chain, chain.start, before=manifest.start_round)
                self._end(chain, chain.start, "aborted", NEW_EPOCH.code)
            chain, self._run_hash = self._open(), manifest.run_hash
            self._chain = chain
        start = chain.start
        if start is None:
            model = initial_state(self._policy, manifest.dimension).digest
            start = start_record(self._policy, manifest, self._roster, model=model, node=None, population=None)
            chain.append(start)
        self._write(chain, start)

    def _write(self, chain: AuditChain, start: Start, before: int | None = None) -> None:
        """The rounds closed since; those before this membership are the business of another chain."""
        first = self._memory.manifest.start_round if before is None else 0
        for summary in self._memory.summaries[len(chain.rounds) : before]:
            known = int(summary["round"]) >= first  # type: ignore[call-overload]
            chain.append(_round(chain, start, summary) if known else _elsewhere(chain, start, summary))

    def end(self, *, finished: bool, error: FedvlmError | None) -> None:
        """The service ends: the run is over, or this process only.

        Raises:
            StorageError: as `observe`.
        """
        self.observe()
        chain = self._chain
        last = chain.records[-1].body if chain is not None else None
        if chain is None or chain.start is None or (isinstance(last, End) and last.outcome != "left"):
            return
        over: Literal["finished", "aborted"] = "finished" if error is None else "aborted"
        self._end(chain, chain.start, over if finished else "left", "" if error is None else error.code)

    @staticmethod
    def _end(chain: AuditChain, start: Start, outcome: Literal["finished", "aborted", "left"], code: str) -> None:
        terms, rounds = start.privacy, chain.rounds
        charged = charged_so_far([one.spending for one in rounds])
        chain.append(
            End(
                outcome=outcome,
                code=code,
                rounds_closed=len(rounds),
                model=rounds[-1].model_after if rounds else None,
                epsilon_two_hospitals=None if terms is None else at_two_hospitals(terms, charged),
            )
        )

    def _open(self) -> AuditChain:
        manifest = self._memory.manifest
        folder = run_folder(self._authority.home, manifest.run_id.hex())
        if manifest.start_epoch:  # each membership has its own records, with its own roster
            folder = private_folder(folder / f"epoch-{manifest.start_epoch}")
        write_whole(folder / ROSTER_NAME, format_roster(self._roster))
        return AuditChain(
            folder / FILE_NAME,
            role="aggregator",
            party="aggregator",
            run=manifest.run_id.hex(),
            run_hash=manifest.run_hash.hex(),
            key=self._authority.identity,
            wall_s=self._wall_s,
        )


def _round(chain: AuditChain, start: Start, summary: Mapping[str, Any]) -> Round:
    """The public cost of a round is that of every hospital in it, known from the policy alone."""
    void = bool(summary["void"])
    survivors = None if void else tuple(summary["survivors"])
    terms = start.privacy
    spending = None
    if terms is not None:
        earlier = charged_so_far([one.spending for one in chain.rounds])
        planned = planned_event(terms, int(summary["round"]) + 1)
        spending = round_spending(terms, earlier, planned, None, None if survivors is None else len(survivors))
    tasks: Mapping[str, Any] = {} if void else summary.get("tasks", {})
    released: Mapping[str, Any] = {} if void else summary.get("released", {})
    return Round(
        round=int(summary["round"]) + 1,
        outcome="void" if void else "result",
        attempt=int(summary["attempt"]) + 1,
        ctx=None if void else summary["ctx"],
        survivors=survivors,
        survivors_hash=None if survivors is None else survivors_hash(summary["ctx"], survivors),
        model_before=summary["model_before"],
        model_after=summary["model_after"],
        result=summary["result"],
        totals=tuple(
            TaskTotal(task=task, correct=int(counts["correct"]), total=int(counts["total"]))
            for task, counts in sorted(tasks.items())
        ),
        spending=spending,
        released=tuple(ReleasedScore(task=task, **numbers) for task, numbers in sorted(released.items())),
    )


def _elsewhere(chain: AuditChain, start: Start, summary: Mapping[str, Any]) -> Round:
    """A round that was closed before this membership."""
    terms = start.privacy
    earlier = charged_so_far([one.spending for one in chain.rounds])
    return Round(
        round=int(summary["round"]) + 1,
        outcome="missed",
        attempt=None,
        ctx=None,
        survivors=None,
        survivors_hash=None,
        model_before=None,
        model_after=summary["model_after"],
        result=summary["result"],
        totals=(),
        spending=None if terms is None else round_spending(terms, earlier, None, None),
    )
