"""Lies at set-up (A5, A12): extra or missing nodes, weaker thresholds, used approvals, weak and echoed keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.secagg.messages import EpochAck, EpochReady, KeyAdvert
from fedvlm_secure.types import Digest, NodeId
from tests.support.liars import LyingAggregator, restate, sent

OTHER = Digest(bytes([7]) * 32)

MANIFEST_LIES: dict[str, dict[str, Any]] = {
    "an extra node that no roster pins": {
        "nodes": tuple(map(NodeId, ("a", "b", "c", "d", "sybil"))),
        "threshold": 4,
        "min_survivors": 4,
    },
    "a cohort without this node": {
        "nodes": tuple(map(NodeId, "bcd")),
        "colluding": 0,
        "threshold": 2,
        "min_survivors": 3,
    },
    "one node counted twice": {"nodes": tuple(map(NodeId, "aabc"))},
    "nodes out of order": {"nodes": tuple(map(NodeId, "dcba"))},
    "a weaker threshold": {"threshold": 2},
    "no colluding node tolerated": {"colluding": 0},
    "fewer survivors": {"min_survivors": 2},
    "no protection": {"protection": "none"},
    "another policy": {"policy_hash": OTHER},
    "another base model": {"base_fingerprint": OTHER},
    "another layout": {"layout_digest": OTHER},
    "another dimension": {"dimension": 21},
    "fewer lanes": {"lanes_per_word": 2},
    "a larger clip": {"max_update": 1.0},
    "a finer scale": {"scale_bits": 99},
    "other scalars": {"scalars": ("weight",)},
    "other privacy": {"privacy": "dp_sgd"},
    "other noise": {"noise_multiplier": 0.5},
    "more rounds": {"rounds": 1000},
    "longer epochs": {"epoch_rounds": 1000},
    "another hash": {"hash_name": "md5"},
    "another cipher": {"cipher_name": "aes128-ctr"},
    "another aggregator": {"aggregator": bytes(32)},
    "another version": {"versions": ("0.0.0",)},
    "a version more": {"versions": ("0.0.0", "0.1.0")},
    "a start at another epoch": {"start_epoch": 1},
    "a start at a later round": {"start_round": 1},
    "a start after a result that is none": {"start_result": OTHER},
    "a start from another state": {"start_state": OTHER},
}
CODES = {
    "an extra node that no roster pins": "ROSTER_OUTDATED",
    "a start at another epoch": "BAD_EPOCH",
    "a start at a later round": "BAD_EPOCH",
    "a start after a result that is none": "BAD_START",
    "a start from another state": "BAD_START",
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a5_manifest_that_this_node_does_not_compute_itself_is_refused(lie: str) -> None:
    liar = LyingAggregator(4)
    opened = liar.another_run()
    manifest = dataclasses.replace(opened.manifest, **MANIFEST_LIES[lie])
    liar.refused("a", restate(opened, liar.signer, manifest=manifest), CODES.get(lie, "MANIFEST_MISMATCH"))
    assert sent(liar.tell("a", opened), KeyAdvert)


def test_a5_every_field_of_the_manifest_has_its_lie() -> None:
    told = {field for lie in MANIFEST_LIES.values() for field in lie}
    assert told == {f.name for f in dataclasses.fields(LyingAggregator(4).manifest)} - {"run_id"}


@pytest.mark.parametrize(
    ("asked", "kept", "code"),
    [
        ({"min_nodes": 5}, 4, "COHORT_TOO_SMALL"),
        ({"min_survivors": 5}, 4, "MANIFEST_MISMATCH"),
        ({}, 2, "COHORT_TOO_SMALL"),
    ],
)
def test_a5_cohort_smaller_than_the_policy_asks_for_is_refused(asked: dict[str, int], kept: int, code: str) -> None:
    liar = LyingAggregator(5, cohort=asked)
    opened = liar.another_run()
    manifest = dataclasses.replace(opened.manifest, nodes=opened.manifest.nodes[:kept], threshold=3, min_survivors=3)
    liar.refused("a", restate(opened, liar.signer, manifest=manifest), code)


def test_one_approval_serves_one_run() -> None:
    liar = LyingAggregator(4)
    manifest = dataclasses.replace(liar.manifest, run_id=bytes(16))
    second = liar.signer.sign(type(liar.open_epoch()), manifest=manifest, epoch=0, first_round=0)
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
        liar.refused("a", second, "APPROVAL_USED")
    liar.approve_again()
    assert sent(liar.tell("a", second), KeyAdvert)


def test_run_that_was_left_for_another_does_not_open_again_under_a_new_approval() -> None:
    liar = LyingAggregator(4)
    first = liar.node("a").own.memory.opened_epoch
    assert first is not None
    liar.set_up(liar.another_run())
    liar.refused("a", first, "APPROVAL_USED")
    liar.approve_again()
    liar.refused("a", first, "BAD_EPOCH")


@pytest.mark.parametrize(
    "lie", [{"epoch": 0, "first_round": 1}, {"epoch": 2}, {"first_round": 1}, {"first_round": -1}, {"epoch": -1}]
)
def test_epoch_that_does_not_follow_from_the_last_is_refused(lie: dict[str, int]) -> None:
    liar = LyingAggregator(4)
    liar.refused("a", liar.open_epoch(**lie), "BAD_EPOCH")
    assert sent(liar.tell("a", liar.open_epoch()), KeyAdvert)


@pytest.mark.parametrize("lie", [{"epoch": 1}, {"first_round": 1}])
def test_run_that_does_not_open_at_its_beginning_is_refused(lie: dict[str, int]) -> None:
    liar = LyingAggregator(4)
    liar.refused("a", restate(liar.another_run(), liar.signer, **lie), "BAD_EPOCH")


def test_one_key_per_run_and_epoch_even_after_a_restart() -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    first = sent(liar.tell("a", opened), KeyAdvert)
    assert sent(liar.tell("a", opened), KeyAdvert) == first
    liar.restart("a")
    assert sent(liar.tell("a", opened), KeyAdvert) == first
    other = restate(opened, liar.signer, manifest=dataclasses.replace(opened.manifest, run_id=b"other"))
    liar.refused("a", other, "APPROVAL_USED")


# RFC 7748 section 6.1 asks to refuse the all-zero shared value; these are the canonical points of order 1, 2, 4 and 8.
LOW_ORDER = {
    "zero": bytes(32),
    "one": bytes([1]) + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8, the other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}
NOT_CANONICAL = {
    "p": bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p + 1": bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p + 9": bytes.fromhex("f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "all ones": bytes([255]) * 32,
}


@pytest.mark.parametrize("public", [*LOW_ORDER.values(), *NOT_CANONICAL.values(), b"", bytes(31), bytes(33)], ids=len)
def test_a12_weak_key_of_a_dishonest_member_is_refused(public: bytes) -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    adverts = list(liar.adverts(opened))
    adverts[1] = restate(adverts[1], liar.signer_of("b"), public=public)
    liar.refused("a", liar.keys(opened, adverts), "WEAK_KEY")


def key_lies() -> dict[str, tuple[str, Callable[[LyingAggregator, list[KeyAdvert]], list[KeyAdvert]]]]:
    def change(at: int, signer: str, **fields: Any) -> Callable[[LyingAggregator, list[KeyAdvert]], list[KeyAdvert]]:
        def lie(liar: LyingAggregator, adverts: list[KeyAdvert]) -> list[KeyAdvert]:
            taken = {
                name: getattr(adverts[value], name) if value in range(4) else value for name, value in fields.items()
            }
            adverts[at] = restate(adverts[at], liar.signer_of(signer), **taken)
            return adverts

        return lie

    def high_bit(liar: LyingAggregator, adverts: list[KeyAdvert]) -> list[KeyAdvert]:
        public = adverts[0].public[:31] + bytes([adverts[0].public[31] | 0x80])
        adverts[1] = restate(adverts[1], liar.signer_of("b"), public=public)
        return adverts

    return {
        "echo of the victim's key": ("BAD_KEYS", change(1, "b", public=0)),
        "echo of the victim's key in its other spelling": ("WEAK_KEY", high_bit),
        "one key for two nodes": ("BAD_KEYS", change(1, "b", public=2)),
        "the victim's key replaced": ("BAD_KEYS", change(0, "a", public=bytes(range(32)))),
        "a key of another epoch": ("BAD_KEYS", change(1, "b", epoch=7)),
        "a key of another run": ("BAD_KEYS", change(1, "b", run_hash=OTHER)),
        "a key signed by somebody else": ("BAD_SIGNATURE", change(1, "c", public=bytes(range(32)))),
        "a member's key missing": ("BAD_KEYS", lambda _, adverts: adverts[:3]),
        "a member's key twice": ("BAD_KEYS", lambda _, adverts: [*adverts[:3], adverts[2]]),
        "out of order": ("BAD_KEYS", lambda _, adverts: adverts[::-1]),
    }


@pytest.mark.parametrize("lie", key_lies())
def test_a12_keys_are_one_distinct_own_key_of_each_member(lie: str) -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    adverts = list(liar.adverts(opened))
    code, change = key_lies()[lie]
    liar.refused("a", liar.keys(opened, change(liar, list(adverts))), code)
    assert sent(liar.tell("a", liar.keys(opened, adverts)), EpochAck)


def test_private_key_is_erased_and_other_keys_are_not_taken_afterwards() -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    adverts = list(liar.adverts(opened))
    private = liar.journal("a")["epoch/private"]
    ack = sent(liar.tell("a", liar.keys(opened, adverts)), EpochAck)
    assert private not in liar.journal("a").values()
    swapped = [*adverts[:3], restate(adverts[3], liar.signer_of("d"), public=bytes([9]) + bytes(31))]
    liar.refused("a", liar.keys(opened, swapped), "UNEXPECTED_MESSAGE")
    assert sent(liar.tell("a", liar.keys(opened, adverts)), EpochAck) == ack


READY_LIES: dict[str, tuple[str, Callable[[LyingAggregator, list[EpochAck]], list[EpochAck]]]] = {
    "n - 1": ("NO_AGREEMENT", lambda _, acks: acks[:3]),
    "one twice": ("NO_AGREEMENT", lambda _, acks: [*acks[:3], acks[2]]),
    "another roster": (
        "NO_AGREEMENT",
        lambda x, acks: [*acks[:3], restate(acks[3], x.signer_of("d"), roster_hash=OTHER)],
    ),
    "signed by somebody else": ("BAD_SIGNATURE", lambda x, acks: [*acks[:3], restate(acks[3], x.signer_of("c"))]),
    "nobody": ("NO_AGREEMENT", lambda _, acks: []),
}


@pytest.mark.parametrize("lie", READY_LIES)
def test_node_acts_only_on_n_equal_acknowledgements(lie: str) -> None:
    liar = LyingAggregator(4)
    opened = liar.open_epoch()
    keys = liar.keys(opened, liar.adverts(opened))
    acks = [sent(liar.tell(name, keys), EpochAck) for name in liar.names]
    code, change = READY_LIES[lie]
    ready = EpochReady(roster_hash=keys.roster_hash, acks=tuple(change(liar, acks)))
    liar.refused("a", ready, code)
    liar.refused("a", liar.plan(roster_hash=keys.roster_hash), "UNEXPECTED_MESSAGE")
    liar.tell("a", EpochReady(roster_hash=keys.roster_hash, acks=tuple(acks)))
    assert liar.tell("a", liar.plan(roster_hash=keys.roster_hash))


def test_errors_of_lies_name_a_cause_and_never_a_secret() -> None:
    liar = LyingAggregator(4)
    opened = liar.another_run()
    lie = restate(opened, liar.signer, manifest=dataclasses.replace(opened.manifest, threshold=2))
    with pytest.raises(FedvlmError) as caught:
        liar.tell("a", lie)
    assert "threshold" in caught.value.cause
    assert caught.value.hint
