"""What a node remembers, typed, on top of its journal. The journal is the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.rounds.closing import Closing
from fedvlm_secure.rounds.journal_records import JournalRecords
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.masking import SEED_BYTES, AttemptSeeds
from fedvlm_secure.secagg.messages import (
    EpochKeys,
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
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Secret

ROUND_SECRETS = ("round/integers", "round/scalars", "round/seeds", "round/content", "round/opened")
ROUND_KEYS = (*ROUND_SECRETS, "round/plan", "round/bundle", "round/signed")


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
        raw = self.journal.get("run/state")
        if raw is None:
            raise ValueError("no run is open")
        return ServerState.from_bytes(raw)

    @property
    def ack(self) -> ResultAck | VoidAck | None:
        """The last statement that closed a round at this node."""
        return self.record(ResultAck, "run/result-ack") or self.record(VoidAck, "run/void-ack")

    @property
    def private_key(self) -> Secret | None:
        raw = self.journal.get("epoch/private")
        return None if raw is None else Secret(raw)

    @property
    def epoch_keys(self) -> EpochKeys | None:
        return self.record(EpochKeys, "epoch/keys")

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
    def ctx(self) -> Digest | None:
        """Context of the accepted attempt."""
        plan = self.plan
        return None if plan is None else context_of(plan, self.manifest)

    @property
    def integers(self) -> Int64Vector | None:
        raw = self.journal.get("round/integers")
        return None if raw is None else np.frombuffer(raw, dtype="<i8").astype(np.int64)

    @property
    def scalars(self) -> dict[str, int]:
        raw = self.journal.get("round/scalars")
        return {} if raw is None else canonical.decode(raw)

    @property
    def seeds(self) -> AttemptSeeds | None:
        raw = self.journal.get("round/seeds")
        return None if raw is None else AttemptSeeds(Secret(raw[:SEED_BYTES]), Secret(raw[SEED_BYTES:]))

    @property
    def upload(self) -> tuple[UploadBundle, bytes] | None:
        """The stored bytes of this attempt's upload: a re-send sends these."""
        bundle, content = self.record(UploadBundle, "round/bundle"), self.journal.get("round/content")
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
        raw = self.journal.get("run/revealed")
        if raw is None:
            return None
        round_number, stored = canonical.decode(raw)
        return int(round_number), record_from_bytes(Reveal, stored)

    @property
    def charged(self) -> tuple[int, bool] | None:
        """The last round whose charge was begun in this run, and whether its upload was journalled, too."""
        raw = self.journal.get("run/charge")
        if raw is None:
            return None
        round_number, uploaded = canonical.decode(raw)
        return int(round_number), bool(uploaded)


def encode_charge(round_number: int, *, uploaded: bool) -> bytes:
    """Journal form of `NodeMemory.charged`."""
    return canonical.encode([round_number, uploaded])


def encode_roots(roots: Mapping[NodeId, Secret], round_number: int) -> bytes:
    """Journal form of the pair roots of a round."""
    return canonical.encode({"round": round_number, "roots": {peer: root.reveal() for peer, root in roots.items()}})


def encode_seeds(seeds: AttemptSeeds) -> bytes:
    return seeds.self_seed.reveal() + seeds.coefficient_seed.reveal()


def encode_opened(opened: OpenedShares) -> bytes:
    return canonical.encode({dealer: [share.reveal() for share in shares] for dealer, shares in opened.items()})


def encode_reveal(round_number: int, reveal: Reveal) -> bytes:
    return canonical.encode([round_number, record_bytes(reveal)])
