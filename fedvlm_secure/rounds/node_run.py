"""NodeRun: a hospital's side of a run as one machine. One message in, what to do out; the journal is its state."""

from __future__ import annotations

from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted, UnexpectedMessage
from fedvlm_secure.fl.state import ServerState, State
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.rounds.actions import Evaluate, LocalUpdate, NodeAction, Send, Stop, Train
from fedvlm_secure.rounds.closing import Closing, check_certificate, next_state
from fedvlm_secure.rounds.he_node import NodeHe
from fedvlm_secure.rounds.node_memory import ROUND_KEYS, RUN_SECRETS, encode_roots
from fedvlm_secure.rounds.node_round import NodeRound
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.node_setup import NodeSetup
from fedvlm_secure.rounds.overtaking import Overtaken
from fedvlm_secure.rounds.participation import with_set
from fedvlm_secure.rounds.states import state_in
from fedvlm_secure.rounds.terms import cohort_of
from fedvlm_secure.rounds.vectors import StoredVector, as_words
from fedvlm_secure.secagg.attempt_masks import AttemptMasks, ExpandedMask
from fedvlm_secure.secagg.messages import (
    Abort,
    AggregatorMessage,
    CatchUp,
    DecryptRequest,
    EpochKeys,
    EpochReady,
    Finished,
    HeKeys,
    Hello,
    OpenEpoch,
    Plan,
    Result,
    ResultAck,
    RevealRequest,
    SurvivorSet,
    VoidAck,
    VoidRequest,
)
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import Float32Vector


class NodeRun:
    """Drives set-up, rounds and closings of one node. Restored from its journal whenever it is made.

    Every public method commits to the journal before it returns actions; a service must carry the actions out in
    order and may be killed at any point: the aggregator repeats what it is owed, and stored bytes are re-sent.
    """

    def __init__(self, own: NodeSelf) -> None:
        self._own = own
        self._setup = NodeSetup(own)
        self._he = NodeHe(own)
        self._round = NodeRound(own, self._is_training, self._he)
        self._overtaken = Overtaken(own.memory)
        self._training_round: int | None = None

    def _is_training(self, round_number: int) -> bool:
        return self._training_round == round_number

    def hello(self) -> Hello:
        """The first message on every connection, and again once a message can be taken that came too early."""
        return self._own.hello()

    @property
    def finished(self) -> bool:
        return self._own.memory.journal.get("run/finished") is not None

    def receive(self, message: AggregatorMessage, attachment: StoredVector | None = None) -> tuple[NodeAction, ...]:
        """Answer one message.

        Args:
            attachment: the content that belongs to a Result (the sum's words), a DecryptRequest (the encrypted sum), a
                CatchUp or an OpenEpoch (the state).

        Raises:
            PeerViolation: the message breaks the protocol; nothing was released and the journal is as before.
        """
        try:
            actions = self._dispatch(message, attachment)
        except PeerViolation:
            self._overtaken.refused(message)
            raise
        for action in actions:
            if isinstance(action, Train):
                self._training_round = action.round
        return (*actions, Send(self.hello())) if self._overtaken.ask_again() else actions

    def _dispatch(self, message: AggregatorMessage, attachment: StoredVector | None) -> tuple[NodeAction, ...]:
        match message:
            case Plan() | SurvivorSet() | DecryptRequest() | Result() if self._he.burnt:
                return self._he.leave()
            case Plan() | SurvivorSet() | RevealRequest() | DecryptRequest() | Result() | VoidRequest() if (
                self._own.renewed
            ):
                raise UnexpectedMessage("this node's identity was renewed; its word counts from the next epoch on")
            case OpenEpoch():
                opened = self._setup.open_epoch(message, attachment)
                if self._own.memory.plan is None:
                    self._training_round = None  # work begun for another run or epoch does not count in this one
                return opened
            case EpochKeys():
                return self._setup.epoch_keys(message)
            case HeKeys():
                return self._setup.he_keys(message)
            case EpochReady():
                return self._setup.epoch_ready(message)
            case Plan():
                return self._round.plan(message)
            case SurvivorSet():
                return self._round.survivors(message)
            case RevealRequest():
                return self._round.reveal(message)
            case DecryptRequest():
                return self._he.decrypt(message, attachment)
            case Result():
                return self._result(message, attachment)
            case VoidRequest():
                return self._void(message)
            case CatchUp():
                return self._catch_up(message, attachment)
            case Finished():
                return self._finish(message)
            case Abort():
                run = self._own.memory.opened_epoch
                if run is not None:
                    self._own.purse.close(run.manifest.run_hash)
                    self._own.memory.commit({"run/aborted": b"1"})
                return (Stop(RunAborted(message.code, message.cause, message.hint)),)

    def masks(self) -> AttemptMasks | None:
        """What will hide this node's next vector, once it can be told: a service may expand it while training runs."""
        return self._round.masks()

    def trained(
        self, round_number: int, update: LocalUpdate, mask: ExpandedMask | None = None
    ) -> tuple[NodeAction, ...]:
        """Local training of a round is done.

        Args:
            mask: what came of expanding `masks`; without it, or if the attempt is another by now, masks are made here.

        Raises:
            ModelError: the update cannot be sent; nothing was.
        """
        self._training_round = None
        return self._round.trained(round_number, update, mask)

    def training_failed(self, error: FedvlmError) -> tuple[NodeAction, ...]:
        """Local training cannot be done: say so (without its text: it may speak of local files) and leave."""
        self._training_round = None
        reason = Abort(code=error.code, cause="local training failed at this node", hint="")
        return (Send(reason), Stop(error))

    def withdraw(self, error: FedvlmError) -> tuple[NodeAction, ...]:
        """The operator takes this hospital out of the run for good: secrets erased, unspent budget freed."""
        memory = self._own.memory
        run = memory.opened_epoch
        if run is not None and not self.finished:
            self._own.purse.close(run.manifest.run_hash)
            memory.commit({"run/aborted": b"1", "run/withdrawn": b"1"}, ["epoch/ready", *RUN_SECRETS])
        reason = Abort(code=error.code, cause="this hospital withdrew from the run", hint="")
        return (Send(reason), Stop(error))

    def _result(self, message: Result, attachment: StoredVector | None) -> tuple[NodeAction, ...]:
        """R4: replay the server step, compare, acknowledge, advance; a repeat gets the stored acknowledgement."""
        own, memory = self._own, self._own.memory
        verify(message, own.aggregator)
        plan, closing, ack = memory.plan, memory.closing, memory.ack
        if closing is None:
            raise UnexpectedMessage("Result without a run")
        if isinstance(ack, ResultAck) and ack.result_hash == message.digest and ack.round == closing.round:
            return (Send(ack),)
        if plan is None or plan.round != closing.round + 1 or message.round != plan.round or message.ctx != memory.ctx:
            raise UnexpectedMessage("Result of another attempt than the accepted one")
        state = self._replay(message, attachment)
        acknowledged = own.signer.sign(
            ResultAck,
            node=own.me,
            run_hash=memory.manifest.run_hash,
            round=message.round,
            result_hash=message.digest,
            state_hash=message.state_hash,
        )
        new = Closing(round=message.round, result_hash=message.digest, state_hash=message.state_hash)
        took_part = with_set(own.participation, message.round, message.survivors)
        self._close(new, state, {"run/result-ack": acknowledged, own.participation_key: took_part}, ["run/void-ack"])
        return (Send(acknowledged), self._evaluate(state.model, message.round))

    def _replay(self, message: Result, attachment: StoredVector | None) -> ServerState:
        own, memory = self._own, self._own.memory
        manifest, signed = memory.manifest, memory.signed
        cohort = cohort_of(manifest)
        ordered = message.survivors == tuple(node for node in cohort.nodes if node in set(message.survivors))
        if message.run_hash != manifest.run_hash or not ordered or len(message.survivors) < cohort.min_survivors:
            raise PeerViolation("BAD_RESULT", "the result's survivors are not a permitted set of this run", "")
        if signed is not None and signed.survivors != message.survivors:
            raise PeerViolation("BAD_RESULT", "the result is over another set than this node signed", "")
        if attachment is None or attachment.root != message.sum_root or attachment.size_bytes % WORD_BYTES:
            raise PeerViolation("BAD_RESULT", "the sum is not the one the result names", "")
        total = self._he.published(message, attachment) if self._he.applies else as_words(attachment)
        before = memory.stored_state
        try:
            step = next_state(own.policy, manifest, before, total, len(message.survivors), round_number=message.round)
        except (ValueError, RunAborted) as error:  # an honest aggregator ends the run where the weights are zero
            raise PeerViolation("BAD_RESULT", f"no step follows from the sum: {error}", "") from error
        if step.state.digest != message.state_hash:
            raise PeerViolation(
                "STEP_MISMATCH", "the replayed server step gives another state than the result names", "leave the run"
            )
        if not step.norm <= own.step_norm:
            raise PeerViolation(
                "STEP_TOO_LARGE",
                f"the step's norm {step.norm:.3g} is above limits.step_norm {own.step_norm:.3g}",
                "a hospital's data or learning rate is off, or somebody poisons; the model was not taken over",
            )
        return step.state

    def _void(self, message: VoidRequest) -> tuple[NodeAction, ...]:
        """Close a round without a result: never sign or reveal for it again, keep the model."""
        own, memory = self._own, self._own.memory
        verify(message, own.aggregator)
        closing, ack = memory.closing, memory.ack
        if closing is None or not memory.epoch_ready:
            raise UnexpectedMessage("VoidRequest without a run")
        if isinstance(ack, VoidAck) and ack.round == message.round == closing.round:
            return (Send(ack),)
        fits = (
            message.run_hash == memory.manifest.run_hash
            and message.round == closing.round + 1
            and message.previous_result == closing.result_hash
            and message.state_hash == closing.state_hash
        )
        if not fits:
            raise UnexpectedMessage("VoidRequest for a round this node closed otherwise")
        void = own.signer.sign(
            VoidAck,
            node=own.me,
            run_hash=message.run_hash,
            round=message.round,
            previous_result=message.previous_result,
            state_hash=message.state_hash,
        )
        new = Closing(round=message.round, result_hash=void.result_hash, state_hash=closing.state_hash)
        self._training_round = None
        self._close(new, None, {"run/void-ack": void}, ["run/result-ack"])
        return (Send(void), self._evaluate(memory.stored_state.model, message.round))

    def _catch_up(self, message: CatchUp, attachment: StoredVector | None) -> tuple[NodeAction, ...]:
        """After an absence: take over a state that t members acknowledged."""
        own, memory = self._own, self._own.memory
        closing = memory.closing
        if closing is None or not memory.epoch_ready:
            raise UnexpectedMessage("CatchUp without a run")
        manifest = memory.manifest
        new = check_certificate(
            message.certificate, run_hash=manifest.run_hash, cohort=cohort_of(manifest), identities=own.members
        )
        if new.round <= closing.round:
            return ()
        try:
            state = state_in(attachment)
        except ValueError as error:
            raise PeerViolation("BAD_STATE", "the attached state does not decode", "") from error
        if state.digest != new.state_hash or state.form.dimension != manifest.dimension:
            raise PeerViolation("BAD_STATE", "the attached state is not the one t members acknowledged", "")
        self._training_round = None
        self._close(new, state, {}, ["run/result-ack", "run/void-ack"])
        return (self._evaluate(state.model, new.round),)

    def _close(self, new: Closing, state: State | None, acks: dict[str, bytes | Record], deletes: list[str]) -> None:
        """Close a round with a state; None leaves the one before."""
        memory = self._own.memory
        puts: dict[str, bytes | Record | State] = {"run/closing": new, **acks}
        if state is not None:
            puts["run/state"] = state
        roots = memory.roots_for(new.round + 1)
        if roots is not None:
            puts["epoch/roots"] = encode_roots(roots, new.round + 1)
        memory.commit(puts, [*ROUND_KEYS, *deletes])

    def _evaluate(self, model: Float32Vector, closed: int) -> Evaluate:
        trained = min(closed + 1, self._own.policy.rounds)  # a closing round leaves the last state as it is
        return Evaluate(trained, model, last=trained == self._own.policy.rounds)

    def _finish(self, message: Finished) -> tuple[NodeAction, ...]:
        memory, own = self._own.memory, self._own
        closing = memory.closing
        if closing is None:
            raise UnexpectedMessage("Finished without a run")
        manifest = memory.manifest
        shown = check_certificate(
            message.certificate, run_hash=manifest.run_hash, cohort=cohort_of(manifest), identities=own.members
        )
        if shown != closing:
            raise UnexpectedMessage("Finished at another closing than this node's")
        own.purse.close(manifest.run_hash)
        memory.commit({"run/finished": b"1"}, RUN_SECRETS)
        return (Stop(None),)
