"""One masked round's parties and messages, made through the functions that the services call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.policy.schema import CohortPolicy
from fedvlm_secure.policy.thresholds import resolve
from fedvlm_secure.ring.encoder import UpdateEncoder
from fedvlm_secure.ring.keystream import KeystreamSum
from fedvlm_secure.ring.lanes import LaneFormat, lane_format
from fedvlm_secure.ring.quantise import Quantiser, dequantise, grid_weight
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.secagg.attempt_masks import AttemptMasks, MaskSource
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.commitments import holder_digest, pair_commitment, pair_secret_id, self_commitment
from fedvlm_secure.secagg.masking import AttemptKeys, AttemptSeeds, deal, leaves_for, masks_of
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, tree_root
from fedvlm_secure.secagg.messages import Reveal, UploadBundle, UploadHeader
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.secagg.unmasking import Unmasking
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import SIGNATURE_BYTES, Digest, Float32Vector, Float64Vector, NodeId, Secret, Signature, Words

MAX_UPDATE = 0.25
DEVIATION = 0.03
WEIGHT = grid_weight(1.0)
SCALARS = ("weight",)
CTX = Digest(bytes(range(32)))


def update_of(node: int, dimension: int) -> Float32Vector:
    """A node's update: float32 [d], normal with deviation 0.03 so that nothing is clipped, seeded by its number."""
    drawn = np.random.Generator(np.random.PCG64(node)).standard_normal(dimension, dtype=np.float32)
    drawn *= np.float32(DEVIATION)
    return drawn


def cohort_of(nodes: int) -> Cohort:
    """The cohort that a policy's `auto` means for so many hospitals."""
    terms = resolve(CohortPolicy(), nodes)
    names = tuple(NodeId(f"node-{at:03d}") for at in range(nodes))
    return Cohort(names, terms.c, terms.t, terms.min_survivors)


@dataclass(frozen=True)
class MaskedRound:
    """A round of `nodes` hospitals of which the last `lost` never upload.

    Args:
        dimension: d.
        lost: at most nodes - min_survivors.
    """

    nodes: int
    dimension: int
    lost: int = 0
    lanes: LaneFormat | None = None
    _seeds: dict[NodeId, AttemptSeeds] = field(default_factory=dict)

    @cached_property
    def cohort(self) -> Cohort:
        return cohort_of(self.nodes)

    @cached_property
    def vector(self) -> VectorFormat:
        return VectorFormat(self.dimension, self.lanes or lane_format("auto", self.nodes), SCALARS)

    @cached_property
    def survivors(self) -> tuple[NodeId, ...]:
        return self.cohort.nodes[: self.nodes - self.lost]

    @cached_property
    def _layout(self) -> UpdateLayout:
        return UpdateLayout((TensorSlot("connector.weight", (self.dimension,)),))

    def keys(self, me: NodeId) -> AttemptKeys:
        """Pair roots as after a set-up, from a seeded stream: both ends get the same."""
        roots = {
            peer: Secret(ShakeEntropy(1, f"root/{min(me, peer)}/{max(me, peer)}").bytes(32))
            for peer in self.cohort.peers(me)
        }
        return AttemptKeys(me, self.cohort, CTX, roots)

    def seeds(self, me: NodeId) -> AttemptSeeds:
        """The attempt's fresh secrets of a node."""
        if me not in self._seeds:
            self._seeds[me] = AttemptSeeds.draw(ShakeEntropy(1, f"seeds/{me}"))
        return self._seeds[me]

    def encoded(self, update: Float32Vector) -> Iterator[Words]:
        """Clip, scale, round, pack: the vector's chunks, not yet masked, each to be used before the next."""
        quantiser = Quantiser(
            update,
            layout=self._layout,
            lanes=self.vector.lanes,
            max_update=MAX_UPDATE,
            weight=WEIGHT,
            rounding_key=Secret(bytes(range(32))),
        )
        return UpdateEncoder(quantiser, self.vector, {"weight": WEIGHT}).chunks()

    def encode(self, update: Float32Vector) -> Words:
        """All of `encoded`: uint64 [words]."""
        return np.concatenate([chunk.copy() for chunk in self.encoded(update)])

    def masks(self, keys: AttemptKeys) -> AttemptMasks:
        """Self mask and one mask per peer, not yet expanded."""
        return masks_of(keys, self.seeds(keys.me).self_seed, words=self.vector.words)

    def node_stage(self, update: Float32Vector, mask: MaskSource) -> Iterator[memoryview]:
        """Encode, mask, and give the bytes to send, chunk by chunk, each to be used before the next."""
        for chunk in self.encoded(update):
            mask.add_to(chunk)
            yield chunk.astype("<u8", copy=False).data.cast("B")

    # ---- what reaches the aggregator ----

    def upload(self, me: NodeId, words: Words) -> bytes:
        """A survivor's vector as it counts in the sum: masks between survivors, which cancel in it, are left out.

        So the inputs of a hundred hospitals are made in a hundredth of the time and give the very same total.
        """
        keys, lost = self.keys(me), self.cohort.dropped(self.survivors)
        later = [keys.pair_seed(peer) for peer in lost if peer > me]
        earlier = [keys.pair_seed(peer) for peer in lost if peer < me]
        KeystreamSum((self.seeds(me).self_seed, *later), earlier).add_to(words)
        return words.astype("<u8", copy=False).tobytes()

    def unmasking(self) -> tuple[Unmasking, tuple[Reveal, ...]]:
        """The survivors' bundles, and t holders' reveals."""
        dealt = {me: deal(self.keys(me), self.seeds(me)) for me in self.survivors}
        leaves = {
            (me, holder): leaves_for(CTX, me, holder, dealt[me][holder])
            for me in self.survivors
            for holder in self.cohort.nodes
        }
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
        bundles = {me: self._bundle(me, leaves) for me in self.survivors}
        dropped = self.cohort.dropped(self.survivors)
        reveals = tuple(
            signer.sign(
                Reveal,
                node=holder,
                ctx=CTX,
                self_shares=tuple(dealt[v][holder][0].reveal() for v in self.survivors),
                pair_shares=tuple(
                    dealt[v][holder][pair_secret_id(self.cohort, v, j)].reveal()
                    for v in self.survivors
                    for j in dropped
                ),
                leaves=tuple(leaf for v in self.survivors for leaf in leaves[v, holder]),
            )
            for holder in self.survivors[: self.cohort.threshold]
        )
        return Unmasking(CTX, self.cohort, bundles), reveals

    def _bundle(self, me: NodeId, leaves: Mapping[tuple[NodeId, NodeId], tuple[Digest, ...]]) -> UploadBundle:
        """What unmasking reads of a bundle: commitments and the holders' digests; nothing is sealed."""
        keys, cohort = self.keys(me), self.cohort
        digests = tuple(holder_digest(CTX, me, holder, leaves[me, holder]) for holder in cohort.nodes)
        header = UploadHeader(
            signature=Signature(bytes(SIGNATURE_BYTES)),
            node=me,
            ctx=CTX,
            words=self.vector.words,
            tree_root=Digest(bytes(32)),
            self_commitment=self_commitment(CTX, me, self.seeds(me).self_seed),
            pair_commitments=tuple(pair_commitment(CTX, me, peer, keys.pair_seed(peer)) for peer in cohort.peers(me)),
            share_root=tree_root(digests),
            sealed_hashes=(),
        )
        return UploadBundle(header=header, holder_digests=digests, sealed=())

    def aggregator_stage(
        self, unmasking: Unmasking, reveals: tuple[Reveal, ...], vectors: Mapping[NodeId, Iterable[bytes]]
    ) -> Float64Vector:
        """Check every share, add the vectors, take the masks off, decode, divide: the mean update, float64 [d].

        Raises:
            PeerViolation, ValueError: a share or the sum is wrong.
        """
        for reveal in reveals:
            unmasking.check_reveal(reveal)
        total = unmasking.sum_masked(vectors, self.vector.words)
        unmasking.remove_masks(total, reveals)
        return self.decode(total)

    def decode(self, total: Words) -> Float64Vector:
        """The mean update from the unmasked sum: unpack, scale back, divide by the summed weights."""
        integers, scalars = self.vector.unpack_sum(total, len(self.survivors))
        scale = self.vector.lanes.scale_bits(MAX_UPDATE)
        return dequantise(integers, scale_bits=scale) * (WEIGHT / scalars["weight"])


def run_through(chunks: Iterable[memoryview]) -> None:
    """Make every chunk and keep none, as a service does that writes each to disk."""
    for _ in chunks:
        continue


def in_chunks(content: bytes) -> Iterable[bytes]:
    """A vector as the spool gives it: chunks of 1 MiB."""
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
