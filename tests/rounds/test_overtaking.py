"""Messages that overtake each other: what comes too early is refused, asked for again once it fits, never lost."""

from __future__ import annotations

import pytest

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.secagg.messages import (
    AggregatorMessage,
    CatchUp,
    EpochAck,
    EpochKeys,
    EpochReady,
    Hello,
    NodeMessage,
    OpenEpoch,
    Result,
)
from fedvlm_secure.simulate.network import Direction, Fate, PerfectNetwork
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort


class SlowOn(PerfectNetwork):
    """Delays the first message of each given kind to one node, so that what is sent after it overtakes it."""

    reorders = True

    def __init__(self, node: str, delays_s: dict[type[AggregatorMessage], float]) -> None:
        self._node, self._delays_s = node, dict(delays_s)
        self.hellos: list[str] = []

    def fate(self, direction: Direction, node: NodeId, message: NodeMessage | AggregatorMessage) -> Fate:
        if isinstance(message, Hello):
            self.hellos.append(node)
        if direction == "down" and node == self._node:
            return Fate((self._delays_s.pop(type(message), 0.0),))  # type: ignore[arg-type]
        return Fate()


class Twice(PerfectNetwork):
    """Hands over every message of the aggregator's once more, a little later."""

    reorders = True
    hellos = 0

    def fate(self, direction: Direction, node: NodeId, message: NodeMessage | AggregatorMessage) -> Fate:
        self.hellos += isinstance(message, Hello)
        return Fate((0.0, 0.25)) if direction == "down" else Fate()


def refusals(cohort: Cohort, node: str) -> list[str]:
    return [violation.code for violation in cohort.federation.nodes[NodeId(node)].violations]


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_encryption_key_that_overtakes_the_members_keys_does_not_end_the_set_up(scheme: str) -> None:
    network = SlowOn("c", {EpochKeys: 5.0})
    acks: list[EpochAck] = []

    def tap(direction: str, node: NodeId, message: object) -> bool:
        acks.extend([message] if isinstance(message, EpochAck) and node == "c" else [])
        return True

    cohort = Cohort(4, protection={"method": scheme}, network=network, tap=tap)
    cohort.run()
    assert refusals(cohort, "c") == ["UNEXPECTED_MESSAGE"]  # it did come too early
    assert cohort.federation.now_s < 10.0
    assert network.hellos == [*"abcd", "c"]
    assert len({ack.roster_hash for ack in acks}) == 1
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")]


def test_new_epoch_that_overtakes_the_last_result_is_opened_after_it() -> None:
    network = SlowOn("c", {Result: 20.0, CatchUp: 2.0})
    cohort = Cohort(4, rounds=2, cohort={"epoch_rounds": 1}, network=network)
    cohort.run()
    assert "BAD_EPOCH" in refusals(cohort, "c")
    assert cohort.federation.now_s < 30.0
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")] * 2


def test_plan_that_overtakes_the_end_of_the_set_up_is_followed() -> None:
    cohort = Cohort(4, network=SlowOn("c", {EpochReady: 5.0}))
    cohort.run()
    assert refusals(cohort, "c") == ["UNEXPECTED_MESSAGE"]
    assert cohort.federation.now_s < 10.0
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")]


def test_plan_that_overtakes_the_last_result_is_followed() -> None:
    cohort = Cohort(4, rounds=2, network=SlowOn("c", {Result: 20.0, CatchUp: 2.0}))
    cohort.run()
    assert "BAD_PLAN" in refusals(cohort, "c")
    assert cohort.federation.now_s < 30.0
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")] * 2


def test_state_to_catch_up_with_that_overtakes_the_end_of_the_set_up_is_taken_over() -> None:
    """A node that hears of the set-up's end only when it comes back, in the next round, and after all else."""
    cohort = Cohort(4, rounds=2)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("c"))
    cohort.run(lambda federation: federation.aggregator_self.memory.certificate is not None)
    cohort.federation._network = SlowOn("c", {EpochReady: 5.0})
    cohort.federation.connect(NodeId("c"))
    cohort.run()
    assert refusals(cohort, "c").count("UNEXPECTED_MESSAGE") >= 2  # state and plan
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abd"), list("abcd")]


def test_end_that_overtakes_the_last_result_is_heard() -> None:
    cohort = Cohort(4, network=SlowOn("c", {Result: 20.0, CatchUp: 2.0}))
    cohort.run()
    assert "UNEXPECTED_MESSAGE" in refusals(cohort, "c")
    assert cohort.federation.nodes[NodeId("c")].run.finished
    assert cohort.federation.now_s < 30.0


def test_repeats_make_nobody_ask_again() -> None:
    network = Twice()
    cohort = Cohort(4, rounds=3, cohort={"epoch_rounds": 1}, network=network)
    cohort.run()
    assert network.hellos == 4
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")] * 3


def test_member_away_for_a_whole_epoch_comes_back_for_the_next() -> None:
    """It acknowledged the keys and never heard that all did: it has to hear that before it can catch up."""
    told: list[NodeId] = []

    def tap(direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, OpenEpoch) and message.epoch == 1:
            told.append(node)
        return not (isinstance(message, EpochReady) and node == "c" and not told)

    cohort = Cohort(4, rounds=3, cohort={"epoch_rounds": 1}, tap=tap)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("c"))
    cohort.run(lambda federation: bool(told))
    cohort.federation.connect(NodeId("c"))
    cohort.run()
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abd"), list("abcd"), list("abcd")]
    assert refusals(cohort, "c") == []


def test_result_that_too_few_can_acknowledge_ends_the_run_and_not_in_an_endless_wait() -> None:
    """A connected member that never accepted the plan cannot acknowledge its result, however long it is waited for."""
    cohort = Cohort(5)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("e"))
    cohort.run(until=Phase.CERTIFY)
    cohort.federation.drop(NodeId("a"))
    cohort.federation.connect(NodeId("e"))
    with pytest.raises(RunAborted) as ended:
        cohort.federation.run(limit_s=cohort.federation.now_s + 2_000.0)
    assert ended.value.code == "NOT_CERTIFIED"
    assert isinstance(cohort.federation.aggregator_self.memory.result, Result)
