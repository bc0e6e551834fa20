"""AggregatorRun: the coordinator's side of a run as one machine, driven by messages and by time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted, UnexpectedMessage
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.aggregator_messages import phase_messages
from fedvlm_secure.rounds.aggregator_round import AggregatorRound
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.aggregator_setup import AggregatorSetup
from fedvlm_secure.rounds.presence import RECONNECT_S, Presence
from fedvlm_secure.rounds.progress import describe_progress
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import (
    Abort,
    AggregatorMessage,
    CatchUp,
    EpochAck,
    Hello,
    KeyAdvert,
    NodeMessage,
    Refusal,
    ResultAck,
    Reveal,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
)
from fedvlm_secure.secagg.record import Statement, verify
from fedvlm_secure.secagg.unmasking import BadDealer
from fedvlm_secure.types import NodeId

MAX_ATTEMPTS = 8
"""Attempts of one round before it is closed void."""


class AggregatorRun:
    """Drives a whole run. Restored from its journal whenever it is made.

    Args:
        own: policy, roster, identity, stores.
        now_s: the clock at the start; every later call gives it again and it never goes back.
    """

    def __init__(self, own: AggregatorSelf, now_s: float) -> None:
        self._own = own
        self._setup = AggregatorSetup(own)
        self._round = AggregatorRound(own)
        self._presence = Presence(float(own.policy.cohort.deadline), own.identities, now_s)
        self._started_s = now_s
        self._phase_s = now_s  # when the present phase began
        self._certified_s: float | None = None
        self._greeted: dict[NodeId, Hello] = {}
        self._closed: dict[NodeId, int] = {}  # last round each greeted node is known to have closed

    @property
    def phase(self) -> Phase:
        return self._own.memory.phase

    @property
    def finished(self) -> bool:
        """The run is over, by its last round or by an abort."""
        return self.phase in (Phase.DONE, Phase.ABORTED)

    @property
    def error(self) -> RunAborted | None:
        """Why the run ended early."""
        abort = self._own.memory.abort
        return None if abort is None else RunAborted(abort.code, abort.cause, abort.hint)

    def progress(self) -> dict[str, object]:
        """Phase, round, who is there, a summary per closed round: JSON-able, no secrets, no update."""
        return describe_progress(self._own.memory, self._own.policy.rounds, self._presence.connected_nodes())

    def connected(self, node: NodeId, now_s: float) -> Outbox:
        """A roster member's session opened; it will say Hello."""
        self._presence.connected(node, now_s)
        return ()

    def disconnected(self, node: NodeId, now_s: float) -> Outbox:
        """A session ended."""
        self._greeted.pop(node, None)
        self._presence.disconnected(node, now_s)
        return self._advance(now_s)

    def heard(self, node: NodeId, now_s: float) -> None:
        """A heartbeat or a chunk came."""
        self._presence.heard(node, now_s)

    def tick(self, now_s: float) -> Outbox:
        """Time passed."""
        return self._advance(now_s)

    def abort(self) -> Outbox:
        """The coordinator ends the run for everybody; a run that is over stays as it is."""
        if self.finished:
            return ()
        return self._abort(
            "RUN_ENDED", "the coordinator ended the run", "the last certified model is kept; a new run needs approvals"
        )

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """Bytes of the vector to expect, checked before anything is stored. See AggregatorRound.check_upload."""
        if self._own.memory.opened is None or self._own.memory.journal.get("plan") is None:
            raise UnexpectedMessage("an upload before the first plan")
        return self._round.check_upload(node, bundle)

    def receive(self, node: NodeId, message: NodeMessage, now_s: float) -> Outbox:
        """Answer one message of an authenticated node.

        Raises:
            PeerViolation: the message breaks the protocol; nothing changed.
        """
        self._presence.heard(node, now_s)
        named = message.header.node if isinstance(message, UploadBundle) else getattr(message, "node", node)
        if named != node:
            raise PeerViolation("WRONG_NAME", f"{node} speaks in the name of {named}", "")
        if isinstance(message, Statement):
            verify(message, self._own.identities[node])
        if isinstance(message, Hello):
            return (*self._hello(message), *self._advance(now_s))
        if isinstance(message, Abort):
            self._presence.left(node)
            return self._advance(now_s)
        opened = self._own.memory.opened
        if opened is not None and node not in opened.manifest.nodes:  # on the roster, but its word has no weight here
            raise PeerViolation("NOT_IN_RUN", f"{node} has no part in this run", "it can join the next run")
        answer = self._dispatch(message)
        return (*answer, *self._advance(now_s))

    def _dispatch(self, message: NodeMessage) -> Outbox:
        match self.phase, message:
            case Phase.KEYS, KeyAdvert():
                self._setup.advert(message)
            case Phase.AGREE, EpochAck():
                self._setup.epoch_ack(message)
            case ((Phase.UPLOAD | Phase.SIGN | Phase.REVEAL), UploadBundle()):
                self._round.uploaded(message.header.node, message)
            case ((Phase.SIGN | Phase.REVEAL), SurvivorSignature()):
                self._round.signature(message)
                if self.phase is Phase.REVEAL:
                    return (ToNode(message.node, self._round.reveal_request()),)
            case Phase.SIGN, Refusal():
                self._round.refusal(message)
            case Phase.REVEAL, Reveal():
                self._round.revealed(message)
            case Phase.CERTIFY, ResultAck():
                self._round.result_ack(message)
            case Phase.VOID, VoidAck():
                self._round.void_ack(message)
            case _:
                pass  # a repeat, or one that came too late to be needed: nothing depends on it
        return ()

    def _hello(self, hello: Hello) -> Outbox:
        error = self._setup.check_hello(hello)
        if error is not None:
            return (ToNode(hello.node, Abort(code=error.code, cause=error.cause, hint=error.hint)),)
        self._greeted[hello.node] = hello
        self._closed[hello.node] = hello.closed_round
        return self._owed(hello.node)

    def _owed(self, node: NodeId) -> Outbox:
        """What a node that just said Hello has to be told to take its place again."""
        memory, phase = self._own.memory, self.phase
        out: list[AggregatorMessage] = []
        if phase in (Phase.KEYS, Phase.AGREE) and memory.opened is not None:
            out.append(memory.opened)
        if phase is Phase.AGREE:
            out.append(memory.keys)
        if phase in (Phase.GATHER, Phase.KEYS, Phase.AGREE):
            return tuple(ToNode(node, message) for message in out)
        if memory.ready is not None and self._closed[node] < memory.opened_at:
            out.append(memory.ready)
        head = tuple(ToNode(node, message) for message in out)
        return (*head, *self._catch_up(node), *phase_messages(self._own.memory, self._round, [node]))

    def _catch_up(self, node: NodeId) -> Outbox:
        memory = self._own.memory
        if memory.certificate is None or self._closed[node] >= memory.closing.round:
            return ()
        self._closed[node] = memory.closing.round
        root = chunk_root(memory.state.to_bytes())
        return (ToNode(node, CatchUp(certificate=memory.certificate), root),)

    def _broadcast(self) -> Outbox:
        return phase_messages(self._own.memory, self._round, sorted(self._greeted))

    def _advance(self, now_s: float) -> Outbox:
        """Step from phase to phase as far as what is journalled allows; tell each new phase to all who are there."""
        steps: dict[Phase, Callable[[float], Outbox | None]] = {
            Phase.GATHER: self._gather,
            Phase.KEYS: self._keys,
            Phase.AGREE: self._agree,
            Phase.UPLOAD: self._upload,
            Phase.SIGN: self._sign,
            Phase.REVEAL: self._reveal,
            Phase.CERTIFY: self._certify,
            Phase.VOID: self._void,
        }
        out: list[ToNode] = []
        while (step := steps.get(self.phase)) is not None:
            try:
                told = step(now_s)
            except (FedvlmError, BadDealer) as error:
                told = self._abort(error.code, error.cause, error.hint)
            if told is None:
                break
            self._phase_s = now_s
            out += told
        return tuple(out)

    def _gather(self, now_s: float) -> Outbox | None:
        policy, there = self._own.policy, len(self._greeted)
        if there < len(self._own.identities):
            if now_s - self._started_s < policy.cohort.setup_deadline:
                return None
            if there < policy.cohort.min_nodes:
                cause = f"{there} hospitals came within the set-up deadline, {policy.cohort.min_nodes} are needed"
                return self._abort("COHORT_TOO_SMALL", cause, "start the hospitals' nodes, then the aggregator again")
        self._setup.open_run(self._greeted)
        return self._broadcast()

    def _keys(self, now_s: float) -> Outbox | None:
        if self._setup.relay_keys():
            return self._broadcast()
        return self._check_setup(now_s, self._own.memory.adverts)

    def _agree(self, now_s: float) -> Outbox | None:
        if not self._setup.agree():
            return self._check_setup(now_s, self._own.memory.epoch_acks)
        ready = self._own.memory.ready
        self._round.open_round()
        told = tuple(ToNode(node, ready) for node in sorted(self._greeted) if ready is not None)
        return (*told, *self._broadcast())

    def _check_setup(self, now_s: float, answered: Iterable[NodeId]) -> Outbox | None:
        """n equal answers or nothing: a member that stays away, or refuses, ends the set-up."""
        if now_s - self._phase_s < self._own.policy.cohort.setup_deadline:
            return None
        missing = sorted(set(self._own.memory.manifest.nodes) - set(answered))
        return self._abort(
            "SETUP_INCOMPLETE",
            f"{', '.join(missing)} did not complete the set-up",
            "look at these hospitals' logs: they left, or refused what they were shown; then start a new run",
        )

    def _upload(self, now_s: float) -> Outbox | None:
        memory, presence = self._own.memory, self._presence
        uploaded = set(memory.uploaded)
        members = [node for node in memory.manifest.nodes if node not in memory.excluded]
        missing = [node for node in members if node not in uploaded]
        if any(not presence.is_lost(node, now_s) for node in missing):
            return None
        if len(uploaded) >= memory.manifest.min_survivors and memory.awaited <= uploaded:
            self._round.fix_survivors()
            return self._broadcast() if self._round.protected else ()
        needed = [node for node in missing if node in memory.awaited] or missing
        if any(presence.silence_s(node, now_s) < self._own.policy.cohort.deadline for node in needed):
            return None
        cause = f"round {memory.plan.round} has {len(uploaded)} uploads and misses {', '.join(needed) or 'nobody'}"
        return self._abort("COHORT_TOO_SMALL", cause, "the last certified model is kept; start a new run")

    def _sign(self, now_s: float) -> Outbox | None:
        memory = self._own.memory
        signed, threshold = set(memory.signatures), memory.manifest.threshold
        if len(signed) >= threshold:
            self._round.ask_reveal()
            return self._broadcast()
        if len(signed | self._still_expected(signed | set(memory.refusals), now_s)) >= threshold:
            return None
        if memory.plan.attempt + 1 >= MAX_ATTEMPTS:
            self._round.request_void()
        else:
            self._round.next_attempt()
        return self._broadcast()

    def _still_expected(self, answered: set[NodeId], now_s: float) -> set[NodeId]:
        return {
            node
            for node in self._own.memory.survivors
            if node not in answered and not self._presence.is_lost(node, now_s)
        }

    def _hoped_for(self, nodes: Iterable[NodeId], now_s: float) -> set[NodeId]:
        """Who may still answer in this phase: heard of within the deadline, which starts anew with each phase."""
        limit_s = self._own.policy.cohort.deadline
        in_phase_s = now_s - self._phase_s
        return {node for node in nodes if min(self._presence.silence_s(node, now_s), in_phase_s) < limit_s}

    def _reveal(self, now_s: float) -> Outbox | None:
        memory = self._own.memory
        revealed, threshold = set(memory.reveals), memory.manifest.threshold
        if self._round.protected and len(revealed) < threshold:
            if len(revealed | self._hoped_for(memory.survivors, now_s)) >= threshold:
                return None  # who signed may come back: its reveal is journalled
            self._round.request_void()
            return self._broadcast()
        try:
            self._round.publish(self._round.sum_words())
        except PeerViolation:
            self._round.request_void()
        return self._broadcast()

    def _certify(self, now_s: float) -> Outbox | None:
        memory = self._own.memory
        acked = set(memory.result_acks)
        if len(acked) < memory.manifest.threshold:
            if len(acked | self._hoped_for(memory.manifest.nodes, now_s)) >= memory.manifest.threshold:
                return None
            return self._abort("NOT_CERTIFIED", "too few hospitals acknowledged the result", "the last model is kept")
        if self._certified_s is None:
            self._certified_s = now_s
        waiting = [n for n in memory.survivors if self._presence.is_connected(n) and n not in acked]
        if waiting and now_s - self._certified_s < RECONNECT_S:
            return None
        return self._close()

    def _void(self, now_s: float) -> Outbox | None:
        memory = self._own.memory
        if len(memory.void_acks) >= memory.manifest.threshold:
            return self._close()
        if len(set(memory.void_acks) | self._hoped_for(memory.manifest.nodes, now_s)) >= memory.manifest.threshold:
            return None
        return self._abort("NOT_CERTIFIED", "too few hospitals closed the void round", "the last model is kept")

    def _close(self) -> Outbox:
        memory = self._own.memory
        acked = set(memory.void_acks if self.phase is Phase.VOID else memory.result_acks)
        self._round.close()
        self._certified_s = None
        closed = memory.closing.round
        self._closed.update(dict.fromkeys(acked & set(self._greeted), closed))
        if closed + 1 == self._own.policy.rounds:
            memory.commit({"phase": Phase.DONE.encode()})
        elif (closed + 1) % memory.manifest.epoch_rounds == 0:
            self._setup.open_next_epoch()
        else:
            self._round.open_round()
        behind = [message for node in sorted(self._greeted) for message in self._catch_up(node)]
        return (*behind, *self._broadcast())

    def _abort(self, code: str, cause: str, hint: str) -> Outbox:
        memory = self._own.memory
        abort = Abort(code=code, cause=cause, hint=hint)
        memory.commit({"abort": abort, "phase": Phase.ABORTED.encode()})
        return tuple(ToNode(node, abort) for node in sorted(self._greeted))
