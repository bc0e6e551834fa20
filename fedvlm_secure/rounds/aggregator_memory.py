"""What an aggregator remembers, typed, on top of its journal. A phase change is committed before it is announced."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import ServerState, StoredState
from fedvlm_secure.rounds.closing import Closing
from fedvlm_secure.rounds.he_terms import agreed_hash, context_in
from fedvlm_secure.rounds.journal_records import JournalRecords
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import (
    Abort,
    Certificate,
    DecryptRequest,
    EpochAck,
    EpochKeys,
    EpochReady,
    HeKeys,
    KeyAdvert,
    Manifest,
    OpenEpoch,
    Plan,
    Refusal,
    Result,
    ResultAck,
    Reveal,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
    VoidRequest,
)
from fedvlm_secure.secagg.record import R
from fedvlm_secure.types import Digest, NodeId


class Phase(StrEnum):
    """Where a run stands, in order."""

    GATHER = "gather"
    KEYS = "keys"
    SEAL = "seal"
    AGREE = "agree"
    UPLOAD = "upload"
    SIGN = "sign"
    REVEAL = "reveal"
    DECRYPT = "decrypt"
    CERTIFY = "certify"
    VOID = "void"
    DONE = "done"
    ABORTED = "aborted"


ATTEMPT_PREFIXES = (
    *("bundle/", "signature/", "refusal/", "reveal/", "survivors"),
    *("decrypt-request", "asked", "decrypted/"),
)
ROUND_PREFIXES = (
    *ATTEMPT_PREFIXES,
    "result-ack/",
    "void-ack/",
    "plan",
    "result",
    "void-request",
    "next-state",
    "totals",
)


class AggregatorMemory(JournalRecords):
    """Typed reads of the aggregator's journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._summaries: list[dict[str, object]] = []

    def _by_node(self, cls: type[R], prefix: str) -> dict[NodeId, R]:
        found = {}
        for key in self.journal.keys(prefix):
            record = self.record(cls, key)
            if record is not None:
                found[NodeId(key.removeprefix(prefix))] = record
        return found

    @property
    def phase(self) -> Phase:
        raw = self.journal.get("phase")
        return Phase.GATHER if raw is None else Phase(raw.decode())

    @property
    def opened(self) -> OpenEpoch | None:
        return self.record(OpenEpoch, "open")

    @property
    def manifest(self) -> Manifest:
        opened = self.opened
        if opened is None:
            raise ValueError("no epoch is open")
        return opened.manifest

    @property
    def opened_at(self) -> int:
        """First round of the present epoch (0 before the first)."""
        opened = self.opened
        return 0 if opened is None else opened.first_round

    @property
    def known_as(self) -> tuple[bytes, ...]:
        """Earlier run hashes of this run, one for each membership that it had."""
        raw = self.journal.get("known-as")
        return () if raw is None else tuple(canonical.decode(raw))

    @property
    def epoch_wanted(self) -> bool:
        """The coordinator asked for another membership while a round was being closed."""
        return self.journal.get("epoch-wanted") is not None

    @property
    def keys(self) -> EpochKeys:
        keys = self.record(EpochKeys, "keys")
        if keys is None:
            raise ValueError("no epoch keys")
        return keys

    @property
    def he_keys(self) -> HeKeys | None:
        """The maker's announcement, in homomorphic mode."""
        return self.record(HeKeys, "he-keys")

    @property
    def agreed_roster(self) -> Digest:
        """What the n acknowledgements of the epoch stand under; see `NodeMemory.agreed_roster`."""
        roster_hash, announced = self.keys.roster_hash, self.he_keys
        if announced is None:
            return roster_hash
        return agreed_hash(roster_hash, context_in(announced, self.manifest, roster_hash))

    @property
    def ready(self) -> EpochReady | None:
        return self.record(EpochReady, "ready")

    @property
    def last_ready(self) -> EpochReady | None:
        """Of the epoch before the one that is open, with the same members; None if there was none."""
        return self.record(EpochReady, "last-ready")

    @property
    def adverts(self) -> dict[NodeId, KeyAdvert]:
        return self._by_node(KeyAdvert, "advert/")

    def advert(self, node: NodeId) -> KeyAdvert | None:
        """One member's key advert of the epoch."""
        return self.record(KeyAdvert, f"advert/{node}")

    @property
    def epoch_acks(self) -> dict[NodeId, EpochAck]:
        return self._by_node(EpochAck, "epoch-ack/")

    @property
    def closing(self) -> Closing:
        closing = self.record(Closing, "closing")
        if closing is None:
            raise ValueError("no run is open")
        return closing

    @property
    def certificate(self) -> Certificate | None:
        return self.record(Certificate, "certificate")

    @property
    def state(self) -> ServerState:
        """All of it, in memory."""
        return self.stored_state.load()

    @property
    def stored_state(self) -> StoredState:
        """The state where the journal holds it, until another takes its place."""
        return self.state_at("state")

    @property
    def state_vector(self) -> StoredVector:
        """Its encoding, as it is offered to nodes that take it over."""
        vector = self.journal.vector("state")
        if vector is None:
            raise ValueError("no run is open")
        return vector

    @property
    def plan(self) -> Plan:
        plan = self.record(Plan, "plan")
        if plan is None:
            raise ValueError("no round is open")
        return plan

    @property
    def bundles(self) -> dict[NodeId, UploadBundle]:
        return self._by_node(UploadBundle, "bundle/")

    @property
    def uploaded(self) -> tuple[NodeId, ...]:
        """Whose upload is complete (without reading what they uploaded)."""
        return tuple(NodeId(key.removeprefix("bundle/")) for key in self.journal.keys("bundle/"))

    @property
    def survivors(self) -> tuple[NodeId, ...]:
        """S, once it is fixed; fixed once per attempt."""
        return self.read("survivors", _decode_names) or ()

    @property
    def signatures(self) -> dict[NodeId, SurvivorSignature]:
        return self._by_node(SurvivorSignature, "signature/")

    @property
    def refusals(self) -> dict[NodeId, Refusal]:
        return self._by_node(Refusal, "refusal/")

    @property
    def reveals(self) -> dict[NodeId, Reveal]:
        return self._by_node(Reveal, "reveal/")

    @property
    def decrypt_request(self) -> DecryptRequest | None:
        return self.record(DecryptRequest, "decrypt-request")

    @property
    def asked(self) -> frozenset[NodeId]:
        """Who was asked to decrypt in this attempt."""
        return self._names("asked")

    @property
    def decrypted(self) -> dict[NodeId, UploadBundle]:
        """The headers of the sums that nodes decrypted in this attempt."""
        return self._by_node(UploadBundle, "decrypted/")

    @property
    def result(self) -> Result | None:
        return self.record(Result, "result")

    @property
    def result_acks(self) -> dict[NodeId, ResultAck]:
        return self._by_node(ResultAck, "result-ack/")

    @property
    def void_request(self) -> VoidRequest | None:
        return self.record(VoidRequest, "void-request")

    @property
    def void_acks(self) -> dict[NodeId, VoidAck]:
        return self._by_node(VoidAck, "void-ack/")

    @property
    def excluded(self) -> frozenset[NodeId]:
        """Named by refusals; out of this round's further attempts."""
        return self._names("excluded")

    @property
    def awaited(self) -> frozenset[NodeId]:
        """Hospitals that the survivor history asks for; S is not fixed without them."""
        return self._names("awaited")

    def _names(self, key: str) -> frozenset[NodeId]:
        return frozenset(self.read(key, _decode_names) or ())

    @property
    def abort(self) -> Abort | None:
        return self.record(Abort, "abort")

    @property
    def summaries(self) -> list[dict[str, object]]:
        """One readable summary per closed round, in order. None changes once it is written, so each is decoded once."""
        for key in self.journal.keys("summary/")[len(self._summaries) :]:
            raw = self.journal.get(key)
            if raw is not None:
                self._summaries.append(canonical.decode(raw))
        return list(self._summaries)

    def under(self, *prefixes: str) -> list[str]:
        """Every key under one of the prefixes (to be deleted)."""
        return [key for prefix in prefixes for key in self.journal.keys(prefix)]


def encode_names(nodes: Iterable[NodeId]) -> bytes:
    return canonical.encode(sorted(nodes))


def _decode_names(raw: bytes) -> tuple[NodeId, ...]:
    return tuple(NodeId(node) for node in canonical.decode(raw))


def summary_key(round_number: int) -> str:
    """Sorts by round."""
    return f"summary/{round_number:08d}"
