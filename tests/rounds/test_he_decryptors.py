"""Hospitals that are asked to decrypt the sum: those that lie, stay silent or leave, and how the round goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation, UnexpectedMessage
from fedvlm_secure.ring.vector import check_words
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase
from fedvlm_secure.rounds.he_aggregator import EncryptedRound
from fedvlm_secure.rounds.he_terms import carriage_of, sum_context
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.masking import bare_upload
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import Abort, DecryptRequest, Plan, Result, SurvivorSignature, UploadBundle
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.types import Digest, NodeId
from tests.support.cohort import Cohort
from tests.support.liars import restate

A, B, C, D, E = (NodeId(name) for name in "abcde")
LEAVES = Abort(code="HE_KEY_BURNT", cause="this hospital cannot decrypt", hint="")


class Decryptors:
    """An encrypted cohort in which what the hospitals decrypted is held back: the test sends what it likes."""

    def __init__(self, n: int = 5, **changes: Any) -> None:
        self.sums: dict[NodeId, tuple[UploadBundle, bytes]] = {}
        self.asked: list[NodeId] = []
        self.attempts: set[tuple[int, int]] = set()
        self.silent: set[NodeId] = set()
        self.unsigned: set[NodeId] = set()
        self.cohort = Cohort(n, dimension=9001, protection={"method": "bfv"}, tap=self._tap, **changes)
        self._honest = self.federation._upload
        self.federation._upload = self._hold  # type: ignore[method-assign]

    @property
    def federation(self) -> Federation:
        return self.cohort.federation

    @property
    def memory(self) -> AggregatorMemory:
        return self.federation.aggregator_self.memory

    @property
    def phase(self) -> Phase:
        return self.cohort.phase

    def _tap(self, direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, DecryptRequest):
            self.asked.append(node)
            return node not in self.silent
        if isinstance(message, Plan):
            self.attempts.add((message.round, message.attempt))
        return not (direction == "up" and isinstance(message, SurvivorSignature) and node in self.unsigned)

    def _hold(self, node: NodeId, bundle: UploadBundle, content: bytes) -> None:
        if self.phase is Phase.DECRYPT:
            self.sums[node] = (bundle, content)
        else:
            self._honest(node, bundle, content)

    def wait(self, until: Callable[[], bool]) -> None:
        self.federation.run(lambda _: until(), limit_s=self.federation.now_s + 500.0)

    def wait_s(self, seconds: float) -> None:
        end_s = self.federation.now_s + seconds
        self.wait(lambda: self.federation.now_s >= end_s)

    def decrypted(self, *nodes: NodeId) -> None:
        """Until these hospitals have decrypted."""
        self.wait(lambda: set(nodes) <= set(self.sums))

    def send(self, node: NodeId, bundle: UploadBundle, content: bytes) -> None:
        """As the service does: the header is checked, then the words are spooled, then the machine has the bundle.

        Raises:
            PeerViolation: what the aggregator answers.
        """
        aggregator = self.federation.aggregator
        aggregator.check_upload(node, bundle)
        self.federation.spool.append(bundle.header.ctx, node, content)
        self.federation._deliver(aggregator.receive(node, bundle, self.federation.now_s))

    def send_honest(self, *nodes: NodeId) -> None:
        for node in nodes:
            self.send(node, *self.sums[node])

    def leave(self, node: NodeId) -> None:
        """The hospital's key is burnt: it says so and goes."""
        self.federation.nodes[node].stopped = True
        self.federation._deliver(self.federation.aggregator.receive(node, LEAVES, self.federation.now_s))

    def lie(self, node: NodeId, content: bytes, **changes: Any) -> UploadBundle:
        """A bundle for other words, or with other fields, properly signed."""
        bundle, _ = self.sums[node]
        signer = self.federation.nodes[node].own.signer
        return replace(bundle, header=restate(bundle.header, signer, tree_root=chunk_root(content), **changes))

    def altered(self, node: NodeId) -> bytes:
        """Another sum, whose check words fit."""
        carriage = carriage_of(self.memory.manifest)
        words = np.frombuffer(self.sums[node][1], dtype="<u8").copy()
        words[0] += np.uint64(1)
        payload = carriage.format.payload_words
        words[payload : carriage.format.words] = check_words(words[:payload])
        return words.tobytes()

    def refused(
        self, node: NodeId, bundle: UploadBundle, content: bytes, error: type[PeerViolation], text: str
    ) -> None:
        """The aggregator does not take it, and knows no more than before."""
        before = self.memory.decrypted
        with pytest.raises(error, match=text):
            self.send(node, bundle, content)
        assert self.memory.decrypted == before

    def is_closed_void(self) -> bool:
        """The round is void, and no other attempt of it was ever opened."""
        self.cohort.federation.run(limit_s=self.federation.now_s + 500.0)
        return self.cohort.summaries()[0]["void"] is True and self.attempts == {(0, 0)}


def waiting(n: int = 5, **changes: Any) -> Decryptors:
    """The first two hospitals were asked and have decrypted; the aggregator has no sum yet."""
    decryptors = Decryptors(n, **changes)
    decryptors.decrypted(A, B)
    assert decryptors.asked == [A, B] and decryptors.phase is Phase.DECRYPT
    return decryptors


@pytest.mark.parametrize("liar", [A, B])
def test_decryptor_that_lies_is_outvoted_and_named(liar: NodeId) -> None:
    """It holds the group key, so its tags would fit: only another hospital's own decryption shows the lie."""
    decryptors = waiting()
    content = decryptors.altered(liar)
    for node in (A, B):
        if node == liar:
            decryptors.send(node, decryptors.lie(node, content), content)
        else:
            decryptors.send_honest(node)
    assert decryptors.phase is Phase.DECRYPT
    decryptors.decrypted(C)
    decryptors.send_honest(C)
    decryptors.cohort.run()
    summary = decryptors.cohort.summaries()[0]
    assert summary["disagreed"] == [liar]
    assert summary["decrypted_by"] == [node for node in (A, B, C) if node != liar]
    expected = decryptors.cohort.mean_update(0, over="abcde")
    assert np.abs(decryptors.federation.state.model - expected).max() < 2.0**-15 * 4096 / 100


def test_sum_of_one_hospital_alone_is_not_published() -> None:
    decryptors = waiting()
    decryptors.send_honest(A)
    decryptors.wait_s(5.0)
    assert decryptors.phase is Phase.DECRYPT and decryptors.memory.result is None
    decryptors.send_honest(B)
    assert isinstance(decryptors.memory.result, Result)


def test_sum_from_a_hospital_that_was_not_asked_is_not_taken() -> None:
    decryptors = waiting()
    _, content = decryptors.sums[A]
    header = decryptors.sums[A][0].header
    signer = decryptors.federation.nodes[E].own.signer
    bundle = bare_upload(words=header.words, root=header.tree_root, me=E, ctx=header.ctx, signer=signer)
    decryptors.refused(E, bundle, content, UnexpectedMessage, "was not asked to decrypt")
    decryptors.federation.spool.append(header.ctx, E, content)
    with pytest.raises(UnexpectedMessage, match="was not asked to decrypt"):  # the words came by another way
        decryptors.federation.aggregator.receive(E, bundle, decryptors.federation.now_s)
    assert decryptors.memory.decrypted == {}


def test_sum_in_another_hospitals_name_is_not_taken() -> None:
    decryptors = waiting()
    with pytest.raises(PeerViolation, match="b uploads in the name of a") as caught:
        decryptors.federation.aggregator.check_upload(B, decryptors.sums[A][0])
    assert caught.value.code == "BAD_UPLOAD"


@pytest.mark.parametrize(
    "changes",
    [{"words": -1}, {"words": 1}, {"pair_commitments": (Digest(bytes(32)),)}, {"sealed_hashes": (Digest(bytes(32)),)}],
    ids=["a word less", "a word more", "with a pair's commitment", "with a dealt share"],
)
def test_header_that_is_none_of_a_sum_is_refused(changes: dict[str, Any]) -> None:
    decryptors = waiting()
    bundle, content = decryptors.sums[A]
    if "words" in changes:
        changes = {"words": bundle.header.words + changes["words"]}
    false = decryptors.lie(A, content, **changes)
    decryptors.refused(A, false, content, PeerViolation, "does not fit a decrypted sum")


def test_sealed_shares_beside_a_sum_are_refused() -> None:
    decryptors = waiting()
    bundle, content = decryptors.sums[A]
    false = replace(bundle, sealed=(bytes(61),), holder_digests=(Digest(bytes(32)),))
    decryptors.refused(A, false, content, PeerViolation, "does not fit a decrypted sum")


def test_sum_whose_header_its_sender_did_not_sign_is_not_taken() -> None:
    decryptors = waiting()
    bundle, _ = decryptors.sums[A]
    foreign = restate(bundle.header, decryptors.federation.nodes[B].own.signer)
    with pytest.raises(PeerViolation) as caught:
        decryptors.federation.aggregator.check_upload(A, replace(bundle, header=foreign))
    assert caught.value.code == "BAD_SIGNATURE"


def test_second_sum_of_a_hospital_is_not_taken_and_a_repeat_changes_nothing() -> None:
    decryptors = waiting()
    decryptors.send_honest(A)
    content = decryptors.altered(A)
    decryptors.refused(A, decryptors.lie(A, content), content, UnexpectedMessage, "a decrypted already")
    before = decryptors.memory.decrypted
    decryptors.federation._deliver(
        decryptors.federation.aggregator.receive(A, decryptors.sums[A][0], decryptors.federation.now_s)
    )
    assert decryptors.memory.decrypted == before


@pytest.mark.parametrize("fault", ["other words", "fewer words"])
def test_words_that_are_not_the_signed_ones_are_dropped_and_may_come_again(fault: str) -> None:
    decryptors = waiting()
    bundle, content = decryptors.sums[A]
    if fault == "other words":
        false, words = bundle, decryptors.altered(A)
    else:
        false, words = decryptors.lie(A, content[:-8]), content[:-8]
    decryptors.refused(A, false, words, PeerViolation, "the sum of a is not the one it signed")
    assert decryptors.federation.spool.held_chunks(bundle.header.ctx, A) == 0
    decryptors.send_honest(A, B)
    assert decryptors.memory.result is not None


def test_header_of_another_context_brings_no_sum() -> None:
    """An update's header, or one of another attempt's sum, must not stand for a sum of this one."""
    decryptors = waiting()
    _, content = decryptors.sums[A]
    ctx = context_of(decryptors.memory.plan, decryptors.memory.manifest)
    steps = EncryptedRound(decryptors.federation.aggregator_self)
    for other in (ctx, sum_context(Digest(bytes(32)))):
        false = decryptors.lie(A, content, ctx=other)
        decryptors.refused(A, false, content, UnexpectedMessage, "not expected now")
        with pytest.raises(UnexpectedMessage, match="was not asked to decrypt"):
            steps.check_upload(A, false)
        decryptors.federation._deliver(decryptors.federation.aggregator.receive(A, false, decryptors.federation.now_s))
        assert decryptors.memory.decrypted == {}


def test_sum_that_comes_after_the_result_is_not_taken() -> None:
    decryptors = Decryptors()
    decryptors.silent = {A}
    decryptors.decrypted(B, C)
    decryptors.send_honest(B, C)
    assert decryptors.phase is Phase.CERTIFY and A in decryptors.memory.asked
    header, signer = decryptors.sums[B][0].header, decryptors.federation.nodes[A].own.signer
    late = bare_upload(words=header.words, root=header.tree_root, me=A, ctx=header.ctx, signer=signer)
    with pytest.raises(UnexpectedMessage, match="not expected now"):
        decryptors.federation.aggregator.check_upload(A, late)


def test_sum_that_rots_on_the_aggregators_disk_is_not_published() -> None:
    decryptors = waiting()
    decryptors.send_honest(A)
    key = (decryptors.sums[A][0].header.ctx, A)
    decryptors.federation.spool._chunks[key] = [decryptors.altered(A)]
    decryptors.send_honest(B)
    assert decryptors.memory.result is None
    assert decryptors.is_closed_void()


def test_sum_that_is_gone_from_the_aggregators_disk_is_not_published() -> None:
    decryptors = waiting()
    decryptors.send_honest(A)
    decryptors.federation.spool.discard(decryptors.sums[A][0].header.ctx, A)
    decryptors.send_honest(B)
    assert decryptors.memory.result is None
    assert decryptors.is_closed_void()


def test_round_in_which_nobody_is_left_to_decrypt_is_void_and_no_other_attempt_opens() -> None:
    decryptors = Decryptors(3)
    decryptors.silent = {A, B, C}
    decryptors.wait(lambda: decryptors.phase is not Phase.DECRYPT and bool(decryptors.asked))
    assert sorted(decryptors.asked) == [A, B, C]
    assert decryptors.is_closed_void()


def test_hospitals_that_said_they_leave_are_not_waited_for() -> None:
    decryptors = waiting(3)
    began_s = decryptors.federation.now_s
    decryptors.leave(C)
    decryptors.leave(A)
    assert decryptors.phase is Phase.VOID
    assert decryptors.federation.now_s == began_s


def test_hospital_whose_connection_broke_is_waited_for_before_the_round_is_void() -> None:
    decryptors = waiting(3)
    decryptors.federation.drop(C)
    decryptors.leave(A)
    decryptors.wait_s(5.0)
    assert decryptors.phase is Phase.DECRYPT
    decryptors.federation.connect(C)
    decryptors.decrypted(C)
    decryptors.send_honest(B, C)
    assert decryptors.memory.result is not None


def test_silent_decryptor_is_followed_by_the_next_one_after_the_deadline_and_not_before() -> None:
    decryptors = Decryptors()
    decryptors.silent = {A}
    decryptors.decrypted(B)
    decryptors.send_honest(B)
    decryptors.wait_s(float(decryptors.cohort.policy.cohort.deadline) - 5.0)
    assert decryptors.asked == [A, B]
    decryptors.wait_s(10.0)
    assert decryptors.asked == [A, B, C]


def test_decryptor_that_is_gone_is_followed_by_the_next_one_before_the_deadline() -> None:
    decryptors = Decryptors()
    decryptors.silent = {A}
    decryptors.decrypted(B)
    decryptors.send_honest(B)
    decryptors.federation.drop(A)
    decryptors.wait_s(float(decryptors.cohort.policy.cohort.deadline) - 5.0)
    assert decryptors.asked == [A, B, C]


def test_only_who_signed_the_set_is_asked() -> None:
    """Another would refuse: no hospital decrypts what it did not sign, and the wait for it would be lost."""
    decryptors = Decryptors()
    decryptors.unsigned = {A}
    decryptors.decrypted(B, C)
    assert decryptors.asked == [B, C]


def test_only_who_is_there_is_asked() -> None:
    decryptors = Decryptors()
    decryptors.wait(lambda: B in decryptors.memory.signatures)
    assert decryptors.phase is Phase.SIGN
    decryptors.federation.drop(B)
    decryptors.decrypted(A, C)
    assert decryptors.asked == [A, C] and B not in decryptors.memory.asked


def test_hospital_that_was_not_asked_is_sent_no_sum_when_it_connects_again() -> None:
    decryptors = waiting()
    decryptors.federation.drop(D)
    decryptors.federation.connect(D)
    decryptors.wait_s(2.0)
    assert decryptors.asked == [A, B]


def test_decrypted_sums_are_gone_from_the_spool_once_the_round_is_closed() -> None:
    decryptors = waiting()
    decryptors.send_honest(A, B)
    decryptors.cohort.run()
    assert decryptors.federation.spool._chunks == {}
