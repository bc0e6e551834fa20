"""Lies about the encrypted sum (A13): nothing is decrypted without a quorum, twice, or that is not the signed sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import Send, Upload
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import Abort, DecryptRequest, HeKeys, Result, ResultAck
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort
from tests.support.liars import restate

VICTIM = NodeId("a")


class Asked:
    """Three hospitals whose aggregator asks a to decrypt; the test speaks to a in its place."""

    def __init__(self, kind: type[Any] = DecryptRequest) -> None:
        self.held: list[Any] = []
        self.kind = kind
        self.cohort = Cohort(3, rounds=1, tap=self._tap, protection={"method": "bfv"})
        self.cohort.run(until=lambda _: bool(self.held))
        self.message = self.held[0]
        self.aggregator = self.cohort.federation.aggregator_self
        self.node = self.cohort.federation.nodes[VICTIM]
        root = self.message.sum_root
        self.content = self.cohort.federation.blobs.get(root) or b""

    def _tap(self, direction: str, node: NodeId, message: object) -> bool:
        if direction == "down" and node == VICTIM and isinstance(message, self.kind):
            self.held.append(message)
            return False
        return True

    def journal(self) -> dict[str, bytes]:
        journal = self.node.own.memory.journal
        assert isinstance(journal, MemoryJournal)
        return dict(journal.content)

    def lie(self, **changes: Any) -> Any:
        return restate(self.message, self.aggregator.signer, **changes)

    def refused(self, message: Any, code: str, content: bytes | None = None) -> None:
        before = self.journal()
        with pytest.raises(PeerViolation) as caught:
            self.node.run.receive(message, HeldVector(self.content if content is None else content))
        assert caught.value.code == code
        assert self.journal() == before

    def doubled(self) -> bytes:
        """The sum with every hospital in it twice: well formed, and not what was signed."""
        modulus = int(np.frombuffer(self.content, dtype="<u8").max()) + 1
        return ((np.frombuffer(self.content, dtype="<u8") * 2) % modulus).astype("<u8").tobytes()


def test_request_that_the_pinned_aggregator_did_not_sign_decrypts_nothing() -> None:
    asked = Asked()
    asked.refused(restate(asked.message, asked.cohort.federation.nodes[NodeId("b")].own.signer), "BAD_SIGNATURE")
    (upload,) = asked.node.run.receive(asked.message, HeldVector(asked.content))
    assert isinstance(upload, Upload)


def test_request_without_t_signatures_decrypts_nothing() -> None:
    asked = Asked()
    asked.refused(asked.lie(signatures=asked.message.signatures[:1]), "NO_QUORUM")


def test_sum_that_the_request_does_not_name_is_not_decrypted() -> None:
    asked = Asked()
    asked.refused(asked.message, "BAD_ENCRYPTED_SUM", asked.doubled())


@pytest.mark.parametrize("restarted", [False, True])
def test_second_sum_of_a_round_is_not_decrypted_and_the_first_gets_the_same_bytes(restarted: bool) -> None:
    asked = Asked()
    (first,) = asked.node.run.receive(asked.message, HeldVector(asked.content))
    assert isinstance(first, Upload)
    if restarted:
        asked.cohort.federation.drop(VICTIM)
        asked.cohort.federation.connect(VICTIM)
        asked.node = asked.cohort.federation.nodes[VICTIM]
    other = asked.doubled()
    asked.refused(asked.lie(sum_root=chunk_root(other)), "ALREADY_REVEALED", other)
    (again,) = asked.node.run.receive(asked.message, HeldVector(asked.content))
    assert isinstance(again, Upload)
    assert (again.bundle, again.content) == (first.bundle, first.content)


def test_sum_that_nobody_signed_for_burns_the_key_for_good() -> None:
    asked = Asked()
    other = asked.doubled()
    actions = asked.node.run.receive(asked.lie(sum_root=chunk_root(other)), HeldVector(other))
    assert [action.message.code for action in actions if isinstance(action, Send)] == ["HE_KEY_BURNT"]  # type: ignore[union-attr]
    assert asked.node.own.memory.group_secrets is None
    told = asked.node.run.receive(asked.message, HeldVector(asked.content))
    assert all(not isinstance(action, Upload) for action in told)
    assert [type(action.message) for action in told if isinstance(action, Send)] == [Abort]


def test_published_sum_whose_tags_do_not_fit_is_not_acknowledged() -> None:
    asked = Asked(Result)
    words = np.frombuffer(asked.content, dtype="<u8").copy()
    words[0] += 1
    false = words.tobytes()
    asked.refused(asked.lie(sum_root=chunk_root(false)), "HE_SUM_FALSE", false)
    actions = asked.node.run.receive(asked.message, HeldVector(asked.content))
    assert any(isinstance(action, Send) and isinstance(action.message, ResultAck) for action in actions)


def test_second_key_of_an_epoch_is_refused() -> None:
    nodes = Asked().cohort.federation.nodes
    known = nodes[NodeId("b")].own.memory.he_keys
    assert known is not None
    lie = restate(known, nodes[VICTIM].own.signer, sealed=known.sealed[::-1])
    with pytest.raises(PeerViolation) as caught:
        nodes[NodeId("b")].run.receive(lie)
    assert caught.value.code == "HE_KEY_REFUSED"


def test_key_that_its_maker_did_not_sign_is_refused() -> None:
    held: list[HeKeys] = []

    def tap(direction: str, node: NodeId, message: object) -> bool:
        if direction == "down" and node == "b" and isinstance(message, HeKeys):
            held.append(message)
            return False
        return True

    cohort = Cohort(3, rounds=1, tap=tap, protection={"method": "bfv"})
    cohort.run(until=lambda f: bool(held) and f.nodes[NodeId("b")].own.memory.epoch_keys is not None)
    nodes = cohort.federation.nodes
    with pytest.raises(PeerViolation) as caught:
        nodes[NodeId("b")].run.receive(restate(held[0], nodes[NodeId("c")].own.signer))
    assert caught.value.code == "BAD_SIGNATURE"
    assert nodes[NodeId("b")].own.memory.group_secrets is None
    nodes[NodeId("b")].run.receive(held[0])
    assert nodes[NodeId("b")].own.memory.group_secrets is not None
