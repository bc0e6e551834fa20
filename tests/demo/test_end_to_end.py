"""`fedvlm demo` from the command to its files: real processes, real certificates, loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedvlm_secure.audit.summary import from_json
from fedvlm_secure.cli.children import child_environment
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.vlm.base import shipped_base
from node.export import export_run
from tests.demo.test_children import alive


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """The JSON line of one quick demo, its folder, and all it printed."""
    from fedvlm_secure.cli.demo_policy import default_policy
    from fedvlm_secure.policy.derive import derive

    folder = tmp_path_factory.mktemp("demo")
    policy, out = folder / "quick.yaml", folder / "out"
    changes = {"name": "quick", "rounds": 5, "local.steps": 3, "local.batch_size": 8, "evaluation.limit": 20}
    derive(default_policy(own_data=False), changes, policy)
    arguments = ["demo", "--policy", str(policy), "--rounds", "2", "--out", str(out), "--json", "--keep"]
    done = subprocess.run(
        [sys.executable, "-m", "fedvlm_secure.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(line, dict)
    return line, out, done.stdout + done.stderr


pytestmark = pytest.mark.e2e


def test_json_line_tells_the_run(finished: tuple[dict[str, Any], Path, str]) -> None:
    line, out, _ = finished
    assert line["nodes"] == ["coast", "harbour", "valley"]
    assert line["rounds"] == 2
    assert [entry["round"] for entry in line["accuracy"]] == [0, 1, 2]
    assert [entry["whole_test_set"] for entry in line["accuracy"]] == [False, False, True]
    parties = ["aggregator", "coast", "harbour", "valley"]
    assert sorted(line["process_ids"]) == sorted(line["certificate_serials"]) == parties
    assert len(set(line["certificate_serials"].values())) == 4
    assert set(line["seconds"]) == {"total", "set_up", "training"}
    assert line["report"] == str(out / "report.html")


def test_every_partys_audit_records_are_kept_and_hold(finished: tuple[dict[str, Any], Path, str]) -> None:
    line, out, _ = finished
    assert line["audit"]["verified"] is True
    assert Path(line["audit"]["report"]).is_file()
    kept = sorted(path.parent.name for path in (out / "audit").glob("*/audit.jsonl"))
    assert kept == ["aggregator", "coast", "harbour", "valley"]
    verify = [sys.executable, "-m", "fedvlm_secure.cli.main", "audit", "verify", str(out / "audit")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    chain = out / "audit" / "coast" / "audit.jsonl"
    whole = chain.read_bytes()
    chain.write_bytes(whole.replace(b"coast", b"roast", 1))
    assert subprocess.run(verify, check=False, capture_output=True).returncode != 0
    chain.write_bytes(whole)


def test_demo_without_a_policy_is_private() -> None:
    from fedvlm_secure.cli.demo_policy import default_policy

    assert load_policy(default_policy(own_data=False, private=True)).privacy.mechanism == "dp_sgd"


def test_accuracy_is_counted_per_hospital_and_task_with_its_interval(
    finished: tuple[dict[str, Any], Path, str],
) -> None:
    for entry in finished[0]["accuracy"]:
        for task, pooled in entry["pooled"].items():
            own = [scores[task] for scores in entry["hospitals"].values()]
            assert pooled["total"] == sum(score["total"] for score in own)
            assert pooled["correct"] == sum(score["correct"] for score in own)
            for score in (pooled, *own):
                low, high = score["interval_95"]
                assert low <= score["accuracy"] <= high
                assert 0.0 <= score["constrained_accuracy"] <= 1.0
        if not entry["whole_test_set"]:
            assert all(sum(s["total"] for s in tasks.values()) <= 20 for tasks in entry["hospitals"].values())


def test_protected_upload_is_smaller_than_the_plain_update(finished: tuple[dict[str, Any], Path, str]) -> None:
    line = finished[0]
    for sent, plain in zip(line["upload_bytes"], line["plain_bytes"], strict=True):
        assert sent["round"] == plain["round"]
        for node in line["nodes"]:
            assert 0 < sent["nodes"][node] <= 0.70 * plain["nodes"][node]


def test_every_process_is_gone(finished: tuple[dict[str, Any], Path, str]) -> None:
    assert not any(alive(pid) for pids in finished[0]["process_ids"].values() for pid in pids)


def test_what_was_approved_is_the_derived_file(finished: tuple[dict[str, Any], Path, str]) -> None:
    line, out, _ = finished
    policy = load_policy(out / "policy.yaml")
    assert policy.rounds == 2
    assert line["policy_hash"] == policy_hash(policy).hex()


def test_a_hospitals_own_scores_are_nowhere_at_the_aggregator(finished: tuple[dict[str, Any], Path, str]) -> None:
    home = finished[1] / "consortium" / "coordinator"
    assert not list(home.rglob("metrics.jsonl"))
    for entry in finished[0]["accuracy"]:
        for tasks in entry["hospitals"].values():
            shown = json.dumps({"correct": tasks["vqa"]["correct"], "total": tasks["vqa"]["total"]})
            summaries = "".join(path.read_text(encoding="utf-8") for path in home.rglob("summary.json"))
            assert shown not in " ".join(summaries.split())


def test_report_and_adapter_are_there_and_tell_no_path(finished: tuple[dict[str, Any], Path, str]) -> None:
    line, out, _ = finished
    report = from_json((out / "report.json").read_text(encoding="utf-8"))
    assert report.run == line["run"]
    assert {path.name for path in (out / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "connector.safetensors",
    }
    for path in (out / "report.html", out / "report.json", out / "adapter" / "adapter_config.json"):
        assert str(out.parent) not in path.read_text(encoding="utf-8")


def test_plain_lines_show_each_round(finished: tuple[dict[str, Any], Path, str]) -> None:
    printed = finished[2]
    for words in ("before training |", "round 1 of 2 |", "round 2 of 2 |", "of plain)"):
        assert words in printed
    assert "\x1b" not in printed


def test_every_hospital_holds_the_same_tuned_model(finished: tuple[dict[str, Any], Path, str], tmp_path: Path) -> None:
    line, out, _ = finished
    exported = []
    for node in line["nodes"]:
        export_run(out / "consortium" / "hospitals" / node, tmp_path / node)
        files = ("adapter_model.safetensors", "connector.safetensors")
        exported.append([load_file(tmp_path / node / name) for name in files])
    lora, connector = exported[0]
    assert any(tensor.any() for name, tensor in lora.items() if "lora_B" in name), "the adapter never moved"
    base = load_file(shipped_base("tiny-fuyu") / "model.safetensors")
    assert all((tensor != base[name.removeprefix("model.")]).any() for name, tensor in connector.items())
    for other in exported[1:]:
        for own, theirs in zip(exported[0], other, strict=True):
            assert own.keys() == theirs.keys()
            assert all(np.array_equal(own[name], theirs[name]) for name in own)


def test_hospital_that_joined_no_run_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="NO_RUN"):
        export_run(tmp_path / "state", tmp_path / "out")
    assert not (tmp_path / "out").exists()
