"""EpochKey: the one place that decrypts, at most once per round, and never again after anything failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation, UnexpectedMessage
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.cipher import Cipher
from fedvlm_secure.he.ciphertext_sum import check_chunk
from fedvlm_secure.he.group_secrets import GroupSecrets
from fedvlm_secure.he.parameters import TAG_PRIME, TAGS, HeParameters
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.he.verification import DecryptedSum, lanes_in_range, make_proof
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Secret, Words

CKKS_DISTANCE = 0.25
"""A slot further than this from an integer is refused."""


class KeyBurnt(PeerViolation):
    """One fixed text for every cause: which check failed is an answer that an oracle attack waits for."""

    def __init__(self) -> None:
        super().__init__(
            "HE_KEY_BURNT",
            "what was presented as the encrypted sum is not the sum of the signed uploads; the epoch's key is burnt",
            "this node decrypts nothing more in this epoch and leaves; ask the aggregator's operator, open a new epoch",
        )


@dataclass(frozen=True)
class KeyState:
    """What a node journals about its right to decrypt in one epoch.

    Args:
        last_round: the last round spent, -1 before the first.
        pending: a decryption of `last_round` began and was not settled. After a restart that counts as burnt: nobody
            can tell a crash from a failure that was cut off before it was journalled.
        burnt: never again.
    """

    last_round: int = -1
    pending: bool = False
    burnt: bool = False

    def to_bytes(self) -> bytes:
        return canonical.encode(self)

    @staticmethod
    def from_bytes(raw: bytes) -> KeyState:
        return KeyState(**canonical.decode(raw))


class EpochKey:
    """A node's right to decrypt, as a machine: `spend`, journal, `decrypt`, journal `state`.

    Args:
        secrets: the epoch's.
        parameters: the epoch's.
        state: as journalled; a fresh one when the epoch begins.
    """

    def __init__(self, secrets: GroupSecrets, parameters: HeParameters, state: KeyState) -> None:
        self._secrets = secrets
        self._parameters = parameters
        self._state = KeyState(state.last_round, False, True) if state.pending or state.burnt else state
        self._armed: tuple[int, Cipher] | None = None

    @cached_property
    def cipher(self) -> Cipher:
        """The epoch's cipher, made once: also what `encrypt_words` takes.

        Raises:
            ModelError: HE_LIBRARY_MISSING or HE_LIBRARY.
        """
        return Cipher(self._parameters, self._secrets.seed)

    @property
    def state(self) -> KeyState:
        """To be journalled, durably, after `spend` and after `decrypt`, whether that returned or raised."""
        return self._state

    def spend(self, round_number: int) -> KeyState:
        """Use up this round's one decryption. Journal the state that it returns before calling `decrypt`.

        Raises:
            KeyBurnt: the key is burnt.
            UnexpectedMessage: this round, or a later one, was decrypted before.
            ModelError: HE_LIBRARY_MISSING or HE_LIBRARY; nothing is spent.
        """
        if self._state.burnt:
            raise KeyBurnt()
        if self._state.pending or round_number <= self._state.last_round:
            raise UnexpectedMessage(f"a second decryption in round {round_number}")
        armed = (round_number, self.cipher)  # a missing library is found before anything is spent
        self._state, self._armed = KeyState(round_number, True, False), armed
        return self._state

    def decrypt(
        self,
        round_number: int,
        chunks: Iterable[bytes],
        *,
        carriage: Carriage,
        ctx: Digest,
        survivors: Sequence[NodeId],
    ) -> DecryptedSum:
        """Decrypt the encrypted sum of exactly `survivors` in this attempt, all of it or nothing.

        1. Leave the armed state and burn the key; only success brings it back.
        2. Check each chunk's length and residues before the library sees it.
        3. Decrypt; for ckks round, and note a slot further than 0.25 from an integer.
        4. Note a slot, lane or unused place out of range.
        5. Compare every tag with sum kappa * lane + sum of the survivors' pads.
        6. Judge after the last ciphertext, so that neither time nor text says which one failed.

        Args:
            chunks: as `sum_chunks` yields them.

        Returns:
            The sum in packed words with its proof.

        Raises:
            KeyBurnt: any of the checks failed. There is no retry.
            UnexpectedMessage: `spend` was not called for this round.
            ValueError: carriage of other parameters, or survivors that are not distinct or too many (our fault).
        """
        if len(set(survivors)) != len(survivors) or not 1 <= len(survivors) <= self._parameters.nodes:
            raise ValueError("survivors are distinct members of the cohort")
        if carriage.parameters != self._parameters:
            raise ValueError("the carriage has other parameters than the epoch's key")
        armed = self._armed
        if armed is None or armed[0] != round_number:
            raise UnexpectedMessage(f"a decryption in round {round_number} without its state spent")
        settled, self._armed = KeyState(round_number), None
        self._state = KeyState(round_number, False, True)
        opened = _Opening(armed[1], self._secrets.group_key, carriage, ctx, survivors)
        if not opened.take_all(chunks):
            raise KeyBurnt()
        self._state = settled
        return opened.result()


class _Opening:
    """One pass over the encrypted sum."""

    def __init__(
        self, cipher: Cipher, group_key: Secret, carriage: Carriage, ctx: Digest, survivors: Sequence[NodeId]
    ) -> None:
        own = carriage.parameters
        self._cipher, self._carriage, self._ctx, self._group_key = cipher, carriage, ctx, group_key
        self._contributors = len(survivors)
        self._hashing = LaneHash(group_key, ctx, own)
        self._pads = TagPads(group_key, ctx, survivors)
        self._words: Words = np.zeros(carriage.format.words, dtype=np.uint64)
        self._limbs = np.zeros(len(carriage.format.scalars) * carriage.limbs, dtype=np.int64)
        self._tags = np.zeros((carriage.ciphertexts, TAGS), dtype=np.int64)

    def take_all(self, chunks: Iterable[bytes]) -> bool:
        """Whether every chunk is there, well formed and authentic."""
        batches = list(self._carriage.batches())
        sound, count = True, 0
        for index, content in enumerate(chunks):
            if index >= len(batches):
                return False
            try:
                residues = check_chunk(self._carriage, index, content, owner="the sum")
            except PeerViolation:
                return False  # says nothing about the key: the form alone was looked at
            sound &= self._take(batches[index], residues)
            count += 1
        return sound and count == len(batches)

    def _take(self, batch: range, residues: Words) -> bool:
        own = self._carriage.parameters
        rows = residues.reshape(len(batch), own.ciphertext_words)
        opened = [self._integers(self._cipher.decrypt_unchecked(row.tobytes())) for row in rows]
        slots = np.stack([integers for integers, _ in opened])
        sound = all(near for _, near in opened)
        data, tag_sums = slots[:, : own.data_slots], slots[:, own.data_slots :].astype(np.int64)
        sound &= int(data.max()) >> (own.lanes * own.lane_bits) == 0
        sound &= int(tag_sums.max()) <= self._contributors * (TAG_PRIME - 1)
        mask = np.uint64((1 << own.lane_bits) - 1)
        planes = [(data >> np.uint64(lane * own.lane_bits)) & mask for lane in range(own.lanes)]
        lanes: Int64Vector = np.concatenate(planes, axis=1).astype(np.int64)
        sound &= lanes_in_range(self._carriage, lanes, batch, self._contributors)
        expected = (self._hashing.of(lanes) + self._pads.take(len(batch))) % TAG_PRIME
        sound &= bool(np.array_equal(tag_sums % TAG_PRIME, expected))
        self._tags[batch.start : batch.stop] = expected
        self._carriage.write(self._words, self._limbs, batch, lanes)
        return sound

    def _integers(self, slots: np.ndarray) -> tuple[Words, bool]:
        """uint64 slots, and whether they are near enough to non-negative integers below 2^slot_bits."""
        if slots.dtype == np.uint64:
            return slots, True
        nothing: Words = np.zeros(len(slots), dtype=np.uint64)
        if not np.isfinite(slots).all():
            return nothing, False
        nearest = np.rint(slots)
        near = bool(np.all(np.abs(slots - nearest) <= CKKS_DISTANCE))
        bound = float((1 << self._carriage.parameters.slot_bits) - 1)
        inside = near and bool(nearest.min() >= 0.0 and nearest.max() <= bound)
        return (nearest.astype(np.uint64) if inside else nothing), inside

    def result(self) -> DecryptedSum:
        self._carriage.close(self._words, self._limbs)
        return DecryptedSum(self._words, make_proof(self._tags, self._limbs, group_key=self._group_key, ctx=self._ctx))
