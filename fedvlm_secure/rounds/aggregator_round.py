"""R0 to R4 at the aggregator: plan, collect, fix S, relay signatures, unmask, publish, certify."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation, UnexpectedMessage
from fedvlm_secure.fl.state import State
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.rounds.aggregator_memory import (
    ATTEMPT_PREFIXES,
    ROUND_PREFIXES,
    Phase,
    encode_names,
    summary_key,
)
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.closing import Closing, Step, next_state
from fedvlm_secure.rounds.he_aggregator import EncryptedRound
from fedvlm_secure.rounds.he_terms import is_masked, upload_words
from fedvlm_secure.rounds.participation import PATTERN_CODE
from fedvlm_secure.rounds.terms import cohort_of, context_of, totals, vector_of
from fedvlm_secure.rounds.vectors import as_bytes, chunks_of, cut
from fedvlm_secure.secagg.headers import check_header
from fedvlm_secure.secagg.merkle import tree_path, tree_root
from fedvlm_secure.secagg.messages import (
    Certificate,
    DealtShares,
    Plan,
    Refusal,
    Result,
    ResultAck,
    Reveal,
    RevealRequest,
    SurvivorSet,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
    VoidRequest,
    survivor_digest,
)
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.secagg.sealing import sealed_size
from fedvlm_secure.secagg.unmasking import Unmasking
from fedvlm_secure.types import Digest, NodeId, Words


@dataclass(frozen=True)
class AggregatorRound:
    """Round steps. Each commits before anything is sent."""

    own: AggregatorSelf

    @property
    def ctx(self) -> Digest:
        """Context of the attempt in progress."""
        return context_of(self.own.memory.plan, self.own.memory.manifest)

    @property
    def _vector(self) -> VectorFormat:
        memory = self.own.memory
        return vector_of(memory.manifest, closing=self.own.policy.is_closing(memory.plan.round))

    @property
    def _upload_words(self) -> int:
        memory = self.own.memory
        return upload_words(memory.manifest, closing=self.own.policy.is_closing(memory.plan.round))

    @property
    def protected(self) -> bool:
        return self.own.memory.manifest.protection != "none"

    def open_round(self) -> None:
        """R0 of the round after the last closed one."""
        memory = self.own.memory
        closing = memory.closing
        self._open(closing.round + 1, 0, memory.under(*ROUND_PREFIXES, "excluded", "awaited"), {})

    def next_attempt(self) -> None:
        """Another attempt of the same round, without the nodes that refusals name, or waiting for those they miss."""
        memory = self.own.memory
        excluded, awaited = set(memory.excluded), set(memory.awaited)
        for refusal in memory.refusals.values():
            missing = set(refusal.nodes) - set(memory.survivors)  # others that a history names are too many in S
            (awaited if refusal.code in ("SURVIVORS_TOO_CLOSE", PATTERN_CODE) else excluded).update(missing)
            excluded.update(set(refusal.nodes) - missing)
        plan = memory.plan
        self.own.spool.discard(self.ctx)
        EncryptedRound(self.own).discard()
        puts = {"excluded": encode_names(excluded), "awaited": encode_names(awaited - excluded)}
        self._open(plan.round, plan.attempt + 1, memory.under(*ATTEMPT_PREFIXES), puts)

    def _open(self, round_number: int, attempt: int, stale: list[str], puts: dict[str, bytes]) -> None:
        memory = self.own.memory
        closing = memory.closing
        plan = self.own.signer.sign(
            Plan,
            roster_hash=memory.agreed_roster,
            round=round_number,
            attempt=attempt,
            state_hash=closing.state_hash,
            previous_result=closing.result_hash,
            certificate=memory.certificate,
        )
        memory.commit({**puts, "plan": plan, "phase": Phase.UPLOAD.encode()}, stale)

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """Whether an upload belongs to this attempt, before a byte of its vector is taken.

        Returns:
            Bytes of the vector to expect.

        Raises:
            PeerViolation: BAD_HEADER, BAD_UPLOAD, BAD_SIGNATURE, or no upload is expected now.
        """
        memory = self.own.memory
        header, words = bundle.header, self._upload_words
        if header.node != node:
            raise PeerViolation("BAD_UPLOAD", f"{node} uploads in the name of {header.node}", "")
        known = memory.bundles.get(node)
        if known is not None and bundle == known:
            return words * 8
        if memory.phase is not Phase.UPLOAD or known is not None or node in memory.excluded:
            raise UnexpectedMessage(f"an upload of {node} is not expected now")
        if self.protected:
            check_header(
                header,
                ctx=self.ctx,
                cohort=cohort_of(memory.manifest),
                words=words,
                identities=self.own.identities,
                deals=is_masked(memory.manifest),
            )
            self._check_dealt(bundle)
        elif header.ctx != self.ctx or header.words != words:
            raise PeerViolation("BAD_HEADER", f"the upload header of {node} does not fit this attempt", "")
        return words * 8

    def _check_dealt(self, bundle: UploadBundle) -> None:
        header, n = bundle.header, len(self.own.memory.manifest.nodes)
        if not is_masked(self.own.memory.manifest):
            if bundle.sealed or bundle.holder_digests:
                raise PeerViolation("BAD_UPLOAD", f"{header.node} deals shares although its update is encrypted", "")
            return
        hashes = tuple(hashlib.sha256(blob).digest() for blob in bundle.sealed)
        fits = (
            len(bundle.holder_digests) == n
            and tree_root(bundle.holder_digests) == header.share_root
            and all(len(blob) == sealed_size(n) for blob in bundle.sealed)
            and hashes == header.sealed_hashes
        )
        if not fits:
            raise PeerViolation("BAD_UPLOAD", f"what {header.node} deals is not what its header commits to", "")

    def uploaded(self, node: NodeId, bundle: UploadBundle) -> None:
        """R1 is complete for a node: its spooled vector has the signed tree root.

        Raises:
            PeerViolation: BAD_UPLOAD; the spooled bytes are dropped.
        """
        expected_bytes = self.check_upload(node, bundle)
        memory = self.own.memory
        if node in memory.uploaded:
            return
        held_bytes, leaves = self.own.spool.hashed(self.ctx, node)
        if held_bytes != expected_bytes or tree_root(leaves) != bundle.header.tree_root:
            self.own.spool.discard(self.ctx, node)
            raise PeerViolation("BAD_UPLOAD", f"the vector of {node} is not the one it signed", "it may upload again")
        memory.commit({f"bundle/{node}": bundle})

    def fix_survivors(self) -> None:
        """R2: S is every member whose upload is complete; fixed once per attempt, before it is told."""
        memory = self.own.memory
        names = encode_names(memory.uploaded)
        memory.commit({"survivors": names, "phase": (Phase.SIGN if self.protected else Phase.REVEAL).encode()})

    def survivor_bundles(self) -> dict[NodeId, UploadBundle]:
        """The survivors' bundles in roster order."""
        bundles = self.own.memory.bundles
        return {node: bundles[node] for node in self.own.memory.survivors}

    def survivor_set(self, holder: NodeId) -> SurvivorSet:
        """R2, as one holder gets it."""
        cohort = cohort_of(self.own.memory.manifest)
        bundles = self.survivor_bundles()
        dealt = []
        for dealer, bundle in bundles.items() if is_masked(self.own.memory.manifest) else ():
            sealed = b"" if dealer == holder else bundle.sealed[cohort.peers(dealer).index(holder)]
            path = tree_path(bundle.holder_digests, cohort.index[holder])
            dealt.append(DealtShares(sealed=sealed, path=path))
        headers = tuple(bundle.header for bundle in bundles.values())
        return SurvivorSet(ctx=self.ctx, headers=headers, dealt=tuple(dealt))

    def signature(self, message: SurvivorSignature) -> None:
        """R2: a node's signature under the fixed S.

        Raises:
            PeerViolation: BAD_SURVIVOR_SIGNATURE, it signs another set.
        """
        headers = tuple(bundle.header for bundle in self.survivor_bundles().values())
        if message.ctx != self.ctx or message.survivors != survivor_digest(self.ctx, headers):
            raise PeerViolation("BAD_SURVIVOR_SIGNATURE", f"{message.node} signs another survivor set", "")
        self.own.memory.commit({f"signature/{message.node}": message})

    def refusal(self, message: Refusal) -> None:
        """R2: a node does not sign."""
        if message.ctx != self.ctx:
            raise UnexpectedMessage(f"a refusal of {message.node} for another attempt")
        self.own.memory.commit({f"refusal/{message.node}": message})

    def ask_reveal(self) -> None:
        """R3 begins: from here on no other attempt of this round may open."""
        self.own.memory.commit({"phase": Phase.REVEAL.encode()})

    def reveal_request(self) -> RevealRequest:
        """All signatures so far."""
        signatures = self.own.memory.signatures
        return RevealRequest(ctx=self.ctx, signatures=tuple(signatures[node] for node in sorted(signatures)))

    def unmasking(self) -> Unmasking:
        return Unmasking(self.ctx, cohort_of(self.own.memory.manifest), self.survivor_bundles())

    def revealed(self, message: Reveal) -> None:
        """R3: keep a reveal whose every share belongs to a signed leaf.

        Raises:
            PeerViolation: BAD_REVEAL.
        """
        self.unmasking().check_reveal(message)
        self.own.memory.commit({f"reveal/{message.node}": message})

    def sum_words(self) -> Words:
        """The true sum of the survivors' words, masks removed: uint64 [words].

        Raises:
            BadDealer: no sum can be had in this round.
        """
        memory = self.own.memory
        unmasking = self.unmasking()
        vectors = {node: self.own.spool.chunks(self.ctx, node) for node in unmasking.survivors}
        total = unmasking.sum_masked(vectors, self._vector.words)
        if self.protected:
            reveals = memory.reveals
            chosen = [reveals[node] for node in sorted(reveals)]
            unmasking.remove_masks(total, chosen, pool=self.own.pool, parts=self.own.parts)
        return total

    def publish(self, total: Words, published: Words | None = None) -> None:
        """R4: the server step, then the signed result; both are journalled before anybody hears of them.

        Args:
            total: the sum, uint64 [words].
            published: the words to publish, if they are more than the sum's.

        Raises:
            PeerViolation: BAD_SUM, a check word does not fit (a fault in memory or keystream somewhere).
        """
        memory = self.own.memory
        plan, survivors = memory.plan, memory.survivors
        try:
            step = next_state(
                self.own.policy, memory.manifest, memory.stored_state, total, len(survivors), round_number=plan.round
            )
        except ValueError as error:
            raise PeerViolation("BAD_SUM", f"the sum of round {plan.round} does not unpack: {error}", "") from error
        sum_root = self.own.blobs.put(cut(as_bytes(total if published is None else published)))
        result = self.own.signer.sign(
            Result,
            run_hash=memory.manifest.run_hash,
            round=plan.round,
            ctx=self.ctx,
            survivors=survivors,
            sum_root=sum_root,
            state_hash=step.state.digest,
        )
        digests = _digests(before=memory.closing.state_hash, after=result.state_hash, result=result.digest)
        summary = canonical.encode({**self._summary(step), "ctx": result.ctx.hex(), **digests})
        puts: dict[str, bytes | Record | State] = {
            "result": result,
            "next-state": step.state,
            "phase": Phase.CERTIFY.encode(),
            "totals": summary,
        }
        memory.commit(puts)

    def _summary(self, step: Step) -> dict[str, object]:
        memory = self.own.memory
        plan = memory.plan
        return {
            "round": plan.round,
            "attempt": plan.attempt,
            "void": False,
            "survivors": list(memory.survivors),
            "dropped": list(cohort_of(memory.manifest).dropped(memory.survivors)),
            "upload_bytes": self._upload_words * 8,
            "plain_bytes": self._vector.dimension * 4,
            "step_norm": step.norm,
            **EncryptedRound(self.own).summary(),
            **totals(self.own.policy, step.scalars, round_number=plan.round, contributors=len(memory.survivors)),
        }

    def request_void(self) -> None:
        """This round can yield no result any more."""
        memory = self.own.memory
        closing = memory.closing
        request = self.own.signer.sign(
            VoidRequest,
            run_hash=memory.manifest.run_hash,
            round=closing.round + 1,
            previous_result=closing.result_hash,
            state_hash=closing.state_hash,
        )
        memory.commit({"void-request": request, "phase": Phase.VOID.encode()})

    def result_ack(self, message: ResultAck) -> None:
        """R4: a node replayed the step and came to the same state.

        Raises:
            PeerViolation: BAD_ACK.
        """
        result = self.own.memory.result
        if (
            result is None
            or (message.run_hash, message.round) != (result.run_hash, result.round)
            or (message.result_hash, message.state_hash) != (result.digest, result.state_hash)
        ):
            raise PeerViolation("BAD_ACK", f"{message.node} acknowledges another result", "")
        self.own.memory.commit({f"result-ack/{message.node}": message})

    def void_ack(self, message: VoidAck) -> None:
        """A node closed the round without a result.

        Raises:
            PeerViolation: BAD_ACK.
        """
        asked = self.own.memory.void_request
        if asked is None or (message.run_hash, message.round) != (asked.run_hash, asked.round):
            raise PeerViolation("BAD_ACK", f"{message.node} closes another round", "")
        if (message.previous_result, message.state_hash) != (asked.previous_result, asked.state_hash):
            raise PeerViolation("BAD_ACK", f"{message.node} closes the round from another state", "")
        self.own.memory.commit({f"void-ack/{message.node}": message})

    def close(self) -> None:
        """t acknowledgements: the round is certified, by its result or void; the last state is the certified one."""
        memory = self.own.memory
        void = memory.phase is Phase.VOID
        ctx = self.ctx
        acks = memory.void_acks if void else memory.result_acks
        ordered = tuple(acks[node] for node in sorted(acks))
        certificate = Certificate(void_acks=ordered) if void else Certificate(result_acks=ordered)  # type: ignore[arg-type]
        closing = Closing(
            round=certificate.round, result_hash=certificate.result_hash, state_hash=certificate.state_hash
        )
        stored = memory.journal.get("totals")
        digests = _digests(before=closing.state_hash, after=closing.state_hash, result=closing.result_hash)
        summary = canonical.encode({**self._void_summary(), **digests}) if void or stored is None else stored
        puts: dict[str, bytes | Record | State] = {"certificate": certificate, "closing": closing}
        if not void:
            puts["state"] = memory.state_at("next-state")
        memory.commit({**puts, summary_key(closing.round): summary})
        self.own.spool.discard(ctx)
        EncryptedRound(self.own).discard()
        root = self.own.blobs.put(chunks_of(memory.state_vector))
        result = memory.result
        self.own.blobs.keep_only([root] if result is None else [root, result.sum_root])

    def _void_summary(self) -> dict[str, object]:
        memory = self.own.memory
        plan = memory.plan
        survivors = list(memory.survivors)
        return {"round": plan.round, "attempt": plan.attempt, "void": True, "survivors": survivors}


def _digests(*, before: Digest, after: Digest, result: Digest) -> dict[str, str]:
    """What the audit record of a closed round is bound to."""
    return {"model_before": before.hex(), "model_after": after.hex(), "result": result.hex()}
