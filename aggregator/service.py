"""`aggregator serve`: one run of one policy, from the first Hello to the last farewell; resumes after a crash.

HOME/lock            one service per home
HOME/state/          the run in progress: journal, spooled uploads, attachments
HOME/runs/RUN/       what a run leaves: summary.json, audit.jsonl, and its state once it is over
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aggregator.abort import AbortRequest
from aggregator.admission import roster as admitted_roster
from aggregator.audit_log import AggregatorAuditLog
from aggregator.authority import Authority, open_authority
from aggregator.calls import FederationCalls
from aggregator.driver import Driver
from aggregator.epochs import run_roster
from aggregator.lines import Lines
from aggregator.machine import Machine
from aggregator.patience import Patience
from aggregator.server import FederationServer, ServerTls
from aggregator.sessions import Sessions
from aggregator.status import RunRecord, run_folder
from aggregator.uploads import Uploads
from fedvlm_secure.errors import FedvlmError, PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.private_file import read_file, read_private
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.aggregator_run import AggregatorRun
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.store.lock import StateLock
from fedvlm_secure.store.private_files import private_folder
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import Clock, Digest, Entropy, Secret

_INTERRUPTED = 130
_PARTS = max(1, min(8, os.cpu_count() or 1))
"""Masks are removed in so many parts of the sum at a time."""


def serve(
    policy_path: Path,
    home: Path,
    listen: str,
    json_lines: bool,
    *,
    clock: Clock,
    entropy: Entropy,
    wall_s: Callable[[], float],
    new_epoch: bool = False,
) -> int:
    """Run a policy with the admitted hospitals until its last round is certified.

    Args:
        policy_path: the policy to run.
        home: the folder of `aggregator init`.
        listen: `host:port`; port 0 takes a free one; the first line says which.
        json_lines: events as JSON objects, one a line, on standard output.
        wall_s: seconds since 1970, for the audit records.
        new_epoch: go on with the run in progress, with everybody who is admitted by now.

    Returns:
        Exit code: 0 when the run has finished, the error's when it was aborted, 130 when a signal stopped it.

    Raises:
        PolicyError: PORT_TAKEN, LISTEN_ADDRESS, RUN_IN_PROGRESS, or the policy's own.
        RunAborted: NO_RUN, `new_epoch` without a run in progress.
        StorageError: the state cannot be opened or written; the run resumes from it once it can.
    """
    policy = load_policy(policy_path)
    authority = open_authority(home)
    log = EventLog("aggregator", sys.stdout, clock, json_lines=json_lines)
    lock = StateLock(home)
    try:
        service = _Service(policy, authority, log, clock, entropy, wall_s, new_epoch=new_epoch)
        return service.run(listen)
    finally:
        lock.release()


class _Service:
    """One process's worth of a run."""

    def __init__(
        self,
        policy: Policy,
        authority: Authority,
        log: EventLog,
        clock: Clock,
        entropy: Entropy,
        wall_s: Callable[[], float],
        *,
        new_epoch: bool,
    ) -> None:
        self._authority, self._log = authority, log
        self._home = authority.home
        self._state = private_folder(self._home / "state")
        self._journal = SqliteJournal(self._state / "journal")
        self._spool, self._blobs = FileSpool(self._state / "spool"), FileBlobs(self._state / "blobs")
        self._pool = ThreadPoolExecutor(_PARTS, thread_name_prefix="unmask")
        self._policy_hash = policy_hash(policy)
        memory = AggregatorMemory(self._journal)
        try:
            _check_same_policy(memory, self._policy_hash, self._state)
            roster = self._roster = self._members(memory, new_epoch=new_epoch)
            own = AggregatorSelf(
                policy=policy,
                identities={member.node: member.identity for member in roster.members},
                signer=Signer(authority.identity),
                memory=memory,
                spool=self._spool,
                blobs=self._blobs,
                entropy=entropy,
                pool=self._pool,
                parts=_PARTS,
            )
            machine = AggregatorRun(own, clock.now_s())
            if new_epoch:
                machine.new_epoch()
            self._machine: Machine = machine
        except FedvlmError:
            self._journal.close()
            raise
        self._sessions, self._patience, self._wall_s = Sessions(), Patience(clock), wall_s
        self._lines = Lines(self._sessions, log, clock)
        record = RunRecord(self._home, log)
        self._audit = AggregatorAuditLog(authority, roster, policy, memory, wall_s)
        self._abort = AbortRequest(self._home)
        self._driver = Driver(
            self._machine,
            self._sessions,
            clock,
            self._observe,
            members=len(roster.members),
            ending=lambda: self._abort.made,
        )
        self._record = record

    def run(self, listen: str) -> int:
        """Serve until the end."""
        try:
            server = self._server()
            address = server.start(listen)
            self._log.event(
                "listening",
                address=address,
                pid=os.getpid(),
                policy=self._policy_hash.hex(),
                fingerprint=self._roster.fingerprint,
            )
            stop = _stop_on_signal()
            try:
                self._driver.run(stop.is_set)
            finally:
                self._sessions.end_all()
                server.stop()
            self._observe(self._machine)
            self._audit.end(finished=self._machine.finished, error=self._machine.error)
            finished, error, run = self._machine.finished, self._machine.error, self._machine.progress()["run"]
        finally:
            self._journal.close()
        if not finished:
            self._log.event("stopped", cause="a signal; the run resumes with the next start")
            return _INTERRUPTED
        self._archive(run)
        self._abort.clear()
        if error is not None:
            self._log.event("aborted", code=error.code, cause=error.cause, hint=error.hint)
            return error.exit_code
        self._log.event("finished", run=run)
        return 0

    def _members(self, memory: AggregatorMemory, *, new_epoch: bool) -> Roster:
        roster, change = run_roster(self._state, admitted_roster(self._authority), memory, new_epoch=new_epoch)
        if change is not None:
            self._log.event(
                "waiting",
                code="ROSTER_CHANGED",
                cause="the roster changed; the run goes on with the members that it has",
                joining=list(change.added),
                leaving=list(change.removed),
                renewed=list(change.replaced),
                hint="serve with --new-epoch once their operators have pinned the new roster and approved again",
            )
        return roster

    def _observe(self, machine: Machine) -> None:
        self._patience.end_overdue()
        self._lines.end_silent()
        self._record.observe(machine)
        self._audit.observe()

    def _archive(self, run: object) -> None:
        """Move the state of a run that is over out of the next one's way. Uploads and attachments have served."""
        for name in ("spool", "blobs"):
            shutil.rmtree(self._state / name, ignore_errors=True)
        if isinstance(run, str):
            self._state.rename(run_folder(self._home, run) / "state")
        else:  # it ended before it had a name: nothing was agreed, nothing is kept
            shutil.rmtree(self._state, ignore_errors=True)

    def _server(self) -> FederationServer:
        calls = FederationCalls(
            self._roster,
            self._sessions,
            self._driver,
            Uploads(self._spool),
            self._blobs,
            self._log,
            self._patience,
            self._wall_s,
        )
        hint = "run `aggregator init` again"
        tls = ServerTls(
            key=Secret(read_private(self._authority.server_key_path, missing_hint=hint)),
            certificate=read_file(self._authority.server_certificate_path, missing_hint=hint),
            node_ca=read_file(self._authority.ca_path, missing_hint=hint),
        )
        return FederationServer(calls, tls, nodes=len(self._roster.members))


def _check_same_policy(memory: AggregatorMemory, asked: Digest, state: Path) -> None:
    opened = memory.opened
    if opened is not None and opened.manifest.policy_hash != asked:
        raise PolicyError(
            "RUN_IN_PROGRESS",
            f"{state} holds an unfinished run of another policy ({opened.manifest.policy_hash.hex()[:16]}...)",
            "serve that policy to finish its run, or move the folder away to give the run up",
        )


def _stop_on_signal() -> threading.Event:
    """SIGTERM and SIGINT ask for an orderly end; the run resumes with the next start."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    return stop
