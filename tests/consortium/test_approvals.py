"""A node acts on its own approved copy, and one approval serves one run."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Digest, node_id
from node import approvals
from node.keystore import create_keystore
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.main import app

SHIPPED = Path(__file__).parents[2] / "policies" / "fedavg.yaml"
NODES = ("coast", "harbour", "valley")
PRIVATE = SHIPPED.with_name("dp_fedavg.yaml")
RUN, OTHER = Digest(b"\1" * 32), Digest(b"\2" * 32)


@pytest.fixture
def policy_path(tmp_path: Path) -> Path:
    raw = b"yes\nno\n"
    (tmp_path / "answers.txt").write_bytes(raw)
    pinned = f'{{file: answers.txt, sha256: "{hashlib.sha256(raw).hexdigest()}"}}'
    path = tmp_path / "policy-of-the-run.yaml"
    path.write_text(SHIPPED.read_text(encoding="utf-8").replace('["yes", "no"]', pinned), encoding="utf-8")
    return path


def test_the_copy_stands_when_the_original_is_edited_or_gone(policy_path: Path, tmp_path: Path, now: datetime) -> None:
    state = tmp_path / "state"
    source = read_policy(policy_path)
    approval = approvals.approve(state, source, now)
    policy_path.write_text(policy_path.read_text().replace("rounds: 5", "rounds: 500"), encoding="utf-8")
    (tmp_path / "answers.txt").unlink()
    assert approvals.approved_policy(state, approval.policy_hash) == source.policy


def test_an_approval_covers_one_policy_only(policy_path: Path, tmp_path: Path, now: datetime) -> None:
    state = tmp_path / "state"
    approvals.approve(state, read_policy(policy_path), now)
    policy_path.write_text(policy_path.read_text().replace("rounds: 5", "rounds: 6"), encoding="utf-8")
    other = policy_hash(read_policy(policy_path).policy)
    with pytest.raises(PolicyError) as read:
        approvals.approved_policy(state, other)
    with pytest.raises(PolicyError) as claimed:
        approvals.claim(state, other, RUN)
    assert read.value.code == claimed.value.code == "APPROVAL_MISSING"


def test_one_approval_serves_one_run_which_may_come_back(policy_path: Path, tmp_path: Path, now: datetime) -> None:
    state = tmp_path / "state"
    source = read_policy(policy_path)
    digest = approvals.approve(state, source, now).policy_hash
    assert approvals.claim(state, digest, RUN) == source.policy
    assert approvals.claim(state, digest, RUN) == source.policy
    with pytest.raises(PolicyError) as caught:
        approvals.claim(state, digest, OTHER)
    assert caught.value.code == "APPROVAL_USED"
    second = approvals.approve(state, source, now)
    assert second.number == 2
    approvals.claim(state, digest, OTHER)
    assert [approval.used_by for approval in approvals.approvals(state)] == [RUN, OTHER]


def test_approving_twice_before_a_run_is_one_approval(policy_path: Path, tmp_path: Path, now: datetime) -> None:
    state = tmp_path / "state"
    first = approvals.approve(state, read_policy(policy_path), now)
    assert approvals.approve(state, read_policy(policy_path), now) == first
    assert approvals.approvals(state) == (first,)


def test_an_edited_copy_is_not_acted_on(policy_path: Path, tmp_path: Path, now: datetime) -> None:
    state = tmp_path / "state"
    digest = approvals.approve(state, read_policy(policy_path), now).policy_hash
    copy = state / "approved" / digest.hex() / "policy.yaml"
    copy.write_text(copy.read_text().replace("rounds: 5", "rounds: 500"), encoding="utf-8")
    with pytest.raises(PolicyError) as read:
        approvals.approved_policy(state, digest)
    with pytest.raises(PolicyError) as claimed:
        approvals.claim(state, digest, RUN)
    assert read.value.code == claimed.value.code == "APPROVAL_ALTERED"
    assert not list(copy.parent.glob("*.run"))


def test_nothing_approved_is_an_empty_list(tmp_path: Path) -> None:
    assert approvals.approvals(tmp_path / "state") == ()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node.yaml of a hospital whose keys were just made."""
    create_keystore(tmp_path / "state", node_id("coast"))
    path = tmp_path / "node.yaml"
    path.write_text(
        "node: coast\nstate: state\naggregator: 127.0.0.1:1\npopulation: chest\n"
        "data: {phantoms: {site: coast, seed: 1, patients: 60}}\n"
    )
    return path


def approve(state: Path, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["approve", *words, "--state", str(state), "--yes"])
    return result.exit_code, result.stdout, result.stderr


def test_with_its_own_model_an_operator_reads_noise_beside_the_signal(config: Path, tmp_path: Path) -> None:
    words = (str(PRIVATE), "--config", str(config), "--json")
    code, text, errors = approve(tmp_path / "state", *words)
    assert code == 0, errors
    fields = json.loads(text)
    privacy, d = fields["privacy"], fields["trained_values"]
    expected = privacy["noise_multiplier"] * math.sqrt(d) / (0.2 * 600)
    assert privacy["noise_to_signal"]["coast"] == pytest.approx(expected)
    assert privacy["noise_to_signal_pooled"] == pytest.approx(expected / math.sqrt(3))
    rounds = [each["epsilon"] for each in privacy["epsilon_by_round"]]
    assert len(rounds) == 5 and rounds == sorted(rounds) and 7.9 < rounds[-1] <= 8 < privacy["epsilon_two_hospitals"]
    code, text, _ = approve(tmp_path / "state", *words[:-1])
    assert "times over all hospitals together" in text and f"{d} values:" in text
    assert "600 patients are declared for it" in text and "no budget yet" in text


def test_an_operator_reads_what_the_run_leaves_of_the_budget(config: Path, tmp_path: Path) -> None:
    ledger = Ledger.create(ledger_paths(tmp_path / "state"), ShakeEntropy(0, "ledger"), lambda: 1_800_000_000)
    assert "no population chest yet" in approve(tmp_path / "state", str(PRIVATE), "--config", str(config))[1]
    ledger.add_population("chest", delta=1e-5, epsilon_limit=9.0)
    _, text, _ = approve(tmp_path / "state", str(PRIVATE), "--config", str(config))
    assert "epsilon 0.00 of 9 is spent, 9.00 left" in text


def test_without_a_model_it_says_why_noise_beside_signal_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_keystore(tmp_path / "state", node_id("coast"))
    monkeypatch.chdir(tmp_path)
    code, text, _ = approve(tmp_path / "state", str(PRIVATE))
    assert code == 0 and "nobody knows how many values are trained" in text and "--config node.yaml" in text
    assert "(participation: warn)" in text and "(versions: not named)" in text
    code, text, _ = approve(tmp_path / "state", str(PRIVATE), "--json")
    assert json.loads(text)["trained_values"] is None


def test_the_usual_file_is_found_and_another_hospitals_is_not_taken(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(approve(Path("state"), str(PRIVATE), "--json")[1])["trained_values"] > 1000
    create_keystore(tmp_path / "other", node_id("harbour"))
    assert json.loads(approve(Path("other"), str(PRIVATE), "--json")[1])["trained_values"] is None
    code, _, errors = approve(Path("other"), str(PRIVATE), "--config", str(config))
    assert code == 2 and "OTHER_STATE" in errors


@pytest.mark.parametrize(
    ("changes", "code", "number"),
    [
        (
            {"privacy.expected_patients": dict.fromkeys(NODES, 30)},
            "NOISE_DROWNS_SIGNAL",
            "12288 trained values",
        ),
        ({"privacy.expected_patients": dict.fromkeys(("coves", *NODES[1:]), 600)}, "PATIENTS_MISMATCH", "coast"),
        ({"privacy.noise_multiplier": 0.5}, "EPSILON_EXCEEDED", "0.5"),
    ],
)
def test_absurd_settings_are_refused_with_their_number(
    config: Path, tmp_path: Path, changes: dict[str, object], code: str, number: str
) -> None:
    path = tmp_path / "absurd.yaml"
    derive(PRIVATE, {"name": "absurd", **changes}, path)
    status, text, errors = approve(tmp_path / "state", str(path), "--config", str(config))
    assert status == 2 and code in errors and number in errors and "approved" not in text
    assert approvals.approvals(tmp_path / "state") == ()
