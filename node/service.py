"""`fedvlm-node serve`: a hospital's long-running service, from the first dial to the last scored state.

STATE/journal/        the machine's journal, locked while the service runs
STATE/attachments/    sums and states while they come, in files without a name
STATE/metrics.jsonl   this hospital's own scores
STATE/runs/RUN/       audit.jsonl, this hospital's signed records of a run
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fedvlm_secure.errors import FedvlmError, IdentityError, PeerViolation, RunAborted
from fedvlm_secure.he.cipher import require_library
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.policy.node_config import (
    NodeConfig,
    check_cohort,
    effective_limits,
    evaluation_limit,
    load_node_config,
)
from fedvlm_secure.policy.roster import Roster, load_roster
from fedvlm_secure.rounds.actions import Evaluate, NodeAction, Send, Stop, Train, Upload
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.participation import isolation_warning
from fedvlm_secure.secagg.messages import Abort, CatchUp, OpenEpoch, Plan, Result, SurvivorSet, VoidRequest
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import Clock, Digest, Entropy
from node.approvals import claim
from node.audit_log import NodeAuditLog
from node.channel import NodeTls, dial
from node.client import Connected, Link, Received
from node.hospital import build_training, with_mechanism
from node.keystore import Keystore, open_keystore
from node.mandate import Mandate, find_mandate
from node.masks_ahead import MasksAhead
from node.metrics import MetricsFile
from node.pause import KillSwitch, has_withdrawn, is_paused
from node.purse import open_purse
from node.traffic import SentBytes
from node.uploader import Uploader
from node.withdrawn import ConsentingTraining, consent_of
from node.worker import Crashed, ScoringFailed, TrainingDone, Worker

_INTERRUPTED = 130
_LOOK_S = 0.5
_STATE_BYTES_PER_COORDINATE = 40  # float32 model and up to four float64 slots of a server algorithm
_ATTACHMENT_OVERHEAD = 1 << 20


def serve(config_path: Path, json_lines: bool, *, clock: Clock, entropy: Entropy, wall_s: Callable[[], float]) -> int:
    """Take part in the approved run until it has finished and its last state is scored here.

    Args:
        config_path: this hospital's node.yaml.
        json_lines: events as JSON objects, one a line, on standard output.
        wall_s: seconds since 1970, for the audit records.

    Returns:
        Exit code: 0 when the run has finished, 130 when a signal stopped the service.

    Raises:
        PolicyError: node.yaml, NOT_APPROVED, or a limit.
        IdentityError: keys, certificate or roster.
        ModelError, DataError: base or data do not fit the policy, or HE_LIBRARY_MISSING.
        StorageError: STATE_IN_USE, or state or ledger cannot be read or written.
        BudgetExhausted: the privacy budget does not cover the next round; the others go on without this hospital.
        RunAborted: the run ended early, or the aggregator does not take this node; cause and hint say why.
    """
    config = load_node_config(config_path)
    keystore = open_keystore(config.state)
    if keystore.node != config.node:
        raise IdentityError(
            "OTHER_NODE", f"{config_path} is for {config.node}, the keys are {keystore.node}'s", "check node and state"
        )
    roster = load_roster(config.roster_path)
    roster.member(keystore.node)
    log = EventLog(keystore.node, sys.stdout, clock, json_lines=json_lines)
    journal = SqliteJournal(config.state / "journal")
    try:
        memory = NodeMemory(journal)
        if KillSwitch(config.state).paused:
            raise is_paused()
        mandate = find_mandate(config.state, config.policies, memory)
        _refuse_left_run(memory, mandate)
        log.event(
            "starting",
            pid=os.getpid(),
            address=config.aggregator,
            policy=mandate.policy_hash.hex(),
            fingerprint=roster.fingerprint,
        )
        return _Service(config, keystore, roster, mandate, memory, log, clock, entropy, wall_s).run()
    finally:
        journal.close()


class _Service:
    """One process's worth of a run."""

    def __init__(
        self,
        config: NodeConfig,
        keystore: Keystore,
        roster: Roster,
        mandate: Mandate,
        memory: NodeMemory,
        log: EventLog,
        clock: Clock,
        entropy: Entropy,
        wall_s: Callable[[], float],
    ) -> None:
        self._config, self._mandate, self._memory, self._log = config, mandate, memory, log
        self._switch = KillSwitch(config.state)
        policy = mandate.policy
        check_cohort(config, len(roster.members))
        if policy.protection.is_encrypted:
            require_library()
        training = build_training(policy, config)
        purse, warning = open_purse(
            config.state,
            config.ledger_anchor,
            config.population,
            (row.patient for row in (*training.train_rows, *training.test_rows)),
            private=policy.privacy.mechanism != "none",
            entropy=entropy,
            wall_s=lambda: int(wall_s()),
        )
        if warning is not None:
            log.event("warning", cause=warning)
        self._run = NodeRun(
            NodeSelf(
                me=keystore.node,
                signer=Signer(keystore.identity),
                policy=policy,
                approval=mandate.approval,
                aggregator=roster.aggregator.identity,
                identities={member.node: member.identity for member in roster.members},
                population=config.population,
                base_fingerprint=Digest(bytes.fromhex(training.base_fingerprint)),
                layout=training.layout,
                memory=memory,
                entropy=entropy,
                rounding=entropy,
                step_norm=effective_limits(policy, config).step_norm,
                min_nodes=max(policy.cohort.min_nodes, config.limits.min_nodes or 0),
                purse=purse,
                other_cohorts=config.other_cohorts == "accept",
            )
        )
        self._audit = NodeAuditLog(
            config.state, keystore, roster, policy, config.population, memory, purse, entropy, wall_s
        )
        self._events: queue.Queue[object] = queue.Queue()
        sent = SentBytes()
        tls = NodeTls(keystore.tls_key_path, keystore.certificate_path, keystore.ca_path)
        self._link = Link(
            lambda: dial(config.aggregator, tls, roster),
            self._events,
            log,
            sent,
            folder=config.state / "attachments",
            max_attachment_bytes=_largest_attachment(training.layout),
        )
        self._masks = MasksAhead()
        self._uploader = Uploader(lambda: self._link.channel, log, sent)
        self._worker = Worker(
            ConsentingTraining(
                with_mechanism(policy, config, training, entropy),
                training,
                lambda: consent_of(config),
                effective_limits(policy, config).min_patients,
            ),
            self._events,
            MetricsFile(config.state),
            sent,
            clock,
            limit=evaluation_limit(policy, config),
            every=policy.evaluation.every,
            release=policy.evaluation.release == "totals",
        )

    def run(self) -> int:
        """Serve until the end."""
        stop = _stop_on_signal()
        if self._run.finished and not self._mandate.fresh:
            return self._last_things()
        self._link.start()
        self._uploader.start()
        finished = False
        try:
            while not stop.is_set() and not finished and not self._switch.thrown:
                finished = self._next_event()
            if not finished and self._switch.thrown:
                self._leave()
        finally:
            self._link.close()
            self._uploader.close()
            self._masks.close()
            if not finished:
                self._worker.abandon()
        if not finished:
            self._audit.end("STOPPED")
            self._log.event("stopped", cause="a signal; the run resumes with the next start")
            return _INTERRUPTED
        return self._last_things()

    def _leave(self) -> None:
        """The operator's kill switch: say so where there is a connection, and end with that error."""
        if self._switch.withdrawn:
            actions = self._run.withdraw(has_withdrawn())
            self._switch.withdrawal_done()
            self._act(actions)
        reason = is_paused()
        self._act((Send(Abort(code=reason.code, cause="this hospital is paused", hint="")), Stop(reason)))

    def _last_things(self) -> int:
        """Score the last state if that is still to be done; the run itself is over."""
        closing = self._memory.closing
        if closing is not None and closing.round + 1 == self._mandate.policy.rounds_in_all:
            self._act((Evaluate(self._mandate.policy.rounds, self._memory.stored_state.model, last=True),))
        self._audit.end()
        self._worker.finish()
        while not self._events.empty():
            self._raise_failure(self._events.get())
        self._log.event("finished", run=self._run_name())
        return 0

    def _next_event(self) -> bool:
        """Handle one event; True when the run is over."""
        try:
            event = self._events.get(timeout=_LOOK_S)
        except queue.Empty:
            return False
        self._raise_failure(event)
        match event:
            case Connected(connection):
                hello = self._run.hello()
                self._log.event("connecting", round=hello.closed_round + 1, epoch=hello.epoch)
                self._link.send(connection, hello)
            case Received() if event.connection == self._link.connection:
                return self._receive(event)
            case TrainingDone(round=number, update=update) if update is not None:
                self._log.event("trained", round=number)
                try:
                    return self._act(self._run.trained(number, update, self._masks.take()))
                except FedvlmError as error:
                    return self._act(self._run.training_failed(error))
            case TrainingDone(error=error) if error is not None:
                return self._act(self._run.training_failed(error))
        return False

    def _receive(self, event: Received) -> bool:
        kind = type(event.message).__name__
        self._audit.before()
        try:
            actions = self._run.receive(event.message, event.attachment)
        except PeerViolation as error:
            self._log.event("refused", kind=kind, code=error.code, cause=error.cause, hint=error.hint)
            return False
        self._log.event("received", kind=kind)
        if isinstance(event.message, OpenEpoch):  # before anything is said in the run
            claim(self._config.state, self._mandate.policy_hash, event.message.manifest.run_hash)
            took = {"state": "taken over"} if self._memory.takes_over else {}
            self._log.event("epoch", epoch=event.message.epoch, round=event.message.first_round, **took)
        self._audit.after(event.message)
        if isinstance(event.message, SurvivorSet):
            warn_of_isolation(self._memory, self._log)
        if isinstance(event.message, Plan | Result | VoidRequest | CatchUp):  # an attempt begins, or has ended
            self._masks.follow(self._run.masks())
        return self._act(actions)

    def _act(self, actions: tuple[NodeAction, ...]) -> bool:
        for action in actions:
            match action:
                case Send(message):
                    self._link.send(self._link.connection, message)
                case Upload():
                    self._uploader.offer(action)
                case Train(round=number, attempt=attempt):
                    self._log.event("training", round=number, attempt=attempt)
                    self._worker.train(action)
                case Evaluate():
                    self._worker.evaluate(action, self._run_name())
                case Stop(error=None):
                    return True
                case Stop(error=error) if error is not None:
                    self._audit.end(error.code)
                    raise error
        return False

    def _run_name(self) -> str:
        opened = self._memory.opened_epoch
        if opened is None:
            raise RunAborted("NO_RUN", "there is no run to score", "approve a policy and start again")
        return opened.manifest.run_id.hex()

    def _raise_failure(self, event: object) -> None:
        """What went wrong in the worker: scoring ends the service, since its metrics would have a hole."""
        match event:
            case ScoringFailed(error):
                raise error
            case Crashed(fault):
                raise fault


def warn_of_isolation(memory: NodeMemory, log: EventLog) -> None:
    """Say who goes out of the sums and comes in again and again; the round's audit record says it, too."""
    plan = memory.plan
    isolated = None if plan is None else memory.isolated(plan.round)
    if plan is not None and isolated:
        log.event("warning", round=plan.round, cause=isolation_warning(isolated))


def _refuse_left_run(memory: NodeMemory, mandate: Mandate) -> None:
    """A run that its operator left does not go on here; only another approval leads to another run."""
    if memory.journal.get("run/withdrawn") is not None and not mandate.fresh:
        raise has_withdrawn()


def _largest_attachment(layout: UpdateLayout) -> int:
    """A sum takes at most 8 bytes per coordinate, a server state the model and its slots."""
    return layout.dimension * _STATE_BYTES_PER_COORDINATE + _ATTACHMENT_OVERHEAD


def _stop_on_signal() -> threading.Event:
    """SIGTERM and SIGINT ask for an orderly end: a round of training under way is waited for, then nothing is sent."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    return stop
