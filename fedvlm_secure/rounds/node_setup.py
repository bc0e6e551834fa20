"""S0 to S3 at a node: recompute the manifest, advertise one key, verify every peer's, derive the pair roots."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fedvlm_secure.errors import PeerViolation, PolicyError, UnexpectedMessage
from fedvlm_secure.rounds.actions import Evaluate, NodeAction, Send
from fedvlm_secure.rounds.closing import NO_RESULT, Closing, initial_state
from fedvlm_secure.rounds.node_memory import ROUND_KEYS, encode_roots
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.terms import make_manifest
from fedvlm_secure.secagg.messages import EpochAck, EpochKeys, EpochReady, KeyAdvert, Manifest, OpenEpoch
from fedvlm_secure.secagg.pairs import KEY_BYTES, check_public_key, pair_root, public_key
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import Secret

RUN_ENDS = ("run/finished", "run/aborted", "run/withdrawn")
RUN_KEYS = ("run/result-ack", "run/void-ack", "run/revealed", "run/charge", *RUN_ENDS)
EPOCH_KEYS = ("epoch/keys", "epoch/roots", "epoch/ready")


@dataclass(frozen=True)
class NodeSetup:
    """Handlers of the set-up messages. Each commits before it returns what to send."""

    own: NodeSelf

    def open_epoch(self, message: OpenEpoch) -> tuple[NodeAction, ...]:
        """S0/S1: check the manifest against the own approved policy; answer with one fresh key per (run, epoch).

        Raises:
            PeerViolation: MANIFEST_MISMATCH, APPROVAL_USED, BAD_EPOCH or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        verify(message, own.aggregator)
        if message == memory.opened_epoch:
            known = memory.private_key
            return () if known is None else (self._advert(message, known),)
        self._check_manifest(message.manifest)
        new_run = self._is_new_run(message)
        private = Secret(own.entropy.bytes(KEY_BYTES))
        puts: dict[str, bytes | Record] = {
            "run/open": message,
            "epoch/private": private.reveal(),
            "approval/" + own.approval: _run_key(message),
        }
        deletes = [*EPOCH_KEYS, *ROUND_KEYS]
        if new_run:
            state = initial_state(own.policy, own.layout.dimension)
            closing = Closing(round=-1, result_hash=NO_RESULT, state_hash=state.digest)
            puts |= {"run/state": state.to_bytes(), "run/closing": closing}
            deletes += RUN_KEYS
            left = memory.opened_epoch
            if left is not None:  # that run cannot open again here, so it needs no budget any more
                own.purse.close(left.manifest.run_hash)
        memory.commit(puts, deletes)
        return (self._advert(message, private),)

    def _is_new_run(self, message: OpenEpoch) -> bool:
        memory = self.own.memory
        opened, closing = memory.opened_epoch, memory.closing
        used_by = memory.journal.get("approval/" + self.own.approval)
        if used_by not in (None, _run_key(message)):
            raise PeerViolation(
                "APPROVAL_USED",
                "this approval was used up by another run",
                "approve the policy again: fedvlm-node approve POLICY",
            )
        if opened is None or opened.manifest.run_hash != message.manifest.run_hash:
            approvals = memory.journal.keys("approval/")
            seen = any(memory.journal.get(approval) == _run_key(message) for approval in approvals)
            if message.epoch != 0 or message.first_round != 0 or seen:  # a run that was left does not open again
                raise PeerViolation("BAD_EPOCH", "a run opens with epoch 0 and round 0, once", "")
            return True
        if closing is None or message.epoch != opened.epoch + 1 or message.first_round != closing.round + 1:
            raise PeerViolation("BAD_EPOCH", f"epoch {message.epoch} does not follow epoch {opened.epoch}", "")
        return False

    def _check_manifest(self, manifest: Manifest) -> None:
        own = self.own
        members = set(manifest.nodes)
        if own.me not in members or not members <= set(own.identities) or len(members) != len(manifest.nodes):
            raise PeerViolation(
                "MANIFEST_MISMATCH",
                "the run's nodes are not a part of this node's roster that includes it",
                "compare roster.toml with the coordinator's by telephone",
            )
        if len(manifest.nodes) < own.min_nodes:
            raise PeerViolation(
                "COHORT_TOO_SMALL", f"{len(manifest.nodes)} nodes, this hospital asks for {own.min_nodes}", ""
            )
        try:
            expected = make_manifest(
                own.policy,
                run_id=manifest.run_id,
                nodes=tuple(sorted(manifest.nodes)),
                base_fingerprint=own.base_fingerprint,
                layout_digest=own.layout.digest,
                dimension=own.layout.dimension,
                aggregator=own.aggregator,
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
            KeyAdvert, node=self.own.me, run_hash=run_hash, epoch=message.epoch, public=public_key(private)
        )
        return Send(advert)

    def epoch_keys(self, message: EpochKeys) -> tuple[NodeAction, ...]:
        """S2/S3: verify every peer's key, derive the pair roots, erase the private key, acknowledge.

        Raises:
            PeerViolation: BAD_KEYS, WEAK_KEY or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        opened, private, known = memory.opened_epoch, memory.private_key, memory.epoch_keys
        if known is not None and known.roster_hash == message.roster_hash:
            return (self._ack(known),)
        if opened is None or private is None:
            raise UnexpectedMessage("EpochKeys without an open epoch")
        self._check_keys(message, opened, public_key(private))
        roots = {
            advert.node: pair_root(private, advert.public, message.roster_hash)
            for advert in message.adverts
            if advert.node != own.me
        }
        puts: dict[str, bytes | Record] = {
            "epoch/keys": message,
            "epoch/roots": encode_roots(roots, opened.first_round),
        }
        memory.commit(puts, ["epoch/private"])
        return (self._ack(message),)

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
            verify(advert, own.identities[advert.node])
            check_public_key(advert.public)

    def _ack(self, keys: EpochKeys) -> Send:
        return Send(self.own.signer.sign(EpochAck, node=self.own.me, roster_hash=keys.roster_hash))

    def epoch_ready(self, message: EpochReady) -> tuple[NodeAction, ...]:
        """S2: go on only with n equal acknowledgements.

        Raises:
            PeerViolation: NO_AGREEMENT or BAD_SIGNATURE.
        """
        own, memory = self.own, self.own.memory
        keys, closing = memory.epoch_keys, memory.closing
        if keys is None or closing is None:
            raise UnexpectedMessage("EpochReady without the epoch's keys")
        if memory.epoch_ready:
            return ()
        agreeing = tuple(ack.node for ack in message.acks if ack.roster_hash == keys.roster_hash)
        if agreeing != memory.manifest.nodes:
            raise PeerViolation("NO_AGREEMENT", "not every member acknowledges the same roster", "leave the run")
        for ack in message.acks:
            verify(ack, own.identities[ack.node])
        memory.commit({"epoch/ready": b"1"})
        if closing.round < 0:
            return (Evaluate(0, memory.state.model, last=False),)
        return ()


def _run_key(message: OpenEpoch) -> bytes:
    return bytes(message.manifest.run_hash)
