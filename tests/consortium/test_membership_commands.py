"""Joining, leaving and renewing, as operators type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.main import app as aggregator
from node.main import app as node
from tests.consortium.test_ceremony import ceremony, json_of, run

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(name: str, *more: str) -> None:
    words = ("install", f"aggregator-home/outbox/{name}.cert.pem", "roster.toml", "--state", f"state-{name}")
    json_of(run(node, *words, "--yes", "--json", *more))


def test_renewed_keys_come_into_the_roster_and_into_use(folder: Path) -> None:
    before = ceremony()
    install("a")
    renewed = json_of(run(node, "renew", "--state", "state-a", "--json"))
    assert renewed["join"] == "a.join"
    (admitted,) = json_of(run(aggregator, "admit", "a.join", "--json"))["admitted"]
    assert admitted["fingerprint"] == renewed["fingerprint"]
    after = json_of(run(aggregator, "roster", "--json"))
    changed = [one["node"] for one, other in zip(before["members"], after["members"], strict=True) if one != other]
    assert changed == ["a"]
    install("a", "--accept-changes")
    assert json_of(run(node, "approvals", "--state", "state-a", "--json")) == {"approvals": []}


def test_lost_keys_need_the_word_replace(folder: Path) -> None:
    ceremony()
    json_of(run(node, "init", "--id", "a", "--state", "again", "--out", "again.join", "--json"))
    refused = run(aggregator, "admit", "again.join")
    assert (refused.exit_code, "--replace" in refused.stderr) == (6, True)
    json_of(run(aggregator, "admit", "again.join", "--replace", "--json"))


def test_hospital_is_taken_off_the_roster_only_with_a_yes(folder: Path) -> None:
    ceremony()
    refused = run(aggregator, "remove", "c", typed="n\n")
    assert (refused.exit_code, "NOT_CONFIRMED" in refused.stderr) == (2, True)
    assert json_of(run(aggregator, "remove", "c", "--yes", "--json"))["removed"] == "c"
    roster = json_of(run(aggregator, "roster", "--json"))
    assert [member["node"] for member in roster["members"]] == ["a", "b"]
    unknown = run(aggregator, "remove", "nobody", "--yes")
    assert (unknown.exit_code, "NOT_IN_ROSTER" in unknown.stderr) == (6, True)


def test_new_epoch_without_a_run_says_so(folder: Path) -> None:
    ceremony()
    refused = run(aggregator, "serve", "--policy", str(POLICIES / "fedavg.yaml"), "--new-epoch")
    assert (refused.exit_code, "NO_RUN" in refused.stderr) == (8, True)
