"""R0 to R3 at a node: accept a plan, upload, sign one survivor set, reveal once. Journalled first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import NonPrivate
from fedvlm_secure.errors import FedvlmError, ModelError, PeerViolation, StorageError, UnexpectedMessage
from fedvlm_secure.ring.quantise import quantise
from fedvlm_secure.rounds.actions import LocalUpdate, NodeAction, Send, Stop, Train, Upload
from fedvlm_secure.rounds.closing import Closing, check_certificate
from fedvlm_secure.rounds.history import check_history, history_key
from fedvlm_secure.rounds.node_memory import (
    ROUND_KEYS,
    ROUND_SECRETS,
    SignedSet,
    encode_charge,
    encode_opened,
    encode_reveal,
    encode_roots,
    encode_seeds,
)
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.purse import charge_for
from fedvlm_secure.rounds.terms import cohort_of, context_of, node_weight, scalar_values, vector_of
from fedvlm_secure.secagg.masking import SEED_BYTES, AttemptKeys, AttemptSeeds, bare_upload, prepare_upload
from fedvlm_secure.secagg.messages import (
    Abort,
    Plan,
    Refusal,
    RevealRequest,
    SurvivorSet,
    SurvivorSignature,
    survivor_digest,
)
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.secagg.survivors import (
    RefusedSurvivors,
    check_reveal_request,
    check_survivor_set,
    make_reveal,
)
from fedvlm_secure.types import Digest, Int64Vector, Secret


@dataclass(frozen=True)
class NodeRound:
    """Handlers of the round's messages. `training` says whether the service is at work on a round already."""

    own: NodeSelf
    training: Callable[[int], bool]

    def plan(self, message: Plan) -> tuple[NodeAction, ...]:
        """R0: the next round, or a higher attempt of a round for which nothing was revealed; from the own state only.

        Raises:
            PeerViolation: BAD_PLAN, ALREADY_REVEALED, BAD_CERTIFICATE or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        verify(message, own.aggregator)
        keys, closing, current = memory.epoch_keys, memory.closing, memory.plan
        if keys is None or closing is None or not memory.epoch_ready:
            raise UnexpectedMessage("Plan before the epoch is ready")
        if current is None or message != current:
            self._check_plan(message, closing, keys.roster_hash)
            refused = self._reserve(message)
            if refused:
                return refused
            self._accept(message, current)
        return self._carry_on(message)

    def _check_plan(self, message: Plan, closing: Closing, roster_hash: Digest) -> None:
        memory, current, revealed = self.own.memory, self.own.memory.plan, self.own.memory.revealed
        if (
            message.roster_hash != roster_hash
            or message.round != closing.round + 1
            or message.state_hash != closing.state_hash
            or message.previous_result != closing.result_hash
        ):
            raise PeerViolation("BAD_PLAN", "the plan does not follow from the last round this node closed", "")
        before = current.attempt if current is not None and message.round == current.round else -1
        if message.attempt <= before:
            raise PeerViolation("BAD_PLAN", f"attempt {message.attempt} is not above {before}", "")
        if revealed is not None and revealed[0] == message.round:
            raise PeerViolation(
                "ALREADY_REVEALED", f"round {message.round} was revealed; no other attempt may open", ""
            )
        manifest = memory.manifest
        if message.round > 0:
            if message.certificate is None:
                raise PeerViolation("BAD_CERTIFICATE", "the plan shows no certificate of the last round", "")
            shown = check_certificate(
                message.certificate,
                run_hash=manifest.run_hash,
                cohort=cohort_of(manifest),
                identities=self.own.identities,
            )
            if shown != closing:
                raise PeerViolation("BAD_CERTIFICATE", "the certificate is of another closing than this node's", "")

    def _reserve(self, message: Plan) -> tuple[NodeAction, ...]:
        """Ask the purse before anything is trained; empty when the round is covered, else what to do instead.

        A later attempt re-masks the integers of the first and shares its charge.
        """
        own, memory = self.own, self.own.memory
        charged = memory.charged
        if charged is not None and charged[0] == message.round:
            return ()
        try:
            own.purse.reserve(charge_for(own.policy, memory.manifest, message.round))
        except FedvlmError as error:
            return _leave(error)
        return ()

    def _spend(self, round_number: int) -> tuple[NodeAction, ...]:
        """Charge the round, durably, before its upload exists; empty when it may be sent.

        The journal says that a charge begins before it is made. So a crash in between goes on with the same charge,
        while a journal that was wiped or set back does not release a second time what was charged once.
        """
        own, memory = self.own, self.own.memory
        charge = charge_for(own.policy, memory.manifest, round_number)
        if isinstance(charge.event, NonPrivate):
            return ()
        begun = memory.charged == (round_number, False)
        if not begun:
            memory.commit({"run/charge": encode_charge(round_number, uploaded=False)})
        try:
            fresh = own.purse.spend(charge)
        except FedvlmError as error:
            return _leave(error)
        if fresh or begun:
            return ()
        return _leave(
            StorageError(
                "ROUND_CHARGED",
                f"the ledger charged round {round_number} of this run before, the journal does not know of it",
                "the journal was lost or set back; leave this run and approve the policy again for a new one",
            )
        )

    def _accept(self, message: Plan, current: Plan | None) -> None:
        same_round = current is not None and current.round == message.round
        kept = {"round/integers", "round/scalars"} if same_round else set()
        memory = self.own.memory
        puts: dict[str, bytes | Record] = {"round/plan": message}
        roots = memory.roots_for(message.round)
        if roots is not None:  # a node that never revealed loses the earlier rounds' roots here
            puts["epoch/roots"] = encode_roots(roots, message.round)
        memory.commit(puts, [key for key in ROUND_KEYS if key not in kept and key != "round/plan"])

    def _carry_on(self, plan: Plan) -> tuple[NodeAction, ...]:
        memory = self.own.memory
        upload = memory.upload
        if upload is not None:
            return (Upload(*upload),)
        if memory.signed is not None or (memory.revealed is not None and memory.revealed[0] == plan.round):
            return ()
        integers = memory.integers
        if integers is not None:
            return self._upload(plan, integers, memory.scalars, {})
        if self.training(plan.round) or memory.charged == (plan.round, True):
            return ()  # released before and erased since: training again would be a second release on one charge
        return (Train(plan.round, plan.attempt, memory.state.model),)

    def trained(self, round_number: int, update: LocalUpdate) -> tuple[NodeAction, ...]:
        """R1: encode once per round, charge it, mask for the accepted attempt, journal all of it, then upload.

        Raises:
            ModelError: NON_FINITE_UPDATE or ZERO_UPDATE; nothing was sent.
        """
        own, memory = self.own, self.own.memory
        plan = memory.plan
        revealed = memory.revealed
        if (
            plan is None
            or plan.round != round_number
            or memory.integers is not None
            or memory.charged == (round_number, True)
            or (revealed is not None and revealed[0] == round_number)
        ):
            return ()  # the round went on without this node
        if not update.update.any():
            raise ModelError(
                "ZERO_UPDATE", "local training changed nothing", "check that data and trainable parameters are in use"
            )
        weight = node_weight(own.policy, own.me, update.rows)
        quantised = quantise(
            update.update,
            layout=own.layout,
            lanes=vector_of(memory.manifest).lanes,
            max_update=memory.manifest.max_update,
            weight=weight,
            rounding_key=Secret(own.rounding.bytes(SEED_BYTES)),
        )
        scalars = scalar_values(own.policy, update, weight)
        refused = self._spend(round_number)
        if refused:
            return refused
        stored = {
            "round/integers": quantised.integers.astype("<i8").tobytes(),
            "round/scalars": canonical.encode(scalars),
        }
        if memory.charged is not None:
            stored["run/charge"] = encode_charge(round_number, uploaded=True)
        return self._upload(plan, quantised.integers, scalars, stored)

    def _upload(
        self, plan: Plan, integers: Int64Vector, scalars: dict[str, int], stored: dict[str, bytes]
    ) -> tuple[NodeAction, ...]:
        own, memory = self.own, self.own.memory
        manifest = memory.manifest
        words = vector_of(manifest).pack(integers, scalars)
        ctx = context_of(plan, manifest)
        puts: dict[str, bytes | Record] = dict(stored)
        if manifest.protection == "none":
            bundle, content = bare_upload(words, me=own.me, ctx=ctx, signer=own.signer)
        else:
            seeds = AttemptSeeds.draw(own.entropy)
            puts["round/seeds"] = encode_seeds(seeds)
            bundle, content = prepare_upload(words, self._keys(plan), seeds, signer=own.signer, entropy=own.entropy)
        memory.commit({**puts, "round/bundle": bundle, "round/content": content})
        return (Upload(bundle, content),)

    def _keys(self, plan: Plan) -> AttemptKeys:
        memory = self.own.memory
        roots = memory.roots_for(plan.round)
        if roots is None:
            raise UnexpectedMessage("this round's pair roots are erased")
        return AttemptKeys(self.own.me, cohort_of(memory.manifest), context_of(plan, memory.manifest), roots)

    def survivors(self, message: SurvivorSet) -> tuple[NodeAction, ...]:
        """R2: check everything, then sign this one set of the attempt; the stored signature answers a repeat.

        Raises:
            PeerViolation: another set than the signed one, or one that fails a check on the aggregator.
        """
        own, memory = self.own, self.own.memory
        plan, signed = memory.plan, memory.signed
        if plan is None or memory.manifest.protection == "none":
            raise UnexpectedMessage("SurvivorSet without an accepted plan")
        nodes = tuple(header.node for header in message.headers)
        if signed is not None:
            if signed.signature.survivors == survivor_digest(message.ctx, message.headers):
                return (Send(signed.signature),)
            raise PeerViolation("SECOND_SURVIVOR_SET", "this attempt's one survivor set was signed already", "")
        if memory.revealed is not None and memory.revealed[0] == plan.round:
            raise PeerViolation("ALREADY_REVEALED", f"round {plan.round} was revealed", "")
        bundle = memory.bundle
        ctx = context_of(plan, memory.manifest)
        try:
            opened = check_survivor_set(
                message,
                self._keys(plan),
                own_header=None if bundle is None else bundle.header,
                own_seeds=memory.seeds,
                words=vector_of(memory.manifest).words,
                identities=own.identities,
            )
            key = history_key(own.population, memory.manifest, memory.state.model)
            history = check_history(memory.journal, key, nodes, memory.manifest.colluding)
        except RefusedSurvivors as refused:
            return (Send(own.signer.sign(Refusal, node=own.me, ctx=ctx, code=refused.code, nodes=refused.nodes)),)
        digest = survivor_digest(ctx, message.headers)
        signature = own.signer.sign(SurvivorSignature, node=own.me, ctx=ctx, survivors=digest)
        record = SignedSet(ctx=ctx, survivors=nodes, signature=signature)
        memory.commit({"round/signed": record, "round/opened": encode_opened(opened), key: history})
        return (Send(signature),)

    def reveal(self, message: RevealRequest) -> tuple[NodeAction, ...]:
        """R3: on t signatures under the own digest, once per round; then every secret of the round is erased.

        Raises:
            PeerViolation: NO_QUORUM, BAD_SIGNATURE, or a second reveal in one round.
        """
        own, memory = self.own, self.own.memory
        plan, signed, revealed = memory.plan, memory.signed, memory.revealed
        if plan is None or signed is None:
            raise UnexpectedMessage("RevealRequest before a signature")
        if revealed is not None and revealed[0] == plan.round:
            if revealed[1].ctx == message.ctx:
                return (Send(revealed[1]),)
            raise PeerViolation("ALREADY_REVEALED", f"round {plan.round} was revealed", "")
        opened = memory.opened
        keys = self._keys(plan)
        if opened is None or signed.ctx != keys.ctx:
            raise UnexpectedMessage("RevealRequest for another attempt")
        check_reveal_request(
            message,
            signed=signed.signature.survivors,
            ctx=keys.ctx,
            cohort=keys.cohort,
            identities=own.identities,
        )
        reveal = make_reveal(keys, signed.survivors, opened, signer=own.signer)
        next_roots = memory.roots_for(plan.round + 1)
        if next_roots is None:
            raise UnexpectedMessage("this round's pair roots are erased")
        puts: dict[str, bytes | Record] = {
            "run/revealed": encode_reveal(plan.round, reveal),
            "epoch/roots": encode_roots(next_roots, plan.round + 1),
        }
        memory.commit(puts, ROUND_SECRETS)
        return (Send(reveal),)


def _leave(error: FedvlmError) -> tuple[NodeAction, ...]:
    """Say that this hospital leaves, without its balance, and stop."""
    reason = Abort(code=error.code, cause="this hospital's privacy budget does not allow the round", hint="")
    return (Send(reason), Stop(error))
