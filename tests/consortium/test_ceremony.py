"""The commands, from an empty folder to an approved policy, as operators type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aggregator.main import app as aggregator
from node.main import app as node

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(app: Any, *words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=typed)


def json_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def ceremony(names: tuple[str, ...] = ("a", "b", "c")) -> Any:
    """Three hospitals admitted; the roster's JSON."""
    json_of(run(aggregator, "init", "--consortium", "trial", "--json"))
    for name in names:
        json_of(run(node, "init", "--id", name, "--state", f"state-{name}", "--json"))
    json_of(run(aggregator, "admit", *(f"{name}.join" for name in names), "--json"))
    return json_of(run(aggregator, "roster", "--json"))


def test_every_party_sees_the_same_fingerprints(folder: Path) -> None:
    roster = ceremony()
    for member in roster["members"]:
        name = member["node"]
        words = ("install", f"aggregator-home/outbox/{name}.cert.pem", "roster.toml", "--state", f"state-{name}")
        shown = run(node, *words, typed="y\n")
        assert shown.exit_code == 0, shown.output
        for fingerprint in (roster["fingerprint"], roster["aggregator"], member["fingerprint"]):
            assert fingerprint in shown.stdout
        assert (folder / f"state-{name}" / "roster.toml").read_bytes() == (folder / "roster.toml").read_bytes()


def test_without_a_yes_nothing_is_pinned_or_approved(folder: Path) -> None:
    ceremony()
    words = ("install", "aggregator-home/outbox/a.cert.pem", "roster.toml", "--state", "state-a")
    for answer, extra in (("n\n", ()), (None, ("--json",))):
        refused = run(node, *words, *extra, typed=answer)
        assert refused.exit_code == 2
        assert "NOT_CONFIRMED" in refused.stderr
    assert not (folder / "state-a" / "roster.toml").exists()
    refused = run(node, "approve", str(POLICIES / "fedavg.yaml"), "--state", "state-a", typed="n\n")
    assert refused.exit_code == 2
    assert json_of(run(node, "approvals", "--state", "state-a", "--json")) == {"approvals": []}


def test_approving_reads_the_policy_out_and_is_listed(folder: Path) -> None:
    ceremony()
    shown = run(node, "approve", str(POLICIES / "unprotected.yaml"), "--state", "state-a", typed="y\n")
    assert shown.exit_code == 0, shown.output
    assert "EVERY hospital's update, in clear" in shown.stdout
    (listed,) = json_of(run(node, "approvals", "--state", "state-a", "--json"))["approvals"]
    assert listed["policy"] == "unprotected"
    assert listed["policy_hash"] in shown.stdout
    assert listed["used_by"] is None


def test_a_policy_is_approved_by_the_hash_that_was_agreed_on(folder: Path) -> None:
    ceremony()
    words = ("approve", str(POLICIES / "fedavg.yaml"), "--state", "state-a", "--yes", "--json")
    refused = run(node, *words, "--hash", "00" * 32)
    assert refused.exit_code == 2
    assert "HASH_MISMATCH" in refused.stderr
    approved = json_of(run(node, *words))
    assert json_of(run(node, *words, "--hash", approved["policy_hash"])) == approved


def test_admitting_again_changes_nothing_and_a_second_a_is_refused(folder: Path) -> None:
    first = ceremony()
    again = json_of(run(aggregator, "admit", "a.join", "--json"))
    assert again["admitted"][0]["fresh"] is False
    json_of(run(node, "init", "--id", "a", "--state", "other", "--out", "other.join", "--json"))
    refused = run(aggregator, "admit", "other.join")
    assert refused.exit_code == 6
    assert refused.stderr.splitlines() == [
        "aggregator: error: a is admitted with other keys [JOIN_ID_TAKEN]",
        "aggregator: hint: the hospital renews with fedvlm-node renew; if its keys are lost, call it, then admit with "
        "--replace",
    ]
    assert json_of(run(aggregator, "roster", "--json")) == first


@pytest.mark.parametrize(
    ("app", "words", "code", "stable"),
    [
        (aggregator, ("admit", "none.join"), 7, "FILE_MISSING"),
        (aggregator, ("roster",), 7, "FILE_MISSING"),
        (aggregator, ("init", "--host", "a:1"), 2, "HOST_NAME"),
        (aggregator, ("serve", "--policy", "none.yaml"), 2, "FILE_UNREADABLE"),
        (node, ("init", "--id", "../x"), 6, "NODE_ID"),
        (node, ("approvals",), 7, "FILE_MISSING"),
        (node, ("approve", "none.yaml"), 2, "FILE_UNREADABLE"),
    ],
)
def test_a_mistake_is_two_lines_and_an_exit_code(
    folder: Path, app: Any, words: tuple[str, ...], code: int, stable: str
) -> None:
    result = run(app, *words)
    assert result.exit_code == code
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error.endswith(f"[{stable}]")
    assert ": error: " in error
    assert ": hint: " in hint


def test_updates_in_clear_are_not_served_on_a_network(folder: Path) -> None:
    ceremony()
    refused = run(aggregator, "serve", "--policy", str(POLICIES / "unprotected.yaml"), "--listen", "0.0.0.0:7443")
    assert refused.exit_code == 2
    assert "UNPROTECTED_NETWORK" in refused.stderr


def test_the_coordinators_command_loads_no_model_code() -> None:
    code = "import sys, aggregator.main; print(sorted({'torch', 'transformers', 'peft', 'node'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("module", "name"), [("aggregator", "aggregator"), ("node", "fedvlm-node")])
def test_python_dash_m_is_the_same_command(module: str, name: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert name in done.stdout
