"""Preflight and doctor: what they find, and that they send nothing."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.node_config import NodeConfig, load_node_config
from node.doctor import Finding, examine
from node.main import app
from tests.support.consortium import make_consortium

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    state = make_consortium(tmp_path, "coast", "harbour", "valley").keystores["coast"].state
    path = tmp_path / "node.yaml"
    path.write_text(
        f"node: coast\nstate: {state}\naggregator: 127.0.0.1:1\npopulation: p\n"
        "data: {phantoms: {site: coast, seed: 1, patients: 60}}\n"
    )
    return path


def found(config: NodeConfig, now: datetime, policy: Path | None = None) -> dict[str, Finding]:
    loaded = None if policy is None else load_policy(policy)
    return {finding.name: finding for finding in examine(loaded, config, now)}


def test_doctor_finds_a_healthy_hospital_healthy_but_for_the_closed_port(config_path: Path) -> None:
    findings = found(load_node_config(config_path), datetime.now(UTC), POLICIES / "fedavg.yaml")
    verdicts = {name: finding.verdict for name, finding in findings.items()}
    assert verdicts.pop("aggregator") == "wrong" and verdicts.pop("disk") in ("ok", "warning")
    assert verdicts == {"certificate": "ok", "roster": "ok", "base": "ok", "data": "ok"}
    assert "of 60 patients" in findings["data"].text


def test_doctor_reaches_a_port_that_listens(config_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = load_node_config(config_path)
        config = config.model_copy(update={"aggregator": f"127.0.0.1:{server.getsockname()[1]}"})
        assert found(config, datetime.now(UTC))["aggregator"].verdict == "ok"


@pytest.mark.parametrize(("days", "verdict", "text"), [(-400, "wrong", "this clock says"), (4000, "wrong", "expired")])
def test_doctor_sees_a_wrong_clock_and_an_expired_certificate(
    config_path: Path, days: int, verdict: str, text: str
) -> None:
    finding = found(load_node_config(config_path), datetime.now(UTC) + timedelta(days=days))["certificate"]
    assert finding.verdict == verdict and text in finding.text and finding.hint


def test_doctor_goes_on_after_what_is_broken(config_path: Path) -> None:
    config = load_node_config(config_path)
    (config.state / "roster.toml").unlink()
    findings = found(config, datetime.now(UTC))
    assert findings["roster"].verdict == "wrong" and findings["certificate"].verdict == "ok"


def test_preflight_counts_and_steps_without_sending_or_charging(config_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "small.yaml"
    expected = {"coast": 60, "harbour": 600, "valley": 600}
    derive(POLICIES / "dp_fedavg.yaml", {"name": "small", "privacy.expected_patients": expected}, policy)
    command = ["preflight", "--config", str(config_path), "--policy", str(policy), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    fields = json.loads(result.stdout)
    assert fields["train_patients"] + fields["test_patients"] == 60 and fields["expected_patients"] == 60
    assert fields["step_norm"] > 0 and 7.9 < fields["epsilon"] <= 8
    state = load_node_config(config_path).state
    assert not (state / "ledger").exists() and not (state / "journal").exists()
    assert fields["noise_ratio"] > 10 > fields["epsilon"]  # sixty patients alone drown; the cohort does not
