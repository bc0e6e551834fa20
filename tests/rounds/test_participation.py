"""A7: a scripted pattern of absences. A hospital that goes in and out again and again is isolated by differences."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvlm_secure import canonical
from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.node_memory import ISOLATED_KEY
from fedvlm_secure.rounds.participation import (
    MOST_CHANGES,
    WINDOW,
    find_pattern,
    read_participation,
    with_set,
)
from fedvlm_secure.secagg.messages import Refusal, SurvivorSignature
from fedvlm_secure.simulate.dropouts import Drop, run_with_drops
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from node.service import warn_of_isolation
from tests.support.cohort import Cohort
from tests.support.consortium import SteadyClock
from tests.support.liars import LyingAggregator


def history(*sets: str) -> dict[int, tuple[NodeId, ...]]:
    return {number: tuple(map(NodeId, one)) for number, one in enumerate(sets)}


def pattern(*sets: str, colluding: int = 1) -> str:
    *earlier, last = sets
    return "".join(find_pattern(history(*earlier), len(earlier), tuple(map(NodeId, last)), colluding))


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (("abcde", "abcde", "abcde", "abcde"), ""),
        (("abcde", "abcd", "abcde"), ""),  # lost once and back
        (("abcde", "abcd", "abcde", "abcd"), "e"),
        (("abcd", "abcde", "abcd", "abcde"), "e"),
        (("abcde", "abcd", "abce", "abcd"), "e"),  # d once less: it went out and came in
        (("abcdef", "abcd", "abcdef", "abcdf", "abcdef"), "e"),  # in changing company
        (("abcdefgh", "abcde", "abcdefgh", "abcde", "abcdefgh"), ""),  # three hide each other from one that lies
        (("abcde", "abcd", "abcde", "abcd", "abcd", "abcd"), ""),  # it stays out
    ],
)
def test_who_is_isolated_by_a_row_of_sets(sets: tuple[str, ...], named: str) -> None:
    assert pattern(*sets) == named


def test_pattern_is_forgotten_beyond_the_window() -> None:
    quiet = ["abcde"] * WINDOW
    assert pattern("abcd", "abcde", "abcd", *quiet, "abcd") == ""


@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=3).map(sorted).map("".join), min_size=2, max_size=WINDOW))
def test_hospital_that_is_not_named_has_changed_at_most_so_often_in_small_groups(sets: list[str]) -> None:
    named = set(pattern(*sets))
    for node in "abcde":
        changes = 0
        for before, after in pairwise(sets):
            side = set(before) - set(after) if node in before else set(after) - set(before)
            changes += (node in before) != (node in after) and len(side) < 3
        moved = (node in sets[-1]) != (node in sets[-2])
        assert (node in named) <= (changes > MOST_CHANGES)
        if moved and changes > MOST_CHANGES:
            last = set(sets[-2]) ^ set(sets[-1])
            assert node in named or len({n for n in last if (n in sets[-2]) == (node in sets[-2])}) >= 3


def test_history_comes_back_from_its_bytes_and_stays_within_the_window() -> None:
    raw = None
    for number in range(40):
        raw = with_set(read_participation(raw), number, tuple(map(NodeId, "abc")))
    assert sorted(read_participation(raw)) == list(range(40 - WINDOW, 40))


def scripted(participation: str) -> tuple[Cohort, list[str], set[str]]:
    """e is lost in every second round."""
    codes: list[str] = []
    noticed: set[str] = set()

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Refusal):
            codes.append(f"{message.code} {''.join(message.nodes)}")
        if isinstance(message, SurvivorSignature):
            memory = cohort.federation.nodes[node].own.memory
            number = len(cohort.summaries())
            noticed.add("".join(memory.isolated(number) or "-"))
            assert memory.isolated(number + 1) is None
        return True

    cohort = Cohort(5, dimension=20, rounds=6, cohort={"participation": participation, "deadline": 30})
    cohort.federation._tap = tap
    return cohort, codes, noticed


DROPS = [Drop(number, NodeId("e"), Phase.UPLOAD) for number in (1, 3, 5)]


def test_a7_scripted_pattern_is_not_signed_in_strict_mode_and_the_run_ends_naming_the_hospital() -> None:
    cohort, codes, _ = scripted("strict")
    with pytest.raises(RunAborted, match="misses e"):
        run_with_drops(cohort.federation, DROPS)
    assert set(codes) == {"PARTICIPATION_PATTERN e"}
    taken = ["".join(summary["survivors"]) for summary in cohort.summaries()]  # type: ignore[arg-type]
    assert taken == ["abcde", "abcd", "abcde"]


def test_a7_scripted_pattern_is_noticed_where_the_policy_only_warns() -> None:
    cohort, codes, noticed = scripted("warn")
    run_with_drops(cohort.federation, DROPS)
    assert (codes, noticed) == ([], {"-", "e"})
    assert len(cohort.summaries()) == 6


def test_set_of_an_attempt_that_led_nowhere_stays_noted() -> None:
    liar = LyingAggregator(8)
    own = liar.node("a").own
    for number, took_part in ((-3, "abcdef"), (-2, "abcde"), (-1, "abcdef")):
        raw = with_set(own.participation, number, tuple(map(NodeId, took_part)))
        own.memory.commit({own.participation_key: raw})
    first, second = liar.plan(), liar.plan(attempt=1)
    liar.sign(first, liar.collect(first, "abcde"), "a")
    assert own.memory.isolated(0) == ("f",)
    liar.sign(second, liar.collect(second, "abcdefgh"), "a")
    assert own.memory.isolated(0) == ("f",) and own.memory.isolated(1) is None
    own.memory.commit({ISOLATED_KEY: canonical.encode([b"of another run's", 0, ["f"]])})
    assert own.memory.isolated(0) is None


def test_operator_is_warned_in_the_services_log_with_names_and_round() -> None:
    out = io.StringIO()
    log = EventLog("a", out, SteadyClock(), json_lines=True)

    def tap(way: str, node: NodeId, message: object) -> bool:
        if isinstance(message, SurvivorSignature) and node == "a":
            warn_of_isolation(cohort.federation.nodes[node].own.memory, log)
        return True

    cohort, _, _ = scripted("warn")
    cohort.federation._tap = tap
    run_with_drops(cohort.federation, DROPS)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["round"]) for line in lines] == [("warning", 3), ("warning", 4), ("warning", 5)]
    assert all(line["cause"].startswith("e went out of the sum and came in again too often") for line in lines)
