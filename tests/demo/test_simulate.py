"""`fedvlm simulate`: real training under the real machines, in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedvlm_secure.cli.main import app
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.dropouts import Drop, parse_drop, run_with_drops
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort


def simulate(policy: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, ["simulate", "--policy", str(policy), "--patients", "40", "--json", *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(line, dict)
    return line


def test_masked_and_unprotected_training_publish_the_same_sums_bit_for_bit(quick_policy: Path) -> None:
    line = simulate(quick_policy, "--nodes", "4", "--drop", "1:coast:upload", "--compare-unprotected")
    assert line["compare_unprotected"] == {"equal": True, "rounds": 2, "differing_rounds": []}
    assert [entry["dropped"] for entry in line["rounds"]] == [["coast"], []]


def test_equal_seeds_give_the_same_model_and_another_seed_another(quick_policy: Path) -> None:
    first, again = (simulate(quick_policy, "--nodes", "3", "--rounds", "1") for _ in range(2))
    other = simulate(quick_policy, "--nodes", "3", "--rounds", "1", "--seed", "2")
    assert first["model_hash"] == again["model_hash"] != other["model_hash"]


def test_rough_network_and_crashes_are_survived_and_the_same_seed_suffers_the_same(quick_policy: Path) -> None:
    hard = ("--nodes", "4", "--rough", "--crashes", "5", "--seed", "4")
    first, again = (simulate(quick_policy, *hard) for _ in range(2))
    assert [entry["void"] for entry in first["rounds"]] == [False, False]
    assert first["model_hash"] == again["model_hash"]


def test_hospital_lost_in_each_phase_is_back_in_the_next_round() -> None:
    for phase in (Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.CERTIFY):
        cohort = Cohort(4, rounds=3)
        left = run_with_drops(cohort.federation, [Drop(1, NodeId("b"), phase)])
        survivors = [summary["survivors"] for summary in cohort.summaries()]
        assert left == ()
        assert survivors[0] == survivors[2] == ["a", "b", "c", "d"]
        assert ("b" in survivors[1]) is (phase is not Phase.UPLOAD)
        assert cohort.federation.nodes[NodeId("b")].own.memory.state.digest == cohort.federation.state.digest


def test_drop_that_never_comes_due_is_told() -> None:
    cohort = Cohort(3, rounds=1, protection={"method": "none"}, unsafe_no_protection=True)  # type: ignore[arg-type]
    never = Drop(0, NodeId("a"), Phase.REVEAL)
    assert run_with_drops(cohort.federation, [never]) == (never,)
    assert str(never) == "1:a:reveal"


@pytest.mark.parametrize(
    "text", ["", "1", "1:a", "0:a:sign", "4:a:sign", "-1:a:sign", "x:a:sign", "1:z:sign", "1:a:lunch"]
)
def test_drop_that_says_nothing_possible_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="DROP_WRONG"):
        parse_drop(text, [NodeId("a")], rounds=3)
