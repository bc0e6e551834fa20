"""The lying aggregator about plans, results and closings (A3, A4, certificates, catch-up): refused, nothing moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.ring.vector import check_words
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.messages import (
    Certificate,
    Plan,
    ResultAck,
    VoidAck,
)
from fedvlm_secure.types import Digest, NodeId, Signature, Words
from tests.support.liars import LyingAggregator, restate, sent

OTHER = Digest(bytes([7]) * 32)


def closed_once() -> tuple[LyingAggregator, Certificate]:
    """Four hospitals (c = 1, t = 3) after one honest round."""
    liar = LyingAggregator(4)
    plan = liar.plan()
    return liar, liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")


def reweighted(liar: LyingAggregator, total: Words, **scalars: int) -> Words:
    """The same sum with other totals and fitting check words: a lie that no check word shows."""
    vector, words = vector_of(liar.manifest), total.copy()
    for name, value in scalars.items():
        words[vector.lane_words + vector.scalars.index(name)] = value
    words[vector.payload_words :] = check_words(words[: vector.payload_words])
    return words


@pytest.mark.parametrize(
    "lie",
    [
        {"state_hash": OTHER},
        {"previous_result": OTHER},
        {"roster_hash": OTHER},
        {"round": 1},
        {"round": -1},
        {"attempt": -1},
    ],
    ids=lambda lie: f"{next(iter(lie))}={next(iter(lie.values()))!r:.6}",
)
def test_a3_plan_that_does_not_follow_from_the_nodes_own_state_is_refused(lie: dict[str, Any]) -> None:
    liar = LyingAggregator(4)
    liar.refused("a", liar.plan(**lie), "BAD_PLAN")


def test_a3_different_models_cannot_be_served_even_in_a_later_round() -> None:
    liar, certificate = closed_once()
    liar.refused("a", liar.plan(certificate=certificate, state_hash=OTHER), "BAD_PLAN")
    start = LyingAggregator(4).closing("a")
    rollback: dict[str, Any] = {"round": 0, "state_hash": start.state_hash, "previous_result": start.result_hash}
    liar.refused("a", liar.plan(**rollback), "BAD_PLAN")


@pytest.mark.parametrize("kind", ["plan", "result", "void", "open"])
def test_statement_that_the_pinned_aggregator_did_not_sign_is_refused(kind: str) -> None:
    liar = LyingAggregator(4)
    plan, content = liar.plan(), None
    statement: Any = plan
    if kind == "result":
        statement, content = liar.result(plan, liar.run_attempt(plan, "abcd"), "abcd")
    elif kind == "void":
        statement = liar.void_request()
    elif kind == "open":
        statement = liar.open_epoch()
    liar.refused("a", restate(statement, liar.signer_of("b")), "BAD_SIGNATURE", content)
    flipped = bytes([statement.signature[0] ^ 1]) + statement.signature[1:]
    liar.refused("a", dataclasses.replace(statement, signature=Signature(flipped)), "BAD_SIGNATURE", content)


def _flip(liar: LyingAggregator, plan: Plan, total: Words) -> tuple[Any, bytes]:
    message, content = liar.result(plan, total, "abcd")
    return message, bytes([content[0] ^ 1]) + content[1:]


def _wrong_check_word(liar: LyingAggregator, plan: Plan, total: Words) -> tuple[Any, bytes]:
    wrong = total.copy()
    wrong[0] += np.uint64(1)
    return liar.result(plan, wrong, "abcd", state_hash=OTHER)


def _another_sum(liar: LyingAggregator, plan: Plan, total: Words) -> tuple[Any, bytes]:
    """Result and attachment agree with each other in all but the named root."""
    honest, _ = liar.result(plan, total, "abcd")
    return liar.result(plan, reweighted(liar, total, loss_sum=1), "abcd", sum_root=honest.sum_root)


RESULT_LIES: list[tuple[str, str, Callable[[LyingAggregator, Plan, Words], tuple[Any, bytes | None]]]] = [
    ("one word of the attached sum flipped", "BAD_RESULT", _flip),
    ("a fitting sum that is not the one named", "BAD_RESULT", _another_sum),
    ("no sum attached", "BAD_RESULT", lambda x, p, t: (x.result(p, t, "abcd")[0], None)),
    ("a sum whose check word does not fit", "BAD_RESULT", _wrong_check_word),
    ("a sum one word short", "BAD_RESULT", lambda x, p, t: x.result(p, t[:-1].copy(), "abcd", state_hash=OTHER)),
    (
        "weights that sum to zero",
        "BAD_RESULT",
        lambda x, p, t: x.result(p, reweighted(x, t, weight=0), "abcd", state_hash=OTHER),
    ),
    ("true sum, tampered model", "STEP_MISMATCH", lambda x, p, t: x.result(p, t, "abcd", state_hash=OTHER)),
    (
        "tampered sum, its own model, step too large",
        "STEP_TOO_LARGE",
        lambda x, p, t: x.result(p, reweighted(x, t, weight=1), "abcd"),
    ),
    ("survivors that this node did not sign", "BAD_RESULT", lambda x, p, t: x.result(p, t, "abc", state_hash=OTHER)),
    ("fewer survivors than are permitted", "BAD_RESULT", lambda x, p, t: x.result(p, t, "ab", state_hash=OTHER)),
    ("survivors out of order", "BAD_RESULT", lambda x, p, t: x.result(p, t, "abcd", survivors=tuple("dcba"))),
    ("another run", "BAD_RESULT", lambda x, p, t: x.result(p, t, "abcd", run_hash=OTHER)),
    ("another attempt", "UNEXPECTED_MESSAGE", lambda x, p, t: x.result(p, t, "abcd", ctx=OTHER)),
    ("another round", "UNEXPECTED_MESSAGE", lambda x, p, t: x.result(p, t, "abcd", round=1)),
]


@pytest.mark.parametrize(("code", "lie"), [lie[1:] for lie in RESULT_LIES], ids=[lie[0] for lie in RESULT_LIES])
def test_a4_false_result_is_not_acknowledged(
    code: str, lie: Callable[[LyingAggregator, Plan, Words], tuple[Any, bytes | None]]
) -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    total = liar.run_attempt(plan, "abcd")
    message, content = lie(liar, plan, total)
    liar.refused("a", message, code, content)
    honest, content = liar.result(plan, total, "abcd")
    assert sent(liar.tell("a", honest, content), ResultAck).state_hash == honest.state_hash


@pytest.mark.parametrize("survivors", ["cba", "aabc", "ab", ""])
def test_a4_node_that_signed_no_set_takes_no_sum_over_fewer_or_disordered_survivors(survivors: str) -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    liar.tell("d", plan)  # d trains still, and is dropped
    total = liar.run_attempt(plan, "abc")
    message, content = liar.result(plan, total, "abc")
    lie = restate(message, liar.signer, survivors=tuple(map(NodeId, survivors)))
    liar.refused("d", lie, "BAD_RESULT", content)
    assert sent(liar.tell("d", message, content), ResultAck)


def test_a4_replay_shows_that_the_model_follows_from_the_sum_not_that_the_sum_is_true() -> None:
    """Documented: a lie inside the step bound is taken over by everybody alike."""
    liar = LyingAggregator(4)
    plan = liar.plan()
    total = liar.run_attempt(plan, "abcd")
    vector = vector_of(liar.manifest)
    weight = vector.unpack_sum(total, 4)[1]["weight"]
    certificate = liar.close(plan, reweighted(liar, total, weight=2 * weight), "abcd")
    assert np.allclose(liar.node("a").own.memory.state.model, liar.cohort.mean_update(0, "abcd") / 2, atol=0.001)
    assert len({simulated.own.memory.state.digest for simulated in liar.federation.nodes.values()}) == 1
    assert certificate.round == 0


def test_one_result_per_round_is_acknowledged_and_a_repeat_gets_the_same_bytes() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    total = liar.run_attempt(plan, "abcd")
    message, content = liar.result(plan, total, "abcd")
    other, other_content = liar.result(plan, reweighted(liar, total, loss_sum=1), "abcd")
    ack = sent(liar.tell("a", message, content), ResultAck)
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
        assert sent(liar.tell("a", message, content), ResultAck) == ack
        liar.refused("a", other, "UNEXPECTED_MESSAGE", other_content)


def test_result_and_void_of_one_round_are_never_both_acknowledged() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    total = liar.run_attempt(plan, "abcd")
    message, content = liar.result(plan, total, "abcd")
    void = liar.void_request()
    sent(liar.tell("a", message, content), ResultAck)
    first = sent(liar.tell("b", void), VoidAck)
    for restarted in (False, True):
        if restarted:
            liar.restart("a")
            liar.restart("b")
        liar.refused("a", void, "UNEXPECTED_MESSAGE")
        liar.refused("b", message, "UNEXPECTED_MESSAGE", content)
        assert sent(liar.tell("b", void), VoidAck) == first


def test_after_a_void_nothing_of_that_round_is_signed_or_revealed() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
    liar.tell("a", liar.void_request())
    liar.refused("a", request, "UNEXPECTED_MESSAGE")
    liar.refused("a", liar.survivor_set(plan, bundles, "a"), "UNEXPECTED_MESSAGE")
    liar.refused("a", plan, "BAD_PLAN")
    assert not any(key.startswith("round/") for key in liar.journal("a"))


@pytest.mark.parametrize("lie", [{"round": 1}, {"state_hash": OTHER}, {"previous_result": OTHER}, {"run_hash": OTHER}])
def test_void_request_for_another_round_or_state_is_refused(lie: dict[str, Any]) -> None:
    liar = LyingAggregator(4)
    liar.refused("a", liar.void_request(**lie), "UNEXPECTED_MESSAGE")
