"""R0 to R3 at a node: accept a plan, upload, sign one survivor set, reveal once. Journalled first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import NonPrivate
from fedvlm_secure.errors import FedvlmError, PeerViolation, StorageError, UnexpectedMessage
from fedvlm_secure.rounds.actions import LocalUpdate, NodeAction, Send, Stop, Train, Upload
from fedvlm_secure.rounds.closing import Closing, check_certificate
from fedvlm_secure.rounds.cohorts import check_cohort
from fedvlm_secure.rounds.encoding import encode_update
from fedvlm_secure.rounds.he_node import NodeHe
from fedvlm_secure.rounds.he_terms import is_masked
from fedvlm_secure.rounds.history import check_history, check_participation, cohorts_key, history_key, model_digest
from fedvlm_secure.rounds.node_memory import (
    ISOLATED_KEY,
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
from fedvlm_secure.rounds.node_upload import NodeUpload, draft_masked, keys_of
from fedvlm_secure.rounds.participation import with_set
from fedvlm_secure.rounds.purse import charge_for
from fedvlm_secure.rounds.terms import cohort_of, context_of, vector_of
from fedvlm_secure.rounds.vectors import Drafted
from fedvlm_secure.secagg.attempt_masks import AttemptMasks, ExpandedMask
from fedvlm_secure.secagg.masking import AttemptKeys, AttemptSeeds
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
from fedvlm_secure.types import Digest


@dataclass(frozen=True)
class NodeRound:
    """Handlers of the round's messages. `training` says whether the service is at work on a round already."""

    own: NodeSelf
    training: Callable[[int], bool]
    he: NodeHe

    def plan(self, message: Plan) -> tuple[NodeAction, ...]:
        """R0: the next round, or a higher attempt of a round for which nothing was revealed; from the own state only.

        Raises:
            PeerViolation: BAD_PLAN, ALREADY_REVEALED, BAD_CERTIFICATE or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        verify(message, own.aggregator)
        agreed, closing, current = memory.agreed_roster, memory.closing, memory.plan
        if agreed is None or closing is None or not memory.epoch_ready:
            raise UnexpectedMessage("Plan before the epoch is ready")
        if current is None or message != current:
            self._check_plan(message, closing, agreed)
            model = model_digest(memory.manifest, memory.stored_state.model)
            refused = self._refuse_cohort(model) or self._reserve(message)
            if refused:
                return refused
            self._accept(message, current, model)
        return self._carry_on(message)

    def _check_plan(self, message: Plan, closing: Closing, roster_hash: Digest) -> None:
        memory, current = self.own.memory, self.own.memory.plan
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
        if memory.opened_round == message.round:
            raise PeerViolation(
                "ALREADY_REVEALED", f"round {message.round} was revealed; no other attempt may open", ""
            )
        manifest = memory.manifest
        if message.round > manifest.start_round:  # the n acknowledgements of the epoch stand for what was before
            if message.certificate is None:
                raise PeerViolation("BAD_CERTIFICATE", "the plan shows no certificate of the last round", "")
            shown = check_certificate(
                message.certificate,
                run_hash=manifest.run_hash,
                cohort=cohort_of(manifest),
                identities=self.own.members,
            )
            if shown != closing:
                raise PeerViolation("BAD_CERTIFICATE", "the certificate is of another closing than this node's", "")

    def _refuse_cohort(self, model: Digest) -> tuple[NodeAction, ...]:
        """Leave a cohort whose sum could be too close to an earlier one, unnoticed; empty if it is not."""
        own, memory = self.own, self.own.memory
        try:
            check_cohort(memory.journal, cohorts_key(own.population, model), memory.manifest, accept=own.other_cohorts)
        except PeerViolation as error:
            reason = Abort(code=error.code, cause="this hospital had its update in a sum of another cohort", hint="")
            return (Send(reason), Stop(error))
        return ()

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

    def _accept(self, message: Plan, current: Plan | None, model: Digest) -> None:
        same_round = current is not None and current.round == message.round
        kept = {"round/integers", "round/scalars"} if same_round else set()
        memory = self.own.memory
        puts: dict[str, bytes | Record] = {"round/plan": message, "round/model": model}
        if is_masked(memory.manifest):  # now, so that the masks can be expanded before there is an update
            puts["round/seeds"] = encode_seeds(AttemptSeeds.draw(self.own.entropy))
        roots = memory.roots_for(message.round)
        if roots is not None:  # a node that never revealed loses the earlier rounds' roots here
            puts["epoch/roots"] = encode_roots(roots, message.round)
        memory.commit(puts, [key for key in ROUND_KEYS if key not in kept and key not in puts])

    def _carry_on(self, plan: Plan) -> tuple[NodeAction, ...]:
        memory = self.own.memory
        upload = memory.upload
        if upload is not None:
            return (Upload(*upload),)
        if memory.signed is not None or memory.opened_round == plan.round:
            return ()
        integers = memory.integers
        if integers is not None:
            upload_again = NodeUpload(self.own)
            if self.he.applies:
                return upload_again.enter(plan, self.he.draft_again(plan, integers), {})
            return upload_again.again(plan, integers)
        if self.training(plan.round) or memory.charged == (plan.round, True):
            return ()  # released before and erased since: training again would be a second release on one charge
        return (Train(plan.round, plan.attempt, memory.stored_state.model),)

    def trained(
        self, round_number: int, update: LocalUpdate, mask: ExpandedMask | None = None
    ) -> tuple[NodeAction, ...]:
        """R1: encode once per round and mask for the accepted attempt, charge it, journal all of it, then upload.

        Args:
            mask: of `masks`, expanded meanwhile; one of another attempt is not used.

        Raises:
            ModelError: NON_FINITE_UPDATE or ZERO_UPDATE; nothing was sent.
        """
        own, memory = self.own, self.own.memory
        plan = memory.plan
        if (
            plan is None
            or plan.round != round_number
            or memory.integers is not None
            or memory.charged == (round_number, True)
            or memory.opened_round == round_number
        ):
            return ()  # the round went on without this node
        upload = NodeUpload(own)
        chunks, scalars = encode_update(own, memory.manifest, update, round_number)
        if self.he.applies:
            integers, vector = self.he.draft(plan, chunks)
        else:
            integers, vector = draft_masked(memory.journal, chunks, upload.mask(plan, mask))
        refused = self._spend(round_number)
        if refused:
            return refused
        stored: dict[str, bytes | Drafted | Record] = {
            "round/integers": integers,
            "round/scalars": canonical.encode(scalars),
        }
        key = cohorts_key(own.population, memory.model)
        stored[key] = check_cohort(memory.journal, key, memory.manifest, accept=own.other_cohorts)
        if memory.charged is not None:
            stored["run/charge"] = encode_charge(round_number, uploaded=True)
        return upload.enter(plan, vector, stored)

    def masks(self) -> AttemptMasks | None:
        """What will hide the vector of the accepted attempt, as long as there is none yet: to be expanded meanwhile."""
        return NodeUpload(self.own).masks()

    def _keys(self, plan: Plan) -> AttemptKeys:
        keys = keys_of(self.own, plan)
        if keys is None:
            raise UnexpectedMessage("this round's pair roots are erased")
        return keys

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
        if memory.opened_round == plan.round:
            raise PeerViolation("ALREADY_REVEALED", f"round {plan.round} was revealed", "")
        ctx = context_of(plan, memory.manifest)
        try:
            opened = self._check_set(message, plan)
            key = history_key(own.population, memory.model)
            history = check_history(memory.journal, key, nodes, memory.manifest.colluding)
            pattern = check_participation(own, plan.round, nodes)
        except RefusedSurvivors as refused:
            return (Send(own.signer.sign(Refusal, node=own.me, ctx=ctx, code=refused.code, nodes=refused.nodes)),)
        digest = survivor_digest(ctx, message.headers)
        signature = own.signer.sign(SurvivorSignature, node=own.me, ctx=ctx, survivors=digest)
        record = SignedSet(ctx=ctx, survivors=nodes, signature=signature)
        puts: dict[str, bytes | Drafted | Record] = {
            "round/signed": record,
            **opened,
            key: history,
            own.participation_key: with_set(own.participation, plan.round, nodes),
            ISOLATED_KEY: memory.with_isolated(plan.round, pattern),
        }
        memory.commit(puts)
        return (Send(signature),)

    def _check_set(self, message: SurvivorSet, plan: Plan) -> dict[str, bytes]:
        """What a set must show before it is signed; what to journal of it: opened shares, or the set itself."""
        own, memory = self.own, self.own.memory
        if self.he.applies:
            return self.he.check_set(message, plan)
        bundle = memory.bundle
        opened = check_survivor_set(
            message,
            self._keys(plan),
            own_header=None if bundle is None else bundle.header,
            own_seeds=memory.seeds,
            words=vector_of(memory.manifest, closing=own.policy.is_closing(plan.round)).words,
            identities=own.members,
        )
        return {"round/opened": encode_opened(opened)}

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
            identities=own.members,
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
