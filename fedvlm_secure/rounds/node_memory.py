"""What a node remembers, typed, on top of its journal. The journal is the state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import ServerState, StoredState
from fedvlm_secure.he.epoch_key import KeyState
from fedvlm_secure.he.group_secrets import SEED_BYTES as HE_SEED_BYTES
from fedvlm_secure.he.group_secrets import GroupSecrets
from fedvlm_secure.rounds.closing import Closing
from fedvlm_secure.rounds.he_terms import agreed_hash, context_in, is_encrypted
from fedvlm_secure.rounds.journal_records import JournalRecords
from fedvlm_secure.rounds.start import Standing
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.masking import SEED_BYTES, AttemptSeeds
from fedvlm_secure.secagg.messages import (
    EpochKeys,
    HeKeys,
    Manifest,
    OpenEpoch,
    Plan,
    ResultAck,
    Reveal,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
)
from fedvlm_secure.secagg.pairs import ratchet
from fedvlm_secure.secagg.record import Record, record_bytes, record_from_bytes
from fedvlm_secure.secagg.survivors import OpenedShares
from fedvlm_secure.types import Digest, NodeId, Secret

ISOLATED_KEY = "run/patterns"
"""Whom the sets signed last isolate; with the run, since it outlives that."""

ROUND_SECRETS = ("round/integers", "round/scalars", "round/seeds", "round/content", "round/opened")
SUM_KEYS = ("round/sum", "round/sum-root", "round/sum-bundle")
ROUND_KEYS = (*ROUND_SECRETS, "round/plan", "round/model", "round/bundle", "round/signed", *SUM_KEYS)
RUN_SECRETS = ("epoch/roots", "epoch/private", "epoch/he-secrets", *ROUND_KEYS)
"""What is erased once a run is over here."""


@dataclass(frozen=True, kw_only=True)
class SignedSet(Record):
    """The one set this node signed in an attempt."""

    ctx: Digest
    survivors: tuple[NodeId, ...]
    signature: SurvivorSignature


class NodeMemory(JournalRecords):
    """Typed reads of a node's journal, and the encodings of what is committed to it."""

    @property
    def opened_epoch(self) -> OpenEpoch | None:
        return self.record(OpenEpoch, "run/open")

    @property
    def manifest(self) -> Manifest:
        opened = self.opened_epoch
        if opened is None:
            raise ValueError("no run is open")
        return opened.manifest

    @property
    def closing(self) -> Closing | None:
        return self.record(Closing, "run/closing")

    @property
    def state(self) -> ServerState:
        """All of it, in memory."""
        return self.stored_state.load()

    @property
    def stored_state(self) -> StoredState:
        """The state where the journal holds it, until another takes its place."""
        return self.state_at("run/state")

    @property
    def ack(self) -> ResultAck | VoidAck | None:
        """The last statement that closed a round at this node."""
        return self.record(ResultAck, "run/result-ack") or self.record(VoidAck, "run/void-ack")

    def standing(self, run_id: bytes) -> Standing | None:
        """Where this node stood when it last took part in a run, the present one or one it left; None if it never did.

        The closing is None where it joined and no round of that epoch was closed here.
        """
        left, opened = self.record(Standing, left_key(run_id)), self.opened_epoch
        if opened is None or opened.manifest.run_id != run_id:
            return left
        known = None if left is None else left.closing
        return Standing(epoch=opened.epoch, closing=self.closing or known)

    @property
    def members(self) -> dict[NodeId, bytes] | None:
        """Identities of the epoch's members as they were pinned when it was opened; None before the first epoch."""
        return self.read("epoch/members", _members)

    def isolated(self, round_number: int) -> tuple[NodeId, ...] | None:
        """Hospitals that the sets signed in a round isolate once too often; see `participation.find_pattern`.

        All attempts count: the set of one that led nowhere was signed, too. None where no set was signed in this
        round, or a later round's was.
        """
        raw = self.journal.get(ISOLATED_KEY)
        run, number, names = (None, None, []) if raw is None else canonical.decode(raw)
        here = run == self.manifest.run_id and number == round_number
        return tuple(NodeId(name) for name in names) if here else None

    def with_isolated(self, round_number: int, nodes: Iterable[NodeId]) -> bytes:
        """What to journal under ISOLATED_KEY once one more set of a round is signed."""
        names = sorted({*nodes, *(self.isolated(round_number) or ())})
        return canonical.encode([self.manifest.run_id, round_number, names])

    @property
    def takes_over(self) -> bool:
        """Whether this node did not come to the epoch's start itself."""
        return self.journal.get("epoch/taken") is not None

    @property
    def private_key(self) -> Secret | None:
        raw = self.journal.get("epoch/private")
        return None if raw is None else Secret(raw)

    @property
    def epoch_keys(self) -> EpochKeys | None:
        return self.record(EpochKeys, "epoch/keys")

    @property
    def first_round(self) -> int:
        """Of the epoch that is open."""
        opened = self.opened_epoch
        return 0 if opened is None else opened.first_round

    @property
    def he_keys(self) -> HeKeys | None:
        """The announcement of the epoch's key, whose copy for this node was opened (at the maker: was made)."""
        return self.record(HeKeys, "epoch/he-keys")

    @property
    def group_secrets(self) -> GroupSecrets | None:
        """The epoch's homomorphic key; None in other modes, before the set-up, and once it is erased."""
        raw = self.journal.get("epoch/he-secrets")
        return None if raw is None else GroupSecrets(Secret(raw[:HE_SEED_BYTES]), Secret(raw[HE_SEED_BYTES:]))

    @property
    def key_state(self) -> KeyState:
        """This node's right to decrypt in this epoch."""
        raw = self.journal.get("epoch/he-state")
        return KeyState() if raw is None else KeyState.from_bytes(raw)

    @property
    def agreed_roster(self) -> Digest | None:
        """What the n acknowledgements of the epoch stand under: the roster, and the context of a homomorphic key."""
        keys, he_keys = self.epoch_keys, self.he_keys
        if keys is None or not is_encrypted(self.manifest):
            return None if keys is None else keys.roster_hash
        if he_keys is None:
            return None
        return agreed_hash(keys.roster_hash, context_in(he_keys, self.manifest, keys.roster_hash))

    @property
    def epoch_ready(self) -> bool:
        return self.journal.get("epoch/ready") is not None

    def roots_for(self, round_number: int) -> dict[NodeId, Secret] | None:
        """Pair roots of a round, ratcheted forward from the stored ones; None once they are erased."""
        raw = self.journal.get("epoch/roots")
        if raw is None:
            return None
        stored = canonical.decode(raw)
        steps = round_number - int(stored["round"])
        if steps < 0:
            return None
        roots = {NodeId(peer): Secret(root) for peer, root in stored["roots"].items()}
        for _ in range(steps):
            roots = {peer: ratchet(root) for peer, root in roots.items()}
        return roots

    @property
    def plan(self) -> Plan | None:
        return self.record(Plan, "round/plan")

    @property
    def model(self) -> Digest:
        """`history.model_digest` of the state that the accepted plan starts from."""
        raw = self.journal.get("round/model")
        if raw is None:
            raise ValueError("no plan is accepted")
        return Digest(raw)

    @property
    def ctx(self) -> Digest | None:
        """Context of the accepted attempt."""
        plan = self.plan
        return None if plan is None else context_of(plan, self.manifest)

    @property
    def integers(self) -> StoredVector | None:
        """The round's packed words before any mask, scalars and check words included: every attempt masks these."""
        return self.journal.vector("round/integers")

    @property
    def scalars(self) -> dict[str, int]:
        """What rides beside the lanes of these words."""
        raw = self.journal.get("round/scalars")
        return {} if raw is None else canonical.decode(raw)

    @property
    def seeds(self) -> AttemptSeeds | None:
        raw = self.journal.get("round/seeds")
        return None if raw is None else AttemptSeeds(Secret(raw[:SEED_BYTES]), Secret(raw[SEED_BYTES:]))

    @property
    def upload(self) -> tuple[UploadBundle, StoredVector] | None:
        """The stored bytes of this attempt's upload: a re-send sends these."""
        bundle, content = self.record(UploadBundle, "round/bundle"), self.journal.vector("round/content")
        return None if bundle is None or content is None else (bundle, content)

    @property
    def bundle(self) -> UploadBundle | None:
        return self.record(UploadBundle, "round/bundle")

    @property
    def signed(self) -> SignedSet | None:
        return self.record(SignedSet, "round/signed")

    @property
    def opened(self) -> OpenedShares | None:
        raw = self.journal.get("round/opened")
        if raw is None:
            return None
        stored = canonical.decode(raw)
        return {NodeId(dealer): tuple(Secret(share) for share in shares) for dealer, shares in stored.items()}

    @property
    def revealed(self) -> tuple[int, Reveal] | None:
        """Round and bytes of the last reveal."""
        return self.read("run/revealed", _revealed)

    @property
    def opened_round(self) -> int:
        """The last round that this node helped to open, by a reveal or a decryption; -1 before the first."""
        revealed = self.revealed
        decrypted = self.journal.get("run/decrypted")
        return max(
            -1 if revealed is None else revealed[0], -1 if decrypted is None else int(canonical.decode(decrypted))
        )

    @property
    def decrypted(self) -> tuple[UploadBundle, StoredVector] | None:
        """The stored bytes of the decrypted sum with its proof: a re-send sends these."""
        bundle, content = self.record(UploadBundle, "round/sum-bundle"), self.journal.vector("round/sum")
        return None if bundle is None or content is None else (bundle, content)

    @property
    def charged(self) -> tuple[int, bool] | None:
        """The last round whose charge was begun in this run, and whether its upload was journalled, too."""
        raw = self.journal.get("run/charge")
        if raw is None:
            return None
        round_number, uploaded = canonical.decode(raw)
        return int(round_number), bool(uploaded)


def _members(raw: bytes) -> dict[NodeId, bytes]:
    return {NodeId(node): identity for node, identity in canonical.decode(raw).items()}


def _revealed(raw: bytes) -> tuple[int, Reveal]:
    """Inverse of `encode_reveal`."""
    round_number, stored = canonical.decode(raw)
    return int(round_number), record_from_bytes(Reveal, stored)


def left_key(run_id: bytes) -> str:
    """Journal key of the standing in a run that this node left."""
    return f"left/{run_id.hex()}"


def encode_charge(round_number: int, *, uploaded: bool) -> bytes:
    """Journal form of `NodeMemory.charged`."""
    return canonical.encode([round_number, uploaded])


def encode_roots(roots: Mapping[NodeId, Secret], round_number: int) -> bytes:
    """Journal form of the pair roots of a round."""
    return canonical.encode({"round": round_number, "roots": {peer: root.reveal() for peer, root in roots.items()}})


def encode_group_secrets(secrets: GroupSecrets) -> bytes:
    return secrets.seed.reveal() + secrets.group_key.reveal()


def encode_seeds(seeds: AttemptSeeds) -> bytes:
    return seeds.self_seed.reveal() + seeds.coefficient_seed.reveal()


def encode_opened(opened: OpenedShares) -> bytes:
    return canonical.encode({dealer: [share.reveal() for share in shares] for dealer, shares in opened.items()})


def encode_reveal(round_number: int, reveal: Reveal) -> bytes:
    return canonical.encode([round_number, record_bytes(reveal)])
