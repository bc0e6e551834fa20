"""A dishonest or broken node at the aggregator: its word is refused, nothing changes, the others' round goes on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation, RunAborted
from fedvlm_secure.ring.vector import check_words
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import (
    KeyAdvert,
    NodeMessage,
    Refusal,
    ResultAck,
    Reveal,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
)
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, NodeId, Words
from tests.support.cohort import Cohort
from tests.support.entropy import words
from tests.support.liars import restate

EVIL = NodeId("a")  # the first in roster order, so that the others still wait for what it says
OTHER = Digest(bytes([7]) * 32)


class Held:
    """Four hospitals; what a sends of one kind is held back for the test to lie about."""

    def __init__(self, kind: type[Any], *, n: int = 4, rounds: int = 1) -> None:
        self.kind, self.held = kind, list[Any]()
        self.cohort = Cohort(n, dimension=20, rounds=rounds, tap=self._tap)
        self.federation = self.cohort.federation
        self.open = True
        self.cohort.run(until=lambda _: bool(self.held))
        self.message: Any = self.held[0]
        self.signer = self.federation.nodes[EVIL].own.signer
        self.open = False

    def _tap(self, direction: str, node: NodeId, message: object) -> bool:
        if direction == "up" and node == EVIL and isinstance(message, self.kind) and self.open:
            self.held.append(message)
            return False
        return True

    def lie(self, **changes: Any) -> Any:
        """The held statement with other fields, signed by a."""
        return restate(self.message, self.signer, **changes)

    def journal(self) -> dict[str, bytes]:
        journal = self.federation.aggregator_self.memory.journal
        assert isinstance(journal, MemoryJournal)
        return dict(journal.content)

    def refused(self, message: NodeMessage, code: str, node: NodeId = EVIL) -> None:
        before = self.journal()
        with pytest.raises(PeerViolation) as caught:
            self.federation.aggregator.receive(node, message, self.federation.now_s)
        assert caught.value.code == code
        assert self.journal() == before

    def goes_on(self, survivors: str = "abcd") -> None:
        """The honest message arrives after all and the run ends well."""
        self.say()
        self.cohort.run()
        assert self.cohort.summaries()[0]["survivors"] == list(survivors)

    def say(self) -> None:
        outbox = self.federation.aggregator.receive(EVIL, self.message, self.federation.now_s)
        for entry in outbox:
            self.federation.deliver(entry)


@pytest.mark.parametrize("kind", [KeyAdvert, UploadBundle, SurvivorSignature, Reveal, ResultAck])
def test_node_that_speaks_in_anothers_name_is_refused(kind: type[Any]) -> None:
    held = Held(kind)
    if kind is UploadBundle:
        header = restate(held.message.header, held.signer, node=NodeId("b"))
        lie = dataclasses.replace(held.message, header=header)
        with pytest.raises(PeerViolation, match="in the name of"):
            held.federation.aggregator.check_upload(EVIL, lie)
    else:
        lie = held.lie(node=NodeId("b"))
    held.refused(lie, "WRONG_NAME")
    held.refused(lie, "BAD_SIGNATURE", node=NodeId("b"))
    held.goes_on()


@pytest.mark.parametrize("kind", [KeyAdvert, SurvivorSignature, Reveal, ResultAck])
def test_statement_signed_by_another_key_is_refused(kind: type[Any]) -> None:
    held = Held(kind)
    held.refused(restate(held.message, held.federation.nodes[NodeId("b")].own.signer), "BAD_SIGNATURE")
    held.goes_on()


STATEMENT_LIES: list[tuple[type[Any], dict[str, Any], str]] = [
    (KeyAdvert, {"epoch": 1}, "BAD_KEYS"),
    (KeyAdvert, {"run_hash": OTHER}, "BAD_KEYS"),
    (SurvivorSignature, {"survivors": OTHER}, "BAD_SURVIVOR_SIGNATURE"),
    (SurvivorSignature, {"ctx": OTHER}, "BAD_SURVIVOR_SIGNATURE"),
    (Reveal, {"ctx": OTHER}, "BAD_REVEAL"),
    (Reveal, {"self_shares": (bytes(33),) * 4}, "BAD_REVEAL"),
    (Reveal, {"leaves": (OTHER,) * 16}, "BAD_REVEAL"),
    (Reveal, {"pair_shares": (bytes(33),)}, "BAD_REVEAL"),
    (ResultAck, {"state_hash": OTHER}, "BAD_ACK"),
    (ResultAck, {"result_hash": OTHER}, "BAD_ACK"),
]


@pytest.mark.parametrize(("kind", "changes", "code"), STATEMENT_LIES)
def test_false_statement_of_a_member_is_refused(kind: type[Any], changes: dict[str, Any], code: str) -> None:
    held = Held(kind)
    held.refused(held.lie(**changes), code)
    held.goes_on()


def test_second_key_in_one_epoch_is_refused() -> None:
    held = Held(KeyAdvert)
    held.federation.aggregator_self.memory.commit({"advert/a": held.message})
    held.refused(held.lie(public=bytes(range(32))), "SECOND_KEY")
    held.goes_on()


def test_refusal_for_another_attempt_is_refused() -> None:
    held = Held(SurvivorSignature)
    fields = {"node": EVIL, "ctx": OTHER, "code": "BAD_DEALER", "nodes": (NodeId("b"),)}
    held.refused(held.signer.sign(Refusal, **fields), "UNEXPECTED_MESSAGE")
    held.goes_on()


def bundle_lies(held: Held) -> dict[str, tuple[str, UploadBundle]]:
    bundle: UploadBundle = held.message
    header = bundle.header
    replaced = dataclasses.replace
    blob = bundle.sealed[0] + b"x"
    hashes = (Digest(hashlib.sha256(blob).digest()), *header.sealed_hashes[1:])
    too_long = replaced(
        bundle, sealed=(blob, *bundle.sealed[1:]), header=restate(header, held.signer, sealed_hashes=hashes)
    )
    flipped = bytes([bundle.sealed[0][0] ^ 1]) + bundle.sealed[0][1:]
    return {
        "share not matching its hash": ("BAD_UPLOAD", replaced(bundle, sealed=(flipped, *bundle.sealed[1:]))),
        "share missing": ("BAD_UPLOAD", replaced(bundle, sealed=bundle.sealed[1:])),
        "share too long, and signed for": ("BAD_UPLOAD", too_long),
        "leaf not under the share root": (
            "BAD_UPLOAD",
            replaced(bundle, holder_digests=(OTHER, *bundle.holder_digests[1:])),
        ),
        "a leaf missing": ("BAD_UPLOAD", replaced(bundle, holder_digests=bundle.holder_digests[1:])),
        "no leaf": ("BAD_UPLOAD", replaced(bundle, holder_digests=())),
        "words": ("BAD_HEADER", replaced(bundle, header=restate(header, held.signer, words=header.words + 1))),
        "ctx": ("BAD_HEADER", replaced(bundle, header=restate(header, held.signer, ctx=OTHER))),
        "commitments": ("BAD_HEADER", replaced(bundle, header=restate(header, held.signer, pair_commitments=()))),
        "unsigned": ("BAD_SIGNATURE", replaced(bundle, header=replaced(header, self_commitment=OTHER))),
    }


BUNDLE_LIES = [
    "share not matching its hash", "share missing", "share too long, and signed for",
    "leaf not under the share root", "a leaf missing",
    "no leaf", "words", "ctx", "commitments", "unsigned",
]  # fmt: skip


@pytest.mark.parametrize("lie", BUNDLE_LIES)
def test_upload_that_is_not_what_its_header_commits_to_is_refused_before_a_byte_is_taken(lie: str) -> None:
    held = Held(UploadBundle)
    code, bundle = bundle_lies(held)[lie]
    with pytest.raises(PeerViolation) as caught:
        held.federation.aggregator.check_upload(EVIL, bundle)
    assert caught.value.code == code
    held.refused(bundle, code)
    held.goes_on()


VECTOR_LIES: dict[str, Callable[[bytes], bytes]] = {
    "one bit flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a word short": lambda content: content[:-8],
    "a byte short": lambda content: content[:-1],
    "a word long": lambda content: content + bytes(8),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize(
    ("lie", "signed"),
    [(lie, False) for lie in VECTOR_LIES] + [(lie, True) for lie in VECTOR_LIES if lie != "one bit flipped"],
)
def test_vector_of_another_content_or_length_is_dropped_and_can_be_sent_again(lie: str, signed: bool) -> None:
    held = Held(UploadBundle)
    spool, ctx = held.federation.spool, held.message.header.ctx
    honest = list(spool.chunks(ctx, EVIL))
    content = VECTOR_LIES[lie](b"".join(honest))
    spool.discard(ctx, EVIL)
    if content:
        spool.append(ctx, EVIL, content)
    bundle = held.message
    if signed:
        header = restate(bundle.header, held.signer, tree_root=chunk_root(content))
        bundle = dataclasses.replace(bundle, header=header)
    held.refused(bundle, "BAD_UPLOAD")
    assert spool.held_chunks(ctx, EVIL) == 0
    for chunk in honest:
        spool.append(ctx, EVIL, chunk)
    held.goes_on()


def poisoned(held: Held, change: Callable[[Words], Words]) -> None:
    """a signs for and uploads another masked vector than its machine made."""
    spool, bundle = held.federation.spool, held.message
    masked = np.frombuffer(b"".join(spool.chunks(bundle.header.ctx, EVIL)), dtype="<u8").astype(np.uint64)
    content = change(masked).astype("<u8").tobytes()
    spool.discard(bundle.header.ctx, EVIL)
    spool.append(bundle.header.ctx, EVIL, content)
    header = restate(bundle.header, held.signer, tree_root=chunk_root(content))
    held.message = dataclasses.replace(bundle, header=header)
    held.federation.nodes[EVIL].own.memory.commit({"round/bundle": held.message, "round/content": content})


def test_vector_of_noise_voids_the_round_and_the_model_stays() -> None:
    held = Held(UploadBundle, rounds=2)
    before = held.federation.state.digest
    poisoned(held, lambda masked: words("noise", len(masked)))
    held.say()
    held.cohort.run()
    first, second = held.cohort.summaries()
    assert (first["void"], second["void"]) == (True, False)
    assert held.federation.state.digest != before
    mean = held.cohort.mean_update(1, "abcd")
    assert np.abs(held.federation.state.model - mean).max() < 0.01


def test_scalar_that_wraps_the_cohorts_weight_to_zero_ends_the_run_cleanly() -> None:
    held = Held(UploadBundle)
    manifest = held.federation.aggregator_self.memory.manifest
    vector = vector_of(manifest)
    weight = round(100 / 4096 * 2**16)

    def change(masked: Words) -> Words:
        payload = np.zeros(vector.payload_words, dtype=np.uint64)
        payload[vector.lane_words + vector.scalars.index("weight")] = np.uint64((1 << 64) - 4 * weight)
        changed: Words = masked + np.concatenate([payload, check_words(payload)])
        return changed

    poisoned(held, change)
    held.say()
    with pytest.raises(RunAborted) as caught:
        held.cohort.run()
    assert caught.value.code == "NO_WEIGHT"
    assert not held.federation.state.model.any()


def test_second_upload_of_one_attempt_is_refused() -> None:
    held = Held(UploadBundle)
    held.federation.aggregator_self.memory.commit({"bundle/a": held.message})
    other = dataclasses.replace(held.message, header=restate(held.message.header, held.signer, self_commitment=OTHER))
    held.refused(other, "UNEXPECTED_MESSAGE")


def test_roster_member_without_a_part_in_this_run_has_no_say_in_it() -> None:
    cohort = Cohort(5, rounds=1)
    federation = cohort.federation
    federation.drop(NodeId("e"))
    cohort.run(until=Phase.SIGN)
    memory, e = federation.aggregator_self.memory, federation.nodes[NodeId("e")].own
    plan_ctx = memory.bundles[NodeId("b")].header.ctx
    journal = memory.journal
    assert isinstance(journal, MemoryJournal)
    before = dict(journal.content)
    statements: Iterator[NodeMessage] = iter(
        (
            e.signer.sign(SurvivorSignature, node=e.me, ctx=plan_ctx, survivors=OTHER),
            e.signer.sign(Refusal, node=e.me, ctx=plan_ctx, code="BAD_DEALER", nodes=(NodeId("b"),)),
            e.signer.sign(VoidAck, node=e.me, run_hash=OTHER, round=0, previous_result=OTHER, state_hash=OTHER),
        )
    )
    for statement in statements:
        with pytest.raises(PeerViolation) as caught:
            federation.aggregator.receive(e.me, statement, federation.now_s)
        assert caught.value.code == "NOT_IN_RUN"
    assert journal.content == before
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == list("abcd")
