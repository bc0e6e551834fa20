"""`fedvlm audit empirical` says what it tried and showed, and ends with an error only where something is broken."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import fedvlm_secure
from fedvlm_secure.audit.empirical import FILE_NAME, read_empirical
from fedvlm_secure.cli.empirical import audit_policy
from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.errors import FedvlmError, PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.train import private
from tests.support.entropy import entropy

POLICIES = Path(fedvlm_secure.__file__).parents[1] / "policies"


@pytest.mark.parametrize("name", ["dp_fedavg", "dp_two_stage", "dp_final_scores", "dp_fedadam"])
def test_every_policy_with_noise_can_be_audited(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = POLICIES / f"{name}.yaml"
    audit_policy(path, trials=100, canaries=0, out=None, as_json=True, entropy=entropy(name))
    shown = json.loads(capsys.readouterr().out)
    assert shown["policy_hash"] == policy_hash(load_policy(path)).hex()
    # the event that is charged is the noise that was resolved, up to the rounding that is charged with it
    assert shown["white_box"]["claimed_mu"] == pytest.approx(1 / shown["noise_multiplier"], rel=1e-3)
    assert shown["white_box"]["judged"] == 90
    assert shown["canaries"] is None and not shown["refuted"]


def test_what_is_shown_and_what_cannot_be_is_said_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = POLICIES / "dp_fedavg.yaml"
    audit_policy(path, trials=200, canaries=12, out=tmp_path, as_json=False, entropy=entropy("both"))
    told = capsys.readouterr()
    assert "mu 0.870 is claimed" in told.out
    assert "never certify" in told.out and "no hospital's data" in told.out
    assert "12 canaries can show" in told.err  # epsilon 8 is beyond what they could ever refute
    assert "100 of 200 trials" in told.err and "rounds" in told.err
    found = read_empirical(tmp_path)
    assert found is not None and found.canaries is not None
    assert (found.white_box.trials, found.canaries.canaries) == (200, 12)


def test_a_mechanism_without_noise_ends_with_an_error_once_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(private, "DiscreteGaussian", lambda variance: DiscreteGaussian(16))
    with pytest.raises(FedvlmError) as caught:
        audit_policy(
            POLICIES / "dp_fedavg.yaml", trials=200, canaries=0, out=tmp_path, as_json=True, entropy=entropy("broken")
        )
    assert caught.value.code == "MECHANISM_REFUTED"
    assert json.loads(capsys.readouterr().out)["refuted"] is True
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["white_box"]["right"] == 180


@pytest.mark.parametrize(("name", "mechanism"), [("fedavg", "none"), ("dp_distributed", "distributed")])
def test_a_policy_whose_steps_hold_no_whole_noise_is_refused_at_once(name: str, mechanism: str) -> None:
    with pytest.raises(PolicyError) as caught:
        audit_policy(POLICIES / f"{name}.yaml", trials=1 << 40, canaries=0, out=None, as_json=False)
    assert caught.value.code == "NOTHING_TO_AUDIT"
    assert f"mechanism is {mechanism}" in caught.value.cause


@pytest.mark.parametrize(("canaries", "out"), [(5, None), (0, Path("no such folder"))])
def test_options_that_cannot_work_are_refused_before_the_minute(canaries: int, out: Path | None) -> None:
    with pytest.raises(PolicyError) as caught:
        audit_policy(POLICIES / "dp_fedavg.yaml", trials=1 << 40, canaries=canaries, out=out, as_json=False)
    assert caught.value.code == "OPTION_WRONG"


def test_an_auditor_without_the_nodes_packages_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "opacus") else object())
    with pytest.raises(PolicyError) as caught:
        audit_policy(POLICIES / "dp_fedavg.yaml", trials=100, canaries=0, out=None, as_json=False)
    assert caught.value.code == "NODE_PACKAGES_MISSING"
    assert caught.value.cause.startswith("torch, opacus are not installed")
