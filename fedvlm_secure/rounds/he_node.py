"""R1 to R4 of homomorphic mode at a node: encrypt, check the set, decrypt once, check what others decrypted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.errors import FedvlmError, ModelError, PeerViolation, UnexpectedMessage
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.encryption import encrypt_words
from fedvlm_secure.he.epoch_key import EpochKey, KeyBurnt, KeyState
from fedvlm_secure.he.verification import DecryptedSum, verify_sum
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.rounds.actions import NodeAction, Send, Stop, Upload
from fedvlm_secure.rounds.he_terms import carriage_of, is_encrypted, parameters_of, sum_context
from fedvlm_secure.rounds.node_memory import ROUND_SECRETS
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.node_upload import draft_vector
from fedvlm_secure.rounds.terms import cohort_of, context_of
from fedvlm_secure.rounds.vectors import Drafted, StoredVector, WordSlices, as_words, chunks_of, joined
from fedvlm_secure.secagg.masking import bare_upload
from fedvlm_secure.secagg.messages import Abort, DecryptRequest, Plan, Result, SurvivorSet
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.secagg.survivors import RefusedSurvivors, check_members, check_reveal_request
from fedvlm_secure.types import Digest, NodeId, Words


class NodeHe:
    """One node's use of the epoch's key. The journal says what was spent; the key itself is kept between rounds."""

    def __init__(self, own: NodeSelf) -> None:
        self._own = own
        self._held: tuple[bytes, EpochKey] | None = None

    @property
    def applies(self) -> bool:
        """Whether the open run is encrypted."""
        return self._own.memory.opened_epoch is not None and is_encrypted(self._own.memory.manifest)

    @property
    def burnt(self) -> bool:
        """Whether this node decrypts nothing any more in this epoch.

        `pending` is seen here only after a restart: nobody can tell then whether the decryption had failed.
        """
        state = self._own.memory.key_state
        return self.applies and (state.burnt or state.pending)

    def leave(self) -> tuple[NodeAction, ...]:
        """Burn the key for good, say so, and leave the run until a new epoch."""
        memory = self._own.memory
        last = memory.key_state.last_round
        memory.commit({"epoch/he-state": KeyState(last, burnt=True).to_bytes()}, ["epoch/he-secrets", *ROUND_SECRETS])
        self._held = None
        error = KeyBurnt()
        reason = Abort(code=error.code, cause="this hospital's key of the epoch is burnt", hint=error.hint)
        return (Send(reason), Stop(error))

    def _key(self) -> EpochKey:
        """Raises:
        UnexpectedMessage: this node does not hold the epoch's key.
        """
        memory = self._own.memory
        secrets, raw = memory.group_secrets, memory.journal.get("epoch/he-secrets")
        if secrets is None or raw is None:
            raise UnexpectedMessage("this node does not hold the epoch's key")
        if self._held is None or self._held[0] != raw:
            self._held = (raw, EpochKey(secrets, parameters_of(memory.manifest), memory.key_state))
        return self._held[1]

    def _carriage(self, plan: Plan) -> Carriage:
        return carriage_of(self._own.memory.manifest, closing=self._own.policy.is_closing(plan.round))

    def draft(self, plan: Plan, chunks: Iterable[Words]) -> tuple[Drafted, Drafted]:
        """Write packed words as they are, and their ciphertexts of this attempt.

        Raises:
            ModelError: HE_LIBRARY_MISSING or HE_LIBRARY; nothing was sent. StorageError.
        """
        journal = self._own.memory.journal
        integers = draft_vector(journal, chunks)
        return integers, self._encrypt(plan, journal.drafted(integers))

    def draft_again(self, plan: Plan, integers: StoredVector) -> Drafted:
        """A later attempt encrypts the integers of the first under its own context."""
        return self._encrypt(plan, integers)

    def _encrypt(self, plan: Plan, integers: StoredVector) -> Drafted:
        own, memory = self._own, self._own.memory
        secrets = memory.group_secrets
        key = self._key()
        if secrets is None:
            raise UnexpectedMessage("this node does not hold the epoch's key")
        chunks = encrypt_words(
            WordSlices(integers),
            carriage=self._carriage(plan),
            cipher=key.cipher,
            group_key=secrets.group_key,
            ctx=context_of(plan, memory.manifest),
            node=own.me,
        )
        return draft_vector(memory.journal, (np.frombuffer(chunk, dtype="<u8") for chunk in chunks))

    def check_set(self, message: SurvivorSet, plan: Plan) -> dict[str, bytes]:
        """Headers, order, number and this node's own part; and it is the round's one set.

        In masked mode t nodes reveal, once per round. Here one node opens a sum, so each signs one set per round
        instead: two sets of one round, whatever their attempts, would need 2t > n + c signers.

        Returns:
            What to journal with the signature.

        Raises:
            PeerViolation: as `check_members`.
            RefusedSurvivors: SURVIVORS_TOO_CLOSE, another set was signed in this round.
        """
        own, memory = self._own, self._own.memory
        if message.dealt:
            raise PeerViolation("BAD_SURVIVOR_SET", "shares are dealt in a run whose updates are encrypted", "")
        bundle = memory.bundle
        check_members(
            message,
            ctx=context_of(plan, memory.manifest),
            cohort=cohort_of(memory.manifest),
            me=own.me,
            own_header=None if bundle is None else bundle.header,
            words=self._carriage(plan).words,
            identities=own.members,
            deals=False,
        )
        entry = canonical.encode([plan.round, [header.node for header in message.headers]])
        raw = memory.journal.get("run/set")
        if raw is not None and raw != entry:
            signed_round, earlier = canonical.decode(raw)
            odd = set(earlier) ^ {header.node for header in message.headers}
            if signed_round == plan.round:
                raise RefusedSurvivors(
                    "SURVIVORS_TOO_CLOSE",
                    f"this set and the one signed before in round {plan.round} differ by {', '.join(sorted(odd))}",
                    [NodeId(name) for name in odd],
                    "a round has one set where one hospital alone opens the sum; wait for the same hospitals",
                )
        return {"run/set": entry}

    def decrypt(self, message: DecryptRequest, attachment: StoredVector | None) -> tuple[NodeAction, ...]:
        """On t signatures under the own digest, once per round: spend, journal, decrypt, journal, upload.

        Args:
            attachment: the encrypted sum, little-endian residues.

        Raises:
            PeerViolation: NO_QUORUM, BAD_SIGNATURE, BAD_ENCRYPTED_SUM, or a second decryption in one round; nothing was
                decrypted.
        """
        own, memory = self._own, self._own.memory
        verify(message, own.aggregator)
        plan, signed, stored = memory.plan, memory.signed, memory.decrypted
        if plan is None or signed is None or not self.applies:
            raise UnexpectedMessage("DecryptRequest before a signature")
        ctx = context_of(plan, memory.manifest)
        if signed.ctx != ctx:
            raise UnexpectedMessage("DecryptRequest for another attempt")
        check_reveal_request(
            message,
            signed=signed.signature.survivors,
            ctx=ctx,
            cohort=cohort_of(memory.manifest),
            identities=own.members,
        )
        if stored is not None and memory.journal.get("round/sum-root") == message.sum_root:
            return (Upload(*stored),)
        if memory.opened_round >= plan.round:
            raise PeerViolation("ALREADY_REVEALED", f"this node decrypted in round {plan.round} before", "")
        if attachment is None or attachment.root != message.sum_root:
            raise PeerViolation("BAD_ENCRYPTED_SUM", "the encrypted sum is not the one that the request names", "")
        return self._decrypt(plan, ctx, message.sum_root, attachment)

    def _decrypt(self, plan: Plan, ctx: Digest, sum_root: Digest, encrypted: StoredVector) -> tuple[NodeAction, ...]:
        own, memory, key = self._own, self._own.memory, self._key()
        signed = memory.signed
        survivors = () if signed is None else signed.survivors
        try:
            state = key.spend(plan.round)
            memory.commit({"epoch/he-state": state.to_bytes(), "run/decrypted": canonical.encode(plan.round)})
            opened = key.decrypt(
                plan.round, chunks_of(encrypted), carriage=self._carriage(plan), ctx=ctx, survivors=survivors
            )
        except KeyBurnt:
            return self.leave()
        except ModelError as error:  # the library is gone; nothing was spent, and nothing else can be done here
            return _leave(error)
        vector = draft_vector(memory.journal, joined(opened.words, opened.proof))
        words = vector.size_bytes // WORD_BYTES
        bundle = bare_upload(words=words, root=vector.root, me=own.me, ctx=sum_context(ctx), signer=own.signer)
        puts: dict[str, bytes | Drafted | Record] = {
            "epoch/he-state": key.state.to_bytes(),
            "round/sum": vector,
            "round/sum-root": bytes(sum_root),
            "round/sum-bundle": bundle,
        }
        memory.commit(puts, ROUND_SECRETS)
        stored = memory.decrypted
        return () if stored is None else (Upload(*stored),)

    def published(self, message: Result, attachment: StoredVector) -> Words:
        """The sum's words out of what was published, once its tags fit exactly the survivors' uploads.

        Args:
            attachment: the sum's words and its proof.

        Raises:
            PeerViolation: HE_SUM_FALSE.
        """
        memory = self._own.memory
        secrets = memory.group_secrets
        if secrets is None:
            raise UnexpectedMessage("this node does not hold the epoch's key")
        closing = self._own.policy.is_closing(message.round)
        carriage = carriage_of(memory.manifest, closing=closing)
        whole = as_words(attachment)
        published = DecryptedSum(whole[: carriage.format.words], whole[carriage.format.words :])
        verify_sum(
            published,
            carriage=carriage,
            group_key=secrets.group_key,
            ctx=message.ctx,
            survivors=message.survivors,
        )
        return published.words


def _leave(error: FedvlmError) -> tuple[NodeAction, ...]:
    reason = Abort(code=error.code, cause="this hospital cannot decrypt", hint="")
    return (Send(reason), Stop(error))
