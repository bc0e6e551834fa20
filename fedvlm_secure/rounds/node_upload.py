"""R1 at a node, from packed words to a signed bundle: each chunk is masked, hashed and written while it is in cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import UnexpectedMessage
from fedvlm_secure.rounds.actions import NodeAction, Upload
from fedvlm_secure.rounds.he_terms import is_masked
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.storage import Journal, draft_chunks
from fedvlm_secure.rounds.terms import cohort_of, context_of, vector_of
from fedvlm_secure.rounds.vectors import Drafted, StoredVector, as_bytes, chunks_of
from fedvlm_secure.secagg.attempt_masks import AttemptMasks, ExpandedMask, MaskSource
from fedvlm_secure.secagg.masking import AttemptKeys, AttemptSeeds, bare_upload, masks_of, seal_upload
from fedvlm_secure.secagg.messages import Plan
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.types import Words


@dataclass(frozen=True)
class NodeUpload:
    """One attempt's upload: its masks, its bundle, and the commit that makes it the one that is sent."""

    own: NodeSelf

    def masks(self) -> AttemptMasks | None:
        """See `NodeRound.masks`."""
        memory = self.own.memory
        plan = memory.plan
        if plan is None or memory.bundle is not None or memory.seeds is None:
            return None
        keys = keys_of(self.own, plan)
        return None if keys is None else self._masks(plan, keys, memory.seeds)

    def _masks(self, plan: Plan, keys: AttemptKeys, seeds: AttemptSeeds) -> AttemptMasks:
        vector = vector_of(self.own.memory.manifest, closing=self.own.policy.is_closing(plan.round))
        return masks_of(keys, seeds.self_seed, words=vector.words)

    def _secrets(self, plan: Plan) -> tuple[AttemptKeys, AttemptSeeds] | None:
        """Pair roots and the seeds drawn when the plan was accepted; None where no mask hides the vector.

        Raises:
            UnexpectedMessage: they are erased.
        """
        memory = self.own.memory
        if not is_masked(memory.manifest):
            return None
        keys, seeds = keys_of(self.own, plan), memory.seeds
        if keys is None or seeds is None:
            raise UnexpectedMessage("this attempt's seeds and pair roots are erased")
        return keys, seeds

    def mask(self, plan: Plan, ahead: ExpandedMask | None) -> MaskSource | None:
        """The mask expanded ahead, if it is this attempt's; else the same one, expanded on the way; None: no mask."""
        secrets = self._secrets(plan)
        if secrets is None:
            return None
        if ahead is not None and ahead.ctx == secrets[0].ctx:
            return ahead
        return self._masks(plan, *secrets).stream()

    def again(self, plan: Plan, integers: StoredVector) -> tuple[NodeAction, ...]:
        """A later attempt masks the integers of the first."""
        vector = draft_vector(self.own.memory.journal, masked_again(integers, self.mask(plan, None)))
        return self.enter(plan, vector, {})

    def enter(
        self, plan: Plan, vector: Drafted, stored: Mapping[str, bytes | Drafted | Record]
    ) -> tuple[NodeAction, ...]:
        """Sign the bundle of a drafted vector and commit both, with whatever else belongs to that step."""
        own, memory, words = self.own, self.own.memory, vector.size_bytes // 8
        secrets, signer = self._secrets(plan), self.own.signer
        if secrets is None:
            ctx = context_of(plan, memory.manifest)
            bundle = bare_upload(words=words, root=vector.root, me=own.me, ctx=ctx, signer=signer)
        else:
            bundle = seal_upload(*secrets, words=words, root=vector.root, signer=signer, entropy=own.entropy)
        memory.commit({**stored, "round/bundle": bundle, "round/content": vector})
        upload = memory.upload
        return () if upload is None else (Upload(*upload),)


def draft_vector(journal: Journal, chunks: Iterable[Words]) -> Drafted:
    """Write a vector's chunks (uint64 [CHUNK_WORDS], the last shorter) ahead of the commit that enters it.

    Raises:
        StorageError: nothing is kept. So it is with whatever `chunks` raises.
    """
    return draft_chunks(journal, map(as_bytes, chunks))


def draft_masked(journal: Journal, chunks: Iterable[Words], mask: MaskSource | None) -> tuple[Drafted, Drafted]:
    """Write packed words and what hides them, chunk by chunk: the integers as journalled, and the vector to be sent.

    Args:
        mask: None sends the words as they are.

    Raises:
        StorageError, ModelError: nothing is kept.
    """
    masked = journal.draft()

    def passing() -> Iterator[Words]:
        for chunk in chunks:
            yield chunk  # written as it is, before the mask goes on
            if mask is not None:
                mask.add_to(chunk)
            masked.append(as_bytes(chunk))

    try:
        integers = draft_vector(journal, passing())
        return integers, masked.finish()
    except BaseException:
        masked.drop()
        raise


def masked_again(integers: StoredVector, mask: MaskSource | None) -> Iterator[Words]:
    """The journalled words under another attempt's mask."""
    for content in chunks_of(integers):
        chunk = np.frombuffer(content, dtype="<u8").astype(np.uint64)
        if mask is not None:
            mask.add_to(chunk)
        yield chunk


def keys_of(own: NodeSelf, plan: Plan) -> AttemptKeys | None:
    """What this node knows in an attempt, or None once the round's pair roots are erased."""
    memory = own.memory
    roots = memory.roots_for(plan.round)
    if roots is None:
        return None
    return AttemptKeys(own.me, cohort_of(memory.manifest), context_of(plan, memory.manifest), roots)
