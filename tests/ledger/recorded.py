"""A hospital whose ledger is real, and the signed audit records that it and the other parties keep of its runs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedvlm_secure.audit.chain import AuditChain
from fedvlm_secure.audit.opening import salted_population
from fedvlm_secure.audit.record import End, Round, survivors_hash
from fedvlm_secure.audit.spending import at_two_hospitals, charged_so_far, round_spending
from fedvlm_secure.dp.events import SelfComposed
from fedvlm_secure.policy.private_file import write_private
from fedvlm_secure.policy.roster import format_roster
from fedvlm_secure.types import Digest, NodeId, Secret
from node.audit_log import SALT_FILE
from node.keystore import create_keystore
from node.ledger import Ledger
from node.purse import LedgerPurse
from tests.audit import chains
from tests.ledger.purse import Purse

ME = NodeId("coast")
EVENT = chains.facts().round_event
SALT = Secret(bytes(range(32)))


@dataclass
class Recorded:
    """One hospital (`coast`), its ledger, and a folder with everybody's records.

    Args:
        purse: ledger paths and clock.
        folder: one folder per party, with one per run in it.
    """

    purse: Purse
    folder: Path
    _open: dict[tuple[str, int], AuditChain] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
        made = cls(Purse(folder), folder / "collected")
        keystore = create_keystore(made.purse.state, ME)
        monkeypatch.setitem(chains.KEYS, ME, keystore.identity)
        write_private(keystore.roster_path, format_roster(chains.roster()))
        write_private(made.purse.state / SALT_FILE, SALT.reveal())
        made.purse.create(limit=50.0)
        return made

    @property
    def ledger(self) -> Ledger:
        return self.purse.open()

    def start(self, run: int, *, rounds: int = 3, parties: Iterable[str] = ("aggregator", *chains.NODES)) -> None:
        """Everybody's first record; the hospital reserves."""
        self.ledger.reserve(self.run_hash(run), "chest", SelfComposed(EVENT, rounds))
        for party in parties:
            path = self.path(party, run)
            path.parent.mkdir(parents=True)
            chain = AuditChain(
                path,
                role="aggregator" if party == "aggregator" else "node",
                party=party,
                run=f"{run:032x}",
                run_hash=self.run_hash(run).hex(),
                key=chains.KEYS[party],
                wall_s=lambda: float(self.purse.now_s),
            )
            first = chains.start(party, rounds=rounds, private=True).model_copy(update={"min_survivors": 2})
            if party == ME:
                first = first.model_copy(update={"population": salted_population(SALT, "chest")})
            chain.append(first)
            self._open[party, run] = chain

    def round(self, run: int, number: int, *, sends: bool = True, survives: bool = True, own: bool = True) -> None:
        """Round `number`, from 1: charged if this hospital sends; `own`: it was there to write its record."""
        self.purse.now_s += 60
        if sends:
            self.ledger.spend(self.run_hash(run), number - 1, EVENT)
        survivors = tuple(node for node in chains.NODES if survives or node != ME)
        for (party, at), chain in self._open.items():
            if at == run and (party != ME or own):
                chain.append(self._closed(chain, party, run, number, survivors))

    def end(self, run: int, *, close: bool = True) -> None:
        """Everybody's last word."""
        for (_, at), chain in self._open.items():
            if at == run and chain.start is not None and chain.start.privacy is not None:
                rounds = chain.rounds
                charged = charged_so_far([one.spending for one in rounds])
                chain.append(
                    End(
                        outcome="finished" if len(rounds) == chain.start.rounds else "aborted",
                        code="",
                        rounds_closed=len(rounds),
                        model=rounds[-1].model_after if rounds else None,
                        epsilon_two_hospitals=at_two_hospitals(chain.start.privacy, charged),
                    )
                )
        if close:
            self.ledger.close_run(self.run_hash(run))

    def path(self, party: str, run: int) -> Path:
        """Own records lie where the service writes them."""
        if party == ME:
            return self.purse.state / "runs" / f"{run:032x}" / "audit.jsonl"
        return self.folder / party / str(run) / "audit.jsonl"

    def lose(self, *, anchor: bool = True, own_records: bool = False) -> None:
        """The ledger's file is gone, perhaps more."""
        self.purse.paths.ledger.unlink()
        if anchor:
            self.purse.paths.anchor.unlink()
        if own_records:
            shutil.rmtree(self.purse.state / "runs")

    @staticmethod
    def run_hash(run: int) -> Digest:
        return Digest(hashlib.sha256(b"run" + bytes([run])).digest())

    def _closed(self, chain: AuditChain, party: str, run: int, number: int, survivors: tuple[NodeId, ...]) -> Round:
        closed = chains.closed_round(chain, number, node=party != "aggregator")
        ctx = str(closed.ctx)
        fields: dict[str, object] = {"survivors": survivors, "survivors_hash": survivors_hash(ctx, survivors)}
        terms = chain.start.privacy if chain.start is not None else None
        if party == ME and terms is not None:
            facts = LedgerPurse(self.ledger, "chest").at_round(self.run_hash(run), number - 1)
            earlier = charged_so_far([one.spending for one in chain.rounds])
            fields["spending"] = round_spending(terms, earlier, facts.round_event, facts)
        return closed.model_copy(update=fields)
