"""This hospital's audit records: STATE/runs/RUN/audit.jsonl, a round's before its acknowledgement leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedvlm_secure.audit.chain import FILE_NAME, AuditChain
from fedvlm_secure.audit.facts import PurseReader
from fedvlm_secure.audit.folder import ROSTER_NAME
from fedvlm_secure.audit.opening import salted_population, start_record
from fedvlm_secure.audit.record import End, PrivacyTerms, Round, Spending, Start, survivors_hash
from fedvlm_secure.audit.spending import at_two_hospitals, charged_so_far, round_spending
from fedvlm_secure.policy.private_file import read_private, write_private
from fedvlm_secure.policy.roster import Roster, format_roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.closing import Closing, initial_state
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.secagg.messages import AggregatorMessage, Plan, Result, VoidAck
from fedvlm_secure.store.private_files import private_folder, write_whole
from fedvlm_secure.types import Digest, Entropy, NodeId, Secret
from node.keystore import Keystore

SALT_FILE = "audit.salt"
_SALT_BYTES = 32
_OVER = ("run/finished", "run/aborted")
_NEW_EPOCH = "NEW_EPOCH"


class NodeAuditLog:
    """Follows one hospital's journal through a run.

    `before` and `after` stand around each message the machine takes, so that a closed round is on record before
    anything is said about it. After a crash in between the aggregator repeats its message, or the round goes on
    record as missed, with the hashes this node acknowledged.

    Args:
        state: the node's folder.
        keystore: its identity.
        roster, policy, population: of the run.
        memory: the machine's journal.
        purse: the ledger, where the policy has a mechanism.
        entropy: for the salt of the population's name, drawn once.
        wall_s: seconds since 1970.
    """

    def __init__(
        self,
        state: Path,
        keystore: Keystore,
        roster: Roster,
        policy: Policy,
        population: str,
        memory: NodeMemory,
        purse: PurseReader | None,
        entropy: Entropy,
        wall_s: Callable[[], float],
    ) -> None:
        self._state, self._keystore, self._roster = state, keystore, roster
        self._policy, self._memory, self._purse, self._wall_s = policy, memory, purse, wall_s
        self._population = salted_population(_salt(state, entropy), population)
        self._chain: AuditChain | None = None
        self._run_hash: Digest | None = None
        self._plan: Plan | None = None

    def before(self) -> None:
        """Look at the accepted plan: closing a round erases it."""
        self._plan = self._memory.plan

    def after(self, message: AggregatorMessage | None) -> None:
        """Write what the message closed; None where there is none.

        Raises:
            StorageError: a record cannot be written; nothing may be said until it is.
        """
        memory = self._memory
        closing = memory.closing
        if memory.opened_epoch is None or closing is None:
            return
        chain = self._current()
        if chain is None:
            return
        start = chain.start
        if start is None:
            start = start_record(
                self._policy,
                memory.manifest,
                self._roster,
                model=initial_state(self._policy, memory.manifest.dimension).digest,
                node=self._keystore.node,
                population=self._population,
            )
            chain.append(start)
        while len(chain.rounds) <= closing.round:
            chain.append(self._round(chain, start, closing, message))

    def end(self, code: str = "") -> None:
        """This process leaves the run: for good if the journal says that it is over.

        Args:
            code: why, where it is no ordinary end.

        Raises:
            StorageError: as `after`.
        """
        self.after(None)
        chain = self._chain
        if chain is None or chain.start is None or self._is_final(chain):
            return
        finished, aborted = (self._memory.journal.get(key) is not None for key in _OVER)
        outcome: Literal["finished", "aborted", "left"] = "finished" if finished else "aborted" if aborted else "left"
        self._write_end(chain, chain.start, outcome, "" if finished else code)

    @staticmethod
    def _write_end(chain: AuditChain, start: Start, outcome: Literal["finished", "aborted", "left"], code: str) -> None:
        charged = charged_so_far([one.spending for one in chain.rounds])
        known = [one.model_after for one in chain.rounds if one.model_after is not None]
        chain.append(
            End(
                outcome=outcome,
                code=code,
                rounds_closed=len(chain.rounds),
                model=known[-1] if known else None,
                epsilon_two_hospitals=None if start.privacy is None else at_two_hospitals(start.privacy, charged),
            )
        )

    def _current(self) -> AuditChain | None:
        """The chain of the run that the journal is in; None for one that was over before records were kept."""
        manifest = self._memory.manifest
        run = manifest.run_id.hex()
        if self._chain is None or self._run_hash != manifest.run_hash:
            if self._chain is not None and self._chain.start is not None and not self._is_final(self._chain):
                self._write_end(self._chain, self._chain.start, "aborted", _NEW_EPOCH)
            folder = self._state / "runs" / run
            if manifest.start_epoch:  # each membership has its own records, with its own roster
                folder = folder / f"epoch-{manifest.start_epoch}"
            over = any(self._memory.journal.get(key) is not None for key in _OVER)
            if over and not (folder / FILE_NAME).exists():
                return None
            private_folder(self._state / "runs")
            private_folder(self._state / "runs" / run)
            private_folder(folder)
            self._run_hash = manifest.run_hash
            write_whole(folder / ROSTER_NAME, format_roster(self._roster))
            self._chain = AuditChain(
                folder / FILE_NAME,
                role="node",
                party=self._keystore.node,
                run=run,
                run_hash=manifest.run_hash.hex(),
                key=self._keystore.identity,
                wall_s=self._wall_s,
            )
        return None if self._is_final(self._chain) else self._chain

    @staticmethod
    def _is_final(chain: AuditChain) -> bool:
        last = chain.records[-1].body if chain.records else None
        return isinstance(last, End) and last.outcome != "left"

    def _round(self, chain: AuditChain, start: Start, closing: Closing, message: AggregatorMessage | None) -> Round:
        """The next round on record: the one just closed, or one that this node only heard of later."""
        number = len(chain.rounds)
        latest = number == closing.round
        result = message if isinstance(message, Result) and latest and message.round == number else None
        void = isinstance(self._memory.ack, VoidAck) and latest
        isolated = self._memory.isolated(number) if number >= self._memory.manifest.start_round else None
        spending = None
        if start.privacy is not None:
            spending = self._spending(chain, start.privacy, number, None if result is None else len(result.survivors))
        if result is None and not void:
            return _missed(number, closing if latest else None, spending, isolated)
        before = chain.rounds[-1].model_after if chain.rounds else start.model
        plan = self._plan if self._plan is not None and self._plan.round == number else None
        ctx, survivors = (None, None) if result is None else (result.ctx.hex(), tuple(result.survivors))
        return Round(
            round=number + 1,
            outcome="void" if result is None else "result",
            attempt=None if plan is None else plan.attempt + 1,
            ctx=ctx,
            survivors=survivors,
            survivors_hash=None if ctx is None or survivors is None else survivors_hash(ctx, survivors),
            model_before=before,
            model_after=closing.state_hash.hex(),
            result=closing.result_hash.hex(),
            totals=(),
            spending=spending,
            isolated=isolated,
        )

    def _spending(self, chain: AuditChain, terms: PrivacyTerms, number: int, survivors: int | None) -> Spending | None:
        if self._purse is None:
            return None
        facts = self._purse.at_round(self._memory.manifest.run_hash, number)
        earlier = charged_so_far([one.spending for one in chain.rounds])
        return round_spending(terms, earlier, facts.round_event, facts, survivors)


def _missed(
    number: int, closing: Closing | None, spending: Spending | None, isolated: tuple[NodeId, ...] | None
) -> Round:
    """A round of which this node knows at most how it ended, and what it had signed itself."""
    return Round(
        round=number + 1,
        outcome="missed",
        attempt=None,
        ctx=None,
        survivors=None,
        survivors_hash=None,
        model_before=None,
        model_after=None if closing is None else closing.state_hash.hex(),
        result=None if closing is None else closing.result_hash.hex(),
        totals=(),
        spending=spending,
        isolated=isolated,
    )


def _salt(state: Path, entropy: Entropy) -> Secret:
    path = state / SALT_FILE
    if not path.exists():
        write_private(path, entropy.bytes(_SALT_BYTES))
    return Secret(read_private(path, missing_hint="it was there a moment ago"))
