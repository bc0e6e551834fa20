"""What an operator reads before approving agrees with what the policy says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedvlm_secure import __version__
from fedvlm_secure.cli.policy import app
from fedvlm_secure.console import printable
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.explain import explain, unprotected, visibility
from fedvlm_secure.policy.exposure import check_exposure
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.rounds.participation import MOST_CHANGES, WINDOW

PolicyFile = Callable[..., Path]
POLICIES = Path(__file__).parents[2] / "policies"


def text_of(path: Path, nodes: int, coordinates: int | None = None) -> str:
    paragraphs = explain(load_policy(path), nodes, coordinates).paragraphs
    return "\n".join(line for _, lines in paragraphs for line in lines)


def test_bytes_are_two_thirds_of_plain_float32() -> None:
    text = text_of(POLICIES / "fedavg.yaml", 3, 96_000)
    assert "0.67 of plain float32" in text
    assert "96000 values: 256000 bytes per hospital and round (plain float32: 384000)" in text


def test_what_is_protected_is_never_said_of_an_unprotected_policy() -> None:
    policy = load_policy(POLICIES / "unprotected.yaml")
    text = text_of(POLICIES / "unprotected.yaml", 5)
    assert "in clear" in text
    assert "masked" not in text
    assert "hidden from the aggregator" not in text
    assert any(seen.party == "the aggregator" and "in clear" in seen.sees for seen in visibility(policy))
    assert unprotected(policy)[0].startswith("EVERYTHING")


def test_counts_that_leave_inside_the_sum_are_named(policy_file: PolicyFile) -> None:
    counted = text_of(policy_file("version: 1", "version: 1\nweights: {counted: {cap: 9}}"), 3)
    assert "number of training rows (at most 9)" in counted
    assert "number of training rows" not in text_of(policy_file(), 3)
    totals = text_of(policy_file("version: 1", "version: 1\nevaluation: {release: totals, limit: 7}"), 3)
    assert "up to 7 test questions" in totals
    assert "no accuracy" in text_of(policy_file(), 3)


def test_what_a_pattern_of_absences_leads_to_is_said_as_the_policy_sets_it(policy_file: PolicyFile) -> None:
    warned = text_of(policy_file(), 3)
    assert "signed all the same, with a warning" in warned and "refuse to sign such a sum" not in warned
    strict = text_of(policy_file("min_nodes: 3", "min_nodes: 3\n  participation: strict"), 3)
    assert "refuse to sign such a sum (participation: strict)" in strict and "signed all the same" not in strict
    assert f"more than {MOST_CHANGES} times in {WINDOW} rounds" in warned
    assert "participation:" not in text_of(POLICIES / "unprotected.yaml", 5)


def test_which_package_versions_may_meet_is_said_as_the_policy_sets_it(policy_file: PolicyFile) -> None:
    assert f"one and the same version of this package, here {__version__}" in text_of(policy_file(), 3)
    both = text_of(policy_file("min_nodes: 3", f'min_nodes: 3\n  versions: ["{__version__}", "9.0.0"]'), 3)
    assert f"version {__version__} or 9.0.0 of this package may take part together" in both
    assert "one and the same" not in both and "is installed here" not in both
    other = text_of(policy_file("min_nodes: 3", 'min_nodes: 3\n  versions: ["9.0.0"]'), 3)
    assert f"WARNING: version {__version__} is installed here, which this policy does not name" in other


def test_no_epsilon_is_claimed_without_a_mechanism() -> None:
    assert "no epsilon can be stated" in text_of(POLICIES / "fedavg.yaml", 3)


def test_check_prints_the_hash_and_the_terms() -> None:
    path = POLICIES / "fedavg.yaml"
    result = CliRunner().invoke(app, ["check", str(path), "--nodes", "5", "--json"])
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    assert fields["policy_hash"] == policy_hash(load_policy(path)).hex()
    assert (fields["nodes"], fields["colluding"], fields["threshold"], fields["min_survivors"]) == (5, 1, 4, 4)
    assert fields["lanes"] == 3


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_spoiled_policy_is_two_lines_on_stderr(policy_file: PolicyFile, command: str) -> None:
    path = policy_file("max_update", "max_updat")
    result = CliRunner().invoke(app, [command, str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"fedvlm: error: {path}:15: protection.max_updat is not a policy field [FIELD_UNKNOWN]",
        "fedvlm: hint: did you mean protection.max_update?",
    ]


def test_explain_as_json_has_the_same_lines() -> None:
    path = POLICIES / "encoder_free.yaml"
    result = CliRunner().invoke(app, ["explain", str(path), "--json"])
    fields = json.loads(result.stdout)
    assert fields["explanation"] == {title: list(lines) for title, lines in explain(load_policy(path), 3).paragraphs}


def test_declared_weights_must_name_the_rosters_hospitals(policy_file: PolicyFile) -> None:
    policy = load_policy(policy_file("version: 1", "version: 1\nweights: {declared: {a: 10, b: 20, c: 30}}"))
    feasibility.check(policy, 3, frozenset("abc"))
    for ids, cause in (
        ("abcd", "weights.declared has no size for d"),
        ("abd", "weights.declared has no size for d and a size for c, not among those who take part"),
    ):
        with pytest.raises(PolicyError) as caught:
            feasibility.check(policy, len(ids), frozenset(ids))
        assert (caught.value.code, caught.value.cause) == ("WEIGHTS_MISMATCH", cause)
        assert "new policy" in caught.value.hint and "every hospital approve it" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1:7443", "localhost:1", "[::1]:7443", "127.9.9.9:1"])
def test_loopback_is_where_clear_updates_may_go(address: str) -> None:
    check_exposure(load_policy(POLICIES / "unprotected.yaml"), address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7443", "[::]:1", "10.0.0.1:1", "agg.example.org:1", ":1", "localhost.x:1"]
)
def test_nowhere_else(address: str) -> None:
    check_exposure(load_policy(POLICIES / "fedavg.yaml"), address)
    with pytest.raises(PolicyError):
        check_exposure(load_policy(POLICIES / "unprotected.yaml"), address)


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("a\x1b[2J\nb\u202ec") == "a?[2J?b?c"
