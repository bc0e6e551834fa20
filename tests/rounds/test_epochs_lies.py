"""An aggregator that lies when the membership changes: other starts, older ones, invented ones, old approvals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.rounds.manifest import make_manifest
from fedvlm_secure.secagg.messages import EpochAck, EpochReady, KeyAdvert, OpenEpoch
from fedvlm_secure.types import Digest, NodeId
from tests.support.liars import LyingAggregator, held, restate, sent

OTHER = Digest(bytes(range(32)))


class Changing(LyingAggregator):
    """Two rounds are closed honestly; then the membership changes. `f` is on every roster and was never there."""

    def __init__(self) -> None:
        super().__init__(5)
        plan = self.plan()
        certificate = self.close(plan, self.run_attempt(plan, "abcde"), "abcde")
        plan = self.plan(certificate=certificate)
        self.close(plan, self.run_attempt(plan, "abcde"), "abcde")
        self.state = self.node("a").own.memory.state
        self.approve_again()

    def next_epoch(self, members: str = "abcd", epoch: int = 1, **changes: Any) -> OpenEpoch:
        """The honest opening of the next epoch for these members, with any field of the manifest changed."""
        own = self.node("a").own
        manifest = make_manifest(
            own.policy,
            run_id=self.manifest.run_id,
            nodes=tuple(NodeId(node) for node in members),
            base_fingerprint=own.base_fingerprint,
            layout_digest=own.layout.digest,
            dimension=own.layout.dimension,
            aggregator=own.aggregator,
            start_epoch=epoch,
            start=self.closing("a"),
        )
        manifest = dataclasses.replace(manifest, **changes)
        return self.signer.sign(OpenEpoch, manifest=manifest, epoch=epoch, first_round=manifest.start_round)


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"start_state": OTHER}, "BAD_START"),
        ({"start_result": OTHER}, "BAD_START"),
        ({"start_round": 1}, "ROLLED_BACK"),
        ({"start_round": 0}, "ROLLED_BACK"),
        ({"start_epoch": 2}, "BAD_EPOCH"),
        ({"start_epoch": 0}, "BAD_EPOCH"),
        ({"run_id": bytes(16), "start_epoch": 0, "start_round": 0}, "BAD_EPOCH"),
        ({"nodes": tuple(map(NodeId, ("a", "b", "c", "sybil")))}, "ROSTER_OUTDATED"),
        ({"nodes": tuple(map(NodeId, "bcde"))}, "MANIFEST_MISMATCH"),
        ({"nodes": tuple(map(NodeId, "abcde"))}, "MANIFEST_MISMATCH"),  # the thresholds of four for five
        ({"rounds": 99}, "MANIFEST_MISMATCH"),
    ],
)
def test_change_of_members_with_a_lie_in_it_is_refused_and_changes_nothing(lie: dict[str, Any], code: str) -> None:
    liar = Changing()
    liar.refused("a", liar.next_epoch(**lie), code)
    assert sent(liar.tell("a", liar.next_epoch()), KeyAdvert)


def test_epoch_number_serves_one_manifest() -> None:
    liar = Changing()
    liar.tell("a", liar.next_epoch("abcd"))
    liar.approve_again()
    liar.refused("a", liar.next_epoch("abce"), "BAD_EPOCH")
    assert sent(liar.tell("a", liar.next_epoch("abce", epoch=2)), KeyAdvert)


def test_approval_of_the_first_membership_does_not_serve_the_second() -> None:
    liar = Changing()
    liar.tell("a", liar.next_epoch("abcd"))
    liar.refused("a", liar.next_epoch("abce", epoch=2), "APPROVAL_USED")


def test_membership_that_was_left_does_not_come_back() -> None:
    liar = Changing()
    old = liar.open_epoch()
    liar.set_up(liar.next_epoch("abcde"))
    liar.approve_again()
    liar.refused("a", old, "BAD_EPOCH")
    liar.refused("a", restate(old, liar.signer, epoch=2), "BAD_EPOCH")


def test_two_starts_for_two_hospitals_end_in_no_agreement() -> None:
    """b is shown a later round than it closed, so that it would take a state over; the others are told the truth."""
    liar = Changing()
    honest = liar.next_epoch("abcd")
    invented = ServerState(np.ones(20, dtype=np.float32), liar.state.slots, liar.state.numbers)
    lie = liar.next_epoch("abcd", start_round=3, start_result=OTHER, start_state=invented.digest)
    adverts = []
    for name in "abcd":
        told = (lie, invented.to_bytes()) if name == "b" else (honest, None)
        adverts.append(sent(liar.tell(name, *told), KeyAdvert))
    assert [advert.holds_start for advert in adverts] == [True, False, True, True]
    liar.refused("a", liar.keys(honest, adverts), "BAD_KEYS")
    liar.refused("b", liar.keys(lie, adverts), "BAD_KEYS")
    assert liar.closing("b") == liar.closing("a")
    liar.approve_again()
    liar.set_up(liar.next_epoch("abcd", epoch=2))
    assert liar.node("b").own.memory.state.digest == liar.state.digest


def test_state_that_no_hospital_computed_is_taken_over_by_nobody() -> None:
    """Every hospital is told that it is behind: each would believe the others."""
    liar = Changing()
    invented = ServerState(np.ones(20, dtype=np.float32), liar.state.slots, liar.state.numbers)
    opened = liar.next_epoch("abcd", start_round=3, start_result=OTHER, start_state=invented.digest)
    adverts = [sent(liar.tell(name, opened, invented.to_bytes()), KeyAdvert) for name in "abcd"]
    for name in "abcd":
        liar.refused(name, liar.keys(opened, adverts), "START_UNVOUCHED")
        assert liar.node(name).own.memory.state.digest == liar.state.digest


def test_as_many_vouchers_as_may_lie_are_not_enough() -> None:
    liar = Changing()
    invented = ServerState(np.ones(20, dtype=np.float32), liar.state.slots, liar.state.numbers)
    opened = liar.next_epoch("abcd", start_round=3, start_result=OTHER, start_state=invented.digest)
    adverts = [sent(liar.tell(name, opened, invented.to_bytes()), KeyAdvert) for name in "abcd"]
    adverts[3] = restate(adverts[3], liar.signer_of("d"), holds_start=True)
    liar.refused("a", liar.keys(opened, adverts), "START_UNVOUCHED")


@pytest.mark.parametrize("attached", ["nothing", "another state", "no state", "other memory"])
def test_state_to_take_over_is_the_one_that_the_manifest_names(attached: str) -> None:
    liar = Changing()
    simulated = liar.node("e")
    extra = ServerState(liar.state.model, {"m": np.zeros(20)})
    named = extra if attached == "other memory" else liar.state
    opened = liar.next_epoch("abce", start_round=3, start_result=OTHER, start_state=named.digest)
    content = {
        "nothing": None,
        "another state": ServerState(np.ones(20, dtype=np.float32)).to_bytes(),
        "no state": b"x",
        "other memory": extra.to_bytes(),
    }[attached]
    with pytest.raises(PeerViolation) as caught:
        simulated.run.receive(opened, held(content))
    assert caught.value.code == "BAD_STATE"


def test_state_is_taken_over_only_once_all_members_acknowledged_it() -> None:
    """One acknowledgement short, the node still stands where it stood, through a restart too."""
    liar = Changing()
    later = ServerState(np.ones(20, dtype=np.float32), liar.state.slots, liar.state.numbers)
    opened = liar.next_epoch("abcd", start_round=3, start_result=OTHER, start_state=later.digest)
    adverts = [sent(liar.tell(name, opened, later.to_bytes()), KeyAdvert) for name in "abcd"]
    adverts = [restate(one, liar.signer_of(one.node), holds_start=one.node != "a") for one in adverts]
    keys = liar.keys(opened, adverts)
    acks = tuple(sent(liar.tell(name, keys), EpochAck) for name in "abcd")
    before = liar.closing("a")
    liar.refused("a", EpochReady(roster_hash=keys.roster_hash, acks=acks[:3]), "NO_AGREEMENT")
    liar.restart("a")
    assert liar.closing("a") == before
    liar.tell("a", EpochReady(roster_hash=keys.roster_hash, acks=acks))
    assert liar.closing("a").state_hash == later.digest == liar.node("a").own.memory.state.digest


def test_void_request_between_the_opening_and_the_agreement_is_not_answered() -> None:
    liar = Changing()
    opened = liar.next_epoch("abcd")
    liar.tell("a", opened)
    liar.refused("a", liar.void_request(run_hash=opened.manifest.run_hash), "UNEXPECTED_MESSAGE")


def test_node_that_was_in_another_run_since_is_not_rolled_back_either() -> None:
    liar = Changing()
    first, honest = liar.manifest, liar.next_epoch("abcde")
    back = liar.next_epoch("abcde", start_round=1)
    liar.set_up(liar.another_run())
    assert liar.manifest.run_id != first.run_id
    liar.approve_again()
    content = liar.state.to_bytes()
    liar.refused("a", back, "ROLLED_BACK", content)
    liar.refused("a", liar.signer.sign(OpenEpoch, manifest=first, epoch=0, first_round=0), "BAD_EPOCH")
    advert = sent(liar.tell("a", honest, content), KeyAdvert)
    assert advert.holds_start
