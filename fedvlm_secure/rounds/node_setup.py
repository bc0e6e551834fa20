"""S0 to S3 at a node: recompute the manifest, advertise one key, verify every peer's, derive the pair roots."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation, PolicyError, UnexpectedMessage
from fedvlm_secure.fl.state import State
from fedvlm_secure.rounds.actions import Evaluate, NodeAction, Send
from fedvlm_secure.rounds.closing import initial_state
from fedvlm_secure.rounds.he_setup import HeSetup
from fedvlm_secure.rounds.he_terms import is_encrypted
from fedvlm_secure.rounds.manifest import make_manifest
from fedvlm_secure.rounds.node_memory import ROUND_KEYS, encode_roots, left_key
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.start import (
    Standing,
    check_vouchers,
    holds_start,
    is_continuation,
    new_start,
    start_of,
)
from fedvlm_secure.rounds.states import state_in
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import EpochAck, EpochKeys, EpochReady, HeKeys, KeyAdvert, Manifest, OpenEpoch
from fedvlm_secure.secagg.pairs import KEY_BYTES, check_public_key, pair_root, public_key
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import Secret

RUN_ENDS = ("run/finished", "run/aborted", "run/withdrawn")
RUN_KEYS = ("run/result-ack", "run/void-ack", "run/revealed", "run/decrypted", "run/set", "run/charge", *RUN_ENDS)
EPOCH_KEYS = (
    *("epoch/keys", "epoch/roots", "epoch/ready", "epoch/start", "epoch/taken"),
    *("epoch/he-keys", "epoch/he-secrets", "epoch/he-state"),
)
STATE_KEYS = ("run/state", "run/closing")


@dataclass(frozen=True)
class NodeSetup:
    """Handlers of the set-up messages. Each commits before it returns what to send."""

    own: NodeSelf

    def open_epoch(self, message: OpenEpoch, attachment: StoredVector | None) -> tuple[NodeAction, ...]:
        """S0/S1: check the manifest against the own approved policy; answer with one fresh key per (run, epoch).

        Args:
            attachment: the state at the epoch's start, for a node that did not come to it itself.

        Raises:
            PeerViolation: MANIFEST_MISMATCH, ROSTER_OUTDATED, COHORT_TOO_SMALL, APPROVAL_USED, BAD_EPOCH, BAD_START,
                ROLLED_BACK, BAD_STATE or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        verify(message, own.aggregator)
        opened = memory.opened_epoch
        if message == opened:
            known = memory.private_key
            return () if known is None else (self._advert(message, known),)
        self._check_manifest(message.manifest)
        private = Secret(own.entropy.bytes(KEY_BYTES))
        puts: dict[str, bytes | Record | State] = {
            "run/open": message,
            "epoch/private": private.reveal(),
            "epoch/members": canonical.encode({node: own.identities[node] for node in message.manifest.nodes}),
        }
        deletes = [*EPOCH_KEYS, *ROUND_KEYS]
        if opened is not None and opened.manifest.run_hash == message.manifest.run_hash:
            closing = memory.closing
            if closing is None or message.epoch != opened.epoch + 1 or message.first_round != closing.round + 1:
                raise PeerViolation("BAD_EPOCH", f"epoch {message.epoch} does not follow epoch {opened.epoch}", "")
        else:
            puts |= self._enter(message, attachment)
            deletes += RUN_KEYS
            if opened is not None:  # that membership cannot open again here, so it needs no budget any more
                own.purse.close(opened.manifest.run_hash)
                if opened.manifest.run_id != message.manifest.run_id:
                    puts[left_key(opened.manifest.run_id)] = Standing(epoch=opened.epoch, closing=memory.closing)
                    deletes += STATE_KEYS
        memory.commit(puts, deletes)
        return (self._advert(message, private),)

    def _enter(self, message: OpenEpoch, attachment: StoredVector | None) -> dict[str, bytes | Record | State]:
        """Use the approval up for a manifest that this node has not seen: of a new run, or of another membership."""
        own, memory, manifest = self.own, self.own.memory, message.manifest
        run_hash = bytes(manifest.run_hash)
        if memory.journal.get(own.approval_key) not in (None, run_hash):
            raise PeerViolation(
                "APPROVAL_USED",
                "this approval was used up by another run, or by this one with other members",
                "approve the policy again: fedvlm-node approve POLICY",
            )
        before = memory.standing(manifest.run_id)
        approvals = memory.journal.keys("approval/")
        seen = any(memory.journal.get(approval) == run_hash for approval in approvals)
        follows = (message.epoch, message.first_round) == (manifest.start_epoch, manifest.start_round)
        if seen or not follows or (before is not None and message.epoch <= before.epoch):
            raise PeerViolation("BAD_EPOCH", "a run opens once, and each change of its members once, in order", "")
        puts: dict[str, bytes | Record | State] = {own.approval_key: run_hash}
        fresh = new_start(own.policy, own.layout.dimension)
        if not is_continuation(manifest):
            if start_of(manifest) != fresh:
                raise PeerViolation("BAD_START", "a new run starts from the state that every node makes itself", "")
            return {
                **puts,
                "run/state": initial_state(own.policy, own.layout.dimension),
                "run/closing": fresh,
            }
        closing = None if before is None else before.closing
        holds = holds_start(manifest, closing, fresh)
        if not holds:
            puts["epoch/taken"] = b"1"
        if not holds or memory.closing != start_of(manifest) or memory.manifest.run_id != manifest.run_id:
            puts["epoch/start"] = self._start_state(manifest, attachment)
        return puts

    def _start_state(self, manifest: Manifest, attachment: StoredVector | None) -> State:
        """The state at an epoch's start, which takes effect once all members acknowledge this start."""
        own = self.own
        if manifest.start_round == 0:
            return initial_state(own.policy, own.layout.dimension)
        try:
            state = state_in(attachment)
        except ValueError as error:
            raise PeerViolation("BAD_STATE", "the attached state does not decode", "") from error
        form, ours = state.form, initial_state(own.policy, 0).form
        fits = (form.slots, set(form.numbers)) == (ours.slots, set(ours.numbers))
        if form.dimension != own.layout.dimension or not fits or state.digest != manifest.start_state:
            raise PeerViolation("BAD_STATE", "the attached state is not the one that the epoch starts from", "")
        return state

    def _check_manifest(self, manifest: Manifest) -> None:
        own = self.own
        members = set(manifest.nodes)
        strangers = sorted(members - set(own.identities))
        if strangers and own.me in members:
            raise PeerViolation(
                "ROSTER_OUTDATED",
                f"the roster pinned here does not know {', '.join(strangers[:5])}",
                "get the new roster and compare it by telephone; fedvlm-node install it, approve again, start again",
            )
        if own.me not in members or strangers or len(members) != len(manifest.nodes):
            raise PeerViolation(
                "MANIFEST_MISMATCH",
                "the run's nodes are not a part of this node's roster that includes it",
                "compare roster.toml with the coordinator's by telephone",
            )
        if len(manifest.nodes) < own.min_nodes:
            raise PeerViolation(
                "COHORT_TOO_SMALL", f"{len(manifest.nodes)} nodes, this hospital asks for {own.min_nodes}", ""
            )
        if manifest.start_epoch < 0 or manifest.start_round < 0:
            raise PeerViolation("MANIFEST_MISMATCH", "the manifest starts before the first round", "leave the run")
        try:
            expected = make_manifest(
                own.policy,
                run_id=manifest.run_id,
                nodes=tuple(sorted(manifest.nodes)),
                base_fingerprint=own.base_fingerprint,
                layout_digest=own.layout.digest,
                dimension=own.layout.dimension,
                aggregator=own.aggregator,
                start_epoch=manifest.start_epoch,
                start=start_of(manifest),
            )
        except PolicyError as error:  # the operator's policy is sound: it is this cohort that does not fit it
            raise PeerViolation("MANIFEST_MISMATCH", f"the run's nodes: {error.cause}", error.hint) from error
        for field in fields(Manifest):
            if getattr(expected, field.name) != getattr(manifest, field.name):
                raise PeerViolation(
                    "MANIFEST_MISMATCH",
                    f"the run's {field.name} is not what this node computes from its own approved policy",
                    "both sides must run the same package version with the same policy and roster",
                )

    def _advert(self, message: OpenEpoch, private: Secret) -> Send:
        run_hash = message.manifest.run_hash
        advert = self.own.signer.sign(
            KeyAdvert,
            node=self.own.me,
            run_hash=run_hash,
            epoch=message.epoch,
            public=public_key(private),
            holds_start=not self.own.memory.takes_over,
        )
        return Send(advert)

    def epoch_keys(self, message: EpochKeys) -> tuple[NodeAction, ...]:
        """S2/S3: verify every peer's key, derive the pair roots, erase the private key, acknowledge.

        Raises:
            PeerViolation: BAD_KEYS, WEAK_KEY, START_UNVOUCHED or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        opened, private, known = memory.opened_epoch, memory.private_key, memory.epoch_keys
        if known is not None and known.roster_hash == message.roster_hash:
            return self._answer(known)
        if opened is None or private is None:
            raise UnexpectedMessage("EpochKeys without an open epoch")
        self._check_keys(message, opened, public_key(private))
        check_vouchers(opened.manifest, message.adverts)
        roots = {
            advert.node: pair_root(private, advert.public, message.roster_hash)
            for advert in message.adverts
            if advert.node != own.me
        }
        puts: dict[str, bytes | Record] = {"epoch/keys": message}
        made = HeSetup(own).make(message, roots) if is_encrypted(opened.manifest) else {}
        if not made:  # the maker has sealed its copies and needs no pair root any more
            puts["epoch/roots"] = encode_roots(roots, opened.first_round)
        memory.commit({**puts, **made}, ["epoch/private"])
        return self._answer(message)

    def _check_keys(self, message: EpochKeys, opened: OpenEpoch, own_public: bytes) -> None:
        own, run_hash = self.own, opened.manifest.run_hash
        adverts = message.adverts
        fits = (
            message.run_hash == run_hash
            and message.epoch == opened.epoch
            and tuple(advert.node for advert in adverts) == opened.manifest.nodes
            and all(advert.run_hash == run_hash and advert.epoch == opened.epoch for advert in adverts)
            and len({advert.public for advert in adverts}) == len(adverts)
        )
        if not fits or any((advert.public == own_public) != (advert.node == own.me) for advert in adverts):
            raise PeerViolation(
                "BAD_KEYS", "the epoch's keys are not one distinct key of each member of this run", "leave the run"
            )
        for advert in adverts:
            try:
                verify(advert, own.members[advert.node])
            except PeerViolation as error:
                raise PeerViolation(
                    error.code,
                    f"the key of {advert.node} is not signed with the identity that the roster pinned here names",
                    "it renewed its identity, or somebody speaks for it: pin the new roster, approve again, restart",
                ) from error
            check_public_key(advert.public)

    def _answer(self, keys: EpochKeys) -> tuple[NodeAction, ...]:
        """The acknowledgement; in homomorphic mode it waits for the epoch's key."""
        if is_encrypted(self.own.memory.manifest):
            return HeSetup(self.own).announce()
        return (Send(self.own.signer.sign(EpochAck, node=self.own.me, roster_hash=keys.roster_hash)),)

    def he_keys(self, message: HeKeys) -> tuple[NodeAction, ...]:
        """S2 in homomorphic mode; see `HeSetup.he_keys`."""
        if self.own.memory.opened_epoch is None or not is_encrypted(self.own.memory.manifest):
            raise UnexpectedMessage("HeKeys in a run without homomorphic encryption")
        return HeSetup(self.own).he_keys(message)

    def epoch_ready(self, message: EpochReady) -> tuple[NodeAction, ...]:
        """S2: go on only with n equal acknowledgements.

        Raises:
            PeerViolation: NO_AGREEMENT or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        agreed, pending = memory.agreed_roster, memory.journal.vector("epoch/start")
        if agreed is None or (memory.closing is None and pending is None):
            raise UnexpectedMessage("EpochReady without the epoch's keys")
        if memory.epoch_ready:
            return ()
        agreeing = tuple(ack.node for ack in message.acks if ack.roster_hash == agreed)
        if agreeing != memory.manifest.nodes:
            raise PeerViolation("NO_AGREEMENT", "not every member acknowledges the same roster", "leave the run")
        for ack in message.acks:
            verify(ack, own.members[ack.node])
        puts: dict[str, bytes | Record | State] = {"epoch/ready": b"1"}
        if pending is not None:
            puts |= {"run/state": state_in(pending), "run/closing": start_of(memory.manifest)}
        memory.commit(puts, ["epoch/start"])
        closing = memory.closing
        if pending is not None or (closing is not None and closing.round < 0):
            return (Evaluate(memory.manifest.start_round, memory.stored_state.model, last=False),)
        return ()
