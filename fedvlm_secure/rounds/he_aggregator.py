"""R1 to R3 of homomorphic mode at the aggregator: check ciphertexts as they come, add them, keep what nodes decrypt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import PeerViolation, UnexpectedMessage
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.ciphertext_sum import check_chunk, sum_chunks
from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.rounds.aggregator_memory import Phase, encode_names
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.he_terms import carriage_of, is_encrypted, sum_context
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.merkle import leaf_hash, tree_root
from fedvlm_secure.secagg.messages import DecryptRequest, UploadBundle
from fedvlm_secure.secagg.record import verify
from fedvlm_secure.types import Digest, NodeId, Words

DECRYPTIONS = 2
"""Nodes that must decrypt to the same words: tags are symmetric, so one of them alone could lie."""

ChunkCheck = Callable[[int, bytes], object]
"""(index, content) of an upload's chunk; raises PeerViolation where it is no ciphertext."""


@dataclass(frozen=True)
class EncryptedRound:
    """Steps of one attempt. Each commits before anything is sent. No secret key is ever here."""

    own: AggregatorSelf

    @property
    def applies(self) -> bool:
        """Whether the open run is encrypted."""
        return self.own.memory.opened is not None and is_encrypted(self.own.memory.manifest)

    @property
    def ctx(self) -> Digest:
        return context_of(self.own.memory.plan, self.own.memory.manifest)

    @property
    def _carriage(self) -> Carriage:
        memory = self.own.memory
        return carriage_of(memory.manifest, closing=self.own.policy.is_closing(memory.plan.round))

    def is_sum(self, bundle: UploadBundle) -> bool:
        """Whether a bundle brings a decrypted sum of the attempt in progress."""
        memory = self.own.memory
        return memory.phase is Phase.DECRYPT and bundle.header.ctx == sum_context(self.ctx)

    def chunk_check(self, bundle: UploadBundle) -> ChunkCheck | None:
        """What every chunk of an upload must stand, as it comes; None where words are plain.

        It may be called in another thread than the machine's.
        """
        if not self.applies or bundle.header.ctx != self.ctx:
            return None
        carriage, owner = self._carriage, bundle.header.node
        return lambda index, content: check_chunk(carriage, index, content, owner=owner)

    def ask(self) -> None:
        """R3 begins: add the survivors' ciphertexts; from here on no other attempt of this round may open.

        Raises:
            PeerViolation: BAD_CIPHERTEXT, which names the node.
        """
        memory, carriage = self.own.memory, self._carriage
        uploads = {node: self.own.spool.chunks(self.ctx, node) for node in memory.survivors}
        root = self.own.blobs.put(sum_chunks(carriage, uploads))
        signatures = memory.signatures
        request = self.own.signer.sign(
            DecryptRequest,
            ctx=self.ctx,
            sum_root=root,
            signatures=tuple(signatures[node] for node in sorted(signatures)),
        )
        memory.commit({"decrypt-request": request, "phase": Phase.DECRYPT.encode()})

    def ask_also(self, node: NodeId) -> None:
        """One more node is to decrypt."""
        memory = self.own.memory
        memory.commit({"asked": encode_names([*memory.asked, node])})

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """Whether a node may send a decrypted sum, before a byte of it is taken.

        Returns:
            Bytes to expect: the sum's words and its proof.

        Raises:
            PeerViolation: BAD_UPLOAD, BAD_HEADER, BAD_SIGNATURE, or it was not asked.
        """
        memory, header, carriage = self.own.memory, bundle.header, self._carriage
        words = carriage.format.words + carriage.proof_words
        if header.node != node:
            raise PeerViolation("BAD_UPLOAD", f"{node} uploads in the name of {header.node}", "")
        if node not in memory.asked or not self.is_sum(bundle):
            raise UnexpectedMessage(f"{node} was not asked to decrypt")
        known = memory.decrypted.get(node)
        if known is not None and known != bundle:
            raise UnexpectedMessage(f"{node} decrypted already")
        if header.words != words or header.pair_commitments or header.sealed_hashes or bundle.sealed:
            raise PeerViolation("BAD_HEADER", f"the header of {node} does not fit a decrypted sum", "")
        verify(header, self.own.identities[node])
        return words * 8

    def decrypted(self, bundle: UploadBundle) -> None:
        """R3: keep a decrypted sum whose spooled words have the signed tree root.

        Raises:
            PeerViolation: as `check_upload`, or BAD_UPLOAD; the spooled bytes are dropped.
        """
        node, memory = bundle.header.node, self.own.memory
        expected_bytes = self.check_upload(node, bundle)
        if node in memory.decrypted:
            return
        held_bytes, leaves = self.own.spool.hashed(bundle.header.ctx, node)
        if held_bytes != expected_bytes or tree_root(leaves) != bundle.header.tree_root:
            self.own.spool.discard(bundle.header.ctx, node)
            raise PeerViolation("BAD_UPLOAD", f"the sum of {node} is not the one it signed", "it may upload again")
        memory.commit({f"decrypted/{node}": bundle})

    def equal(self) -> tuple[NodeId, ...]:
        """The largest group of nodes that decrypted to the same words and proof."""
        return max(_groups(self.own.memory.decrypted.values()), key=len, default=())

    def sum_words(self) -> tuple[Words, Words]:
        """The sum, uint64 [words], and what is published: the same words and their proof behind them.

        Raises:
            PeerViolation: BAD_SUM, the spooled words are not there any more.
        """
        node, carriage = self.equal()[0], self._carriage
        header = self.own.memory.decrypted[node].header
        whole: Words = np.zeros(carriage.format.words + carriage.proof_words, dtype=np.uint64)
        leaves = []
        for index, chunk in enumerate(self.own.spool.chunks(header.ctx, node)):
            leaves.append(leaf_hash(chunk))
            target = whole[index * CHUNK_WORDS : (index + 1) * CHUNK_WORDS]
            if len(chunk) == target.nbytes:
                target[:] = np.frombuffer(chunk, dtype="<u8")
        if not leaves or tree_root(leaves) != header.tree_root:
            raise PeerViolation("BAD_SUM", f"the sum that {node} decrypted is not held any more", "")
        return whole[: carriage.format.words], whole

    def summary(self) -> dict[str, object]:
        """Who decrypted, and who came to other words than two others."""
        equal = self.equal()
        others = sorted(set(self.own.memory.decrypted) - set(equal))
        return {"decrypted_by": list(equal), "disagreed": others} if self.applies else {}

    def discard(self) -> None:
        """Forget what was spooled of the attempt's sums."""
        if self.applies:
            self.own.spool.discard(sum_context(self.ctx))


def _groups(bundles: Iterable[UploadBundle]) -> list[tuple[NodeId, ...]]:
    by_root: dict[Digest, list[NodeId]] = {}
    for bundle in bundles:
        by_root.setdefault(bundle.header.tree_root, []).append(bundle.header.node)
    return [tuple(sorted(nodes)) for nodes in by_root.values()]
