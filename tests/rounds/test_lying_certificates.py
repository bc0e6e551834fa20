"""Lies about who agreed: certificates, catch-up, the end of a run, the quorum of a reveal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedvlm_secure.canonical import encode
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.secagg.messages import (
    CatchUp,
    Certificate,
    Finished,
    ResultAck,
    Reveal,
    RevealRequest,
)
from fedvlm_secure.types import Digest, NodeId
from tests.support.liars import LyingAggregator, restate, sent

OTHER = Digest(bytes([7]) * 32)


def closed_once() -> tuple[LyingAggregator, Certificate]:
    """Four hospitals (c = 1, t = 3) after one honest round."""
    liar = LyingAggregator(4)
    plan = liar.plan()
    return liar, liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")


def certificate_lies(liar: LyingAggregator, true: Certificate) -> dict[str, tuple[str, Certificate | None]]:
    acks = true.result_acks
    forged = [restate(ack, liar.signer_of("d"), state_hash=OTHER) for ack in acks]
    stranger = dataclasses.replace(acks[3], node=NodeId("stranger"))
    return {
        "none": ("BAD_CERTIFICATE", None),
        "t - 1 acknowledgements": ("BAD_CERTIFICATE", Certificate(result_acks=acks[:2])),
        "t - 1 and a stranger's": ("BAD_CERTIFICATE", Certificate(result_acks=(*acks[:2], stranger))),
        "signed by one node for all": ("BAD_SIGNATURE", Certificate(result_acks=tuple(forged))),
        "of another run": (
            "BAD_CERTIFICATE",
            Certificate(result_acks=tuple(restate(a, liar.signer_of(a.node), run_hash=OTHER) for a in acks)),
        ),
    }


@pytest.mark.parametrize(
    "lie", ["none", "t - 1 acknowledgements", "t - 1 and a stranger's", "signed by one node for all", "of another run"]
)
def test_plan_without_t_acknowledgements_of_the_last_round_is_refused(lie: str) -> None:
    liar, true = closed_once()
    code, certificate = certificate_lies(liar, true)[lie]
    liar.refused("a", liar.plan(certificate=certificate), code)
    assert liar.collect(liar.plan(certificate=true), "a")


def test_certificate_of_an_older_round_does_not_carry_a_plan() -> None:
    liar, first = closed_once()
    plan = liar.plan(certificate=first)
    second = liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    liar.refused("a", liar.plan(certificate=first), "BAD_CERTIFICATE")
    assert liar.collect(liar.plan(certificate=second), "a")


def test_certificate_with_one_signer_twice_or_of_two_closings_cannot_be_written_down() -> None:
    liar, true = closed_once()
    acks = true.result_acks
    void = liar.close_void("abc").void_acks
    for kwargs in (
        {"result_acks": (acks[0], acks[0], acks[1])},
        {"result_acks": (acks[0], restate(acks[1], liar.signer_of("b"), state_hash=OTHER))},
        {"result_acks": acks, "void_acks": void},
        {},
    ):
        with pytest.raises(ValueError, match="certificate"):
            Certificate(**kwargs)


def test_catch_up_takes_over_only_a_state_that_t_members_acknowledged() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    total = liar.run_attempt(plan, "abc")
    message, content = liar.result(plan, total, "abc")
    acks = tuple(sent(liar.tell(name, message, content), ResultAck) for name in "abc")
    true, state = Certificate(result_acks=acks), liar.node("a").own.memory.state
    false = ServerState(state.model + np.float32(1))
    liar.refused("d", CatchUp(certificate=true), "BAD_STATE", false.to_bytes())
    liar.refused("d", CatchUp(certificate=true), "BAD_STATE", None)
    for broken in (
        b"",
        b"\xff",
        encode({"model": 5, "slots": {}, "numbers": {}}),
        encode({"model": b"", "slots": 1, "numbers": {}}),
        encode({"model": b"abc", "slots": {}, "numbers": {}}),
        encode({"model": b"", "slots": {}, "numbers": {"x": "y"}}),
    ):
        liar.refused("d", CatchUp(certificate=true), "BAD_STATE", broken)
    few = Certificate(result_acks=acks[:2])
    liar.refused("d", CatchUp(certificate=few), "BAD_CERTIFICATE", state.to_bytes())
    forged = tuple(restate(a, liar.signer_of("c"), state_hash=false.digest) for a in acks)
    liar.refused("d", CatchUp(certificate=Certificate(result_acks=forged)), "BAD_SIGNATURE", false.to_bytes())
    liar.tell("d", CatchUp(certificate=true), state.to_bytes())
    assert liar.node("d").own.memory.state.digest == state.digest


def test_catch_up_never_takes_a_node_back() -> None:
    liar, first = closed_once()
    state = liar.node("a").own.memory.state.to_bytes()
    plan = liar.plan(certificate=first)
    liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    before = liar.journal("a")
    assert liar.tell("a", CatchUp(certificate=first), state) == ()
    assert liar.journal("a") == before


def test_node_that_caught_up_past_a_round_reveals_nothing_for_it() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    signatures = liar.sign(plan, bundles, "abcd")
    request = liar.request(plan, signatures)
    total = liar.open(plan, bundles, [sent(liar.tell(name, request), Reveal) for name in "abc"])
    message, content = liar.result(plan, total, "abcd")
    acks = tuple(sent(liar.tell(name, message, content), ResultAck) for name in "abc")
    liar.tell("d", CatchUp(certificate=Certificate(result_acks=acks)), liar.node("a").own.memory.state.to_bytes())
    liar.refused("d", request, "UNEXPECTED_MESSAGE")
    assert not any(key.startswith("round/") for key in liar.journal("d"))


def test_finished_at_another_closing_does_not_stop_a_node() -> None:
    liar, first = closed_once()
    plan = liar.plan(certificate=first)
    liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    liar.refused("a", Finished(certificate=first), "UNEXPECTED_MESSAGE")
    few = Certificate(result_acks=first.result_acks[:2])
    liar.refused("a", Finished(certificate=few), "BAD_CERTIFICATE")


QUORUM_LIES = ["t - 1", "one signer many times", "a stranger", "another digest", "another ctx", "none"]


@pytest.mark.parametrize("lie", QUORUM_LIES)
def test_reveal_needs_t_signatures_of_distinct_members_under_the_own_digest(lie: str) -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    a, b, c, d = liar.sign(plan, bundles, "abcd")
    signatures = {
        "t - 1": (a, b),
        "one signer many times": (a, b, b, b),
        "a stranger": (a, b, dataclasses.replace(c, node=NodeId("stranger"))),
        "another digest": (
            a,
            b,
            restate(c, liar.signer_of("c"), survivors=OTHER),
            restate(d, liar.signer_of("d"), survivors=OTHER),
        ),
        "another ctx": (a, b, restate(c, liar.signer_of("c"), ctx=OTHER)),
        "none": (),
    }[lie]
    request = liar.request(plan, signatures)
    liar.refused("a", request, "NO_QUORUM")
    liar.refused("a", RevealRequest(ctx=OTHER, signatures=(a, b, c, d)), "NO_QUORUM")
    forged = restate(c, liar.signer_of("d"))
    liar.refused("a", liar.request(plan, (a, b, forged)), "BAD_SIGNATURE")
    assert sent(liar.tell("a", liar.request(plan, (a, b, c))), Reveal)
