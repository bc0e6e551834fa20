"""AggregatorRun: the coordinator's side of a run as one machine, driven by messages and by time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted, UnexpectedMessage
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.aggregator_messages import abort_message, phase_messages
from fedvlm_secure.rounds.aggregator_round import AggregatorRound
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.aggregator_setup import AggregatorSetup
from fedvlm_secure.rounds.gathering import NEW_EPOCH, Gathering
from fedvlm_secure.rounds.he_aggregator import ChunkCheck, EncryptedRound
from fedvlm_secure.rounds.he_opening import Decryption
from fedvlm_secure.rounds.presence import RECONNECT_S, Presence
from fedvlm_secure.rounds.progress import describe_progress
from fedvlm_secure.secagg.messages import (
    Abort,
    AggregatorMessage,
    CatchUp,
    EpochAck,
    HeKeys,
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
        self._presence = Presence(float(own.policy.cohort.deadline), own.identities, now_s, own.renewed)
        self._encrypted, self._decryption = EncryptedRound(own), Decryption(own, self._presence, self._round)
        self._phase_s = now_s  # when the present phase began
        self._certified_s: float | None = None
        self._gathering = Gathering(own, self._setup, now_s)
        self._greeted = self._gathering.greeted
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
        return describe_progress(self._own.memory, self._own.policy.rounds_in_all, self._presence.connected_nodes())

    def connected(self, node: NodeId, now_s: float) -> Outbox:
        """A roster member's session opened; it will say Hello."""
        self._presence.connected(node, now_s)
        return ()

    def disconnected(self, node: NodeId, now_s: float) -> Outbox:
        """A session ended."""
        self._gathering.gone(node)
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

    def new_epoch(self) -> Outbox:
        """The coordinator wants another membership: after the round under way, or at once where none is.

        A round that has an upload is brought to its end: hospitals that uploaded or signed in it refuse most other
        cohorts and sets from the same model. If it cannot be, for want of hospitals, it is abandoned, without a sum.
        Nodes whose approval this run used up are told to leave; they come back with a new one.

        Raises:
            RunAborted: NO_RUN, nothing is under way that could go on.
        """
        phase, memory = self.phase, self._own.memory
        if self.finished or memory.opened is None:
            raise RunAborted("NO_RUN", "no run is under way that could go on", "serve without --new-epoch")
        if phase is Phase.GATHER:
            return ()
        untouched = phase is Phase.UPLOAD and not memory.uploaded
        if not untouched and phase not in (Phase.KEYS, Phase.SEAL, Phase.AGREE):
            memory.commit({"epoch-wanted": b"1"})
            return ()
        return self._gathering.again(NEW_EPOCH)

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """Bytes of the vector to expect, checked before anything is stored. See AggregatorRound.check_upload."""
        if self._own.memory.opened is None or self._own.memory.journal.get("plan") is None:
            raise UnexpectedMessage("an upload before the first plan")
        steps = self._encrypted if self._encrypted.is_sum(bundle) else self._round
        return steps.check_upload(node, bundle)

    def chunk_check(self, bundle: UploadBundle) -> ChunkCheck | None:
        """What each chunk of a checked upload must stand as it comes. See EncryptedRound.chunk_check."""
        return self._encrypted.chunk_check(bundle)

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
            case Phase.SEAL, HeKeys():
                self._setup.he_keys(message)
            case Phase.AGREE, EpochAck():
                self._setup.epoch_ack(message)
            case Phase.DECRYPT, UploadBundle() if self._encrypted.is_sum(message):
                self._encrypted.decrypted(message)
            case ((Phase.UPLOAD | Phase.SIGN | Phase.REVEAL), UploadBundle()):
                self._round.uploaded(message.header.node, message)
            case ((Phase.SIGN | Phase.REVEAL | Phase.DECRYPT), SurvivorSignature()):
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
        if error is not None and self._gathering.may_wait(hello, error.code):
            return ()
        if error is not None:
            return (ToNode(hello.node, abort_message(error.code, error.cause, error.hint)),)
        self._greeted[hello.node] = hello
        self._closed[hello.node] = hello.closed_round if self._setup.knows(hello.run_hash) else -1
        return self._owed(hello.node)

    def _owed(self, node: NodeId) -> Outbox:
        """What a node that just said Hello has to be told to take its place again."""
        memory, phase = self._own.memory, self.phase
        out: list[AggregatorMessage] = []
        if phase in (Phase.SEAL, Phase.AGREE):
            out += [memory.keys, *([memory.he_keys] if memory.he_keys is not None else [])]
        if phase in (Phase.GATHER, Phase.KEYS, Phase.SEAL, Phase.AGREE):
            opening = () if phase is Phase.GATHER else (*self._rekey_catch_up(node), *self._gathering.opening([node]))
            return (*opening, *(ToNode(node, message) for message in out))
        if memory.ready is not None and self._closed[node] < memory.opened_at:
            out.append(memory.ready)
        return (*(ToNode(node, m) for m in out), *self._catch_up(node), *phase_messages(memory, self._round, [node]))

    def _rekey_catch_up(self, node: NodeId) -> Outbox:
        """A node that missed the closing before an epoch, or all of the last one, closes it before it can open this."""
        certificate, last_ready = self._own.memory.certificate, self._own.memory.last_ready
        if certificate is None or self._greeted[node].run_hash != bytes(certificate.run_hash):
            return ()
        return (*(ToNode(node, ready) for ready in (last_ready,) if ready is not None), *self._catch_up(node))

    def _catch_up(self, node: NodeId) -> Outbox:
        memory = self._own.memory
        if memory.certificate is None or self._closed[node] >= memory.closing.round:
            return ()
        self._closed[node] = memory.closing.round
        return (ToNode(node, CatchUp(certificate=memory.certificate), memory.state_vector.root),)

    def _broadcast(self) -> Outbox:
        if self.phase is Phase.KEYS:
            return self._gathering.opening(sorted(self._greeted))
        return phase_messages(self._own.memory, self._round, sorted(self._greeted))

    def _advance(self, now_s: float) -> Outbox:
        """Step from phase to phase as far as what is journalled allows; tell each new phase to all who are there."""
        steps: dict[Phase, Callable[[float], Outbox | None]] = {
            Phase.GATHER: self._gather,
            Phase.KEYS: self._keys,
            Phase.SEAL: self._seal,
            Phase.AGREE: self._agree,
            Phase.UPLOAD: self._upload,
            Phase.SIGN: self._sign,
            Phase.REVEAL: self._reveal,
            Phase.DECRYPT: lambda now_s: self._decryption.step(now_s, self._phase_s, sorted(self._greeted)),
            Phase.CERTIFY: self._certify,
            Phase.VOID: self._void,
        }
        out: list[ToNode] = []
        while (step := steps.get(self.phase)) is not None:
            try:
                told = step(now_s)
            except (FedvlmError, BadDealer) as error:
                told = self._fail(error.code, error.cause, error.hint)
            if told is None:
                break
            self._phase_s = now_s
            out += told
        return tuple(out)

    def _fail(self, code: str, cause: str, hint: str) -> Outbox:
        """What cannot go on ends the run; the set-up of a later epoch is only tried again, from the same state."""
        opened, phase = self._own.memory.opened, self.phase
        later = opened is not None and (phase is Phase.GATHER or opened.epoch > 0)
        if later and phase in (Phase.GATHER, Phase.KEYS, Phase.AGREE):
            return self._gathering.again(abort_message(code, cause, hint))
        return self._abort(code, cause, hint)

    def _gather(self, now_s: float) -> Outbox | None:
        if not self._gathering.is_complete(now_s):
            return None
        self._setup.open_run(self._greeted)
        return self._broadcast()

    def _keys(self, now_s: float) -> Outbox | None:
        if self._setup.relay_keys():
            return self._broadcast()
        return self._check_setup(now_s, self._own.memory.adverts)

    def _seal(self, now_s: float) -> Outbox | None:
        others = self._own.memory.manifest.nodes[1:]  # the first one makes the key
        return self._broadcast() if self._setup.relay_he_keys() else self._check_setup(now_s, others)

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
        return self._fail(
            "SETUP_INCOMPLETE",
            f"{', '.join(missing)} did not complete the set-up",
            "look at these hospitals' logs: they left, or refused what they were shown; then approve and start again",
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
        needed = sorted(memory.awaited - uploaded) or missing
        if any(presence.silence_s(node, now_s) < self._own.policy.cohort.deadline for node in needed):
            return None
        cause = f"round {memory.plan.round} has {len(uploaded)} uploads and misses {', '.join(needed) or 'nobody'}"
        if memory.epoch_wanted:
            return self._gathering.again(NEW_EPOCH)
        return self._abort("COHORT_TOO_SMALL", cause, "the last certified model is kept; start a new run")

    def _sign(self, now_s: float) -> Outbox | None:
        memory = self._own.memory
        signed, threshold = set(memory.signatures), memory.manifest.threshold
        if len(signed) >= threshold:
            (self._decryption.begin if self._encrypted.applies else self._round.ask_reveal)()
            return self._broadcast()
        expected = self._presence.still_expected(memory.survivors, signed | set(memory.refusals), now_s)
        if len(signed | expected) >= threshold:
            return None
        if memory.plan.attempt + 1 >= MAX_ATTEMPTS:
            self._round.request_void()
        elif memory.epoch_wanted:
            return self._gathering.again(NEW_EPOCH)
        else:
            self._round.next_attempt()
        return self._broadcast()

    def _hoped_for(self, nodes: Iterable[NodeId], now_s: float) -> set[NodeId]:
        return self._presence.hoped_for(nodes, now_s, self._phase_s)

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
            others = set(memory.manifest.nodes) - set(memory.survivors)  # who missed the plan can never acknowledge
            mute = {node for node in others if self._presence.had_time(node, now_s, self._phase_s)}
            if len(acked | self._hoped_for(memory.manifest.nodes, now_s) - mute) >= memory.manifest.threshold:
                return None
            return self._abort("NOT_CERTIFIED", "too few hospitals acknowledged the result", "the last model is kept")
        self._certified_s = now_s if self._certified_s is None else self._certified_s
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
        behind = [message for node in sorted(self._greeted) for message in self._catch_up(node)]
        if closed + 1 == self._own.policy.rounds_in_all:
            memory.commit({"phase": Phase.DONE.encode()})
        elif memory.epoch_wanted:
            return (*behind, *self._gathering.again(NEW_EPOCH))
        elif (closed + 1) % memory.manifest.epoch_rounds == 0:
            self._setup.open_next_epoch()
        else:
            self._round.open_round()
        return (*behind, *self._broadcast())

    def _abort(self, code: str, cause: str, hint: str) -> Outbox:
        abort = abort_message(code, cause, hint)
        self._own.memory.commit({"abort": abort, "phase": Phase.ABORTED.encode()})
        return tuple(ToNode(node, abort) for node in sorted(self._greeted))
