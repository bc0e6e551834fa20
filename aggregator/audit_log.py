"""The coordinator's audit records: HOME/runs/RUN/audit.jsonl, written from the journal, so that none is skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from aggregator.authority import Authority
from aggregator.status import run_folder
from fedvlm_secure.audit.chain import FILE_NAME, AuditChain
from fedvlm_secure.audit.folder import ROSTER_NAME
from fedvlm_secure.audit.opening import start_record
from fedvlm_secure.audit.record import End, Round, Start, TaskTotal, survivors_hash
from fedvlm_secure.audit.spending import at_two_hospitals, charged_so_far, round_spending
from fedvlm_secure.dp.events import from_record
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.policy.roster import Roster, format_roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.closing import initial_state
from fedvlm_secure.store.private_files import write_whole


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

    def observe(self) -> None:
        """Write a record of every round closed since the last call, and of the run's beginning.

        Raises:
            StorageError: a record cannot be written; the next call tries again.
        """
        if self._memory.opened is None:
            return
        chain = self._chain = self._chain or self._open()
        start = chain.start
        if start is None:
            manifest = self._memory.manifest
            model = initial_state(self._policy, manifest.dimension).digest
            start = start_record(self._policy, manifest, self._roster, model=model, node=None, population=None)
            chain.append(start)
        for summary in self._memory.summaries[len(chain.rounds) :]:
            chain.append(_round(chain, start, summary))

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
        terms, rounds = chain.start.privacy, chain.rounds
        charged = charged_so_far([one.spending for one in rounds])
        over: Literal["finished", "aborted"] = "finished" if error is None else "aborted"
        chain.append(
            End(
                outcome="left" if not finished else over,
                code="" if error is None else error.code,
                rounds_closed=len(rounds),
                model=rounds[-1].model_after if rounds else None,
                epsilon_two_hospitals=None if terms is None else at_two_hospitals(terms, charged),
            )
        )

    def _open(self) -> AuditChain:
        manifest = self._memory.manifest
        folder = run_folder(self._authority.home, manifest.run_id.hex())
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
        spending = round_spending(terms, earlier, from_record(terms.round_event), None)
    tasks: Mapping[str, Any] = {} if void else summary.get("tasks", {})
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
    )
