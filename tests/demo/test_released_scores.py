"""Noised scores on the screen and in the JSON line: named as such, with their deviation, beside the exact ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedvlm_secure.audit.folder import open_run
from fedvlm_secure.audit.standing import rounds_of
from fedvlm_secure.audit.summary import Accuracy
from fedvlm_secure.cli.children import child_environment
from fedvlm_secure.cli.main import app
from fedvlm_secure.cli.released_scores import released_scores, show_scores
from fedvlm_secure.dp.score_release import bound_squared
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.private_release import resolve_score_multiplier
from fedvlm_secure.policy.schema import Policy
from tests.support.cohort import POLICIES

EXACT = (
    Accuracy(2, None, "vqa", 30, 40, 0.59, 0.86, 30, True),
    Accuracy(2, "coast", "vqa", 30, 40, 0.59, 0.86, 30, True),
)
FINAL = load_policy(POLICIES / "dp_final_scores.yaml")


def closed(right: float, wrong: float) -> list[dict[str, object]]:
    return [
        {"round": 0, "released": {}},
        {"round": 1},  # closed without a result
        {"round": 2, "released": {"vqa": {"right": right, "wrong": wrong, "deviation": 4.0}}},
    ]


def test_released_numbers_stand_with_their_deviation_beside_the_exact_ones(capsys: pytest.CaptureFixture[str]) -> None:
    fields = show_scores(FINAL, EXACT, closed(75.0, 25.0))
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert header == "task  model  released, noised  exact, local, not released"
    points = 100 * 4.0 * math.hypot(0.75, 0.25) / 100  # of the quotient, to first order
    assert (
        f"vqa  after round 2  75.0 % (about 75 of 100 patients; noise of +- 4.0 on each count is +- {points:.1f}" in row
    )
    assert row.endswith("75.0 % (59.0 to 86.0; 30 of 40)")
    assert fields["accuracy_source"] == "exact, local, not released"
    assert fields["released_scores"] == [
        {
            "round": 2,
            "source": "released, noised",
            "tasks": {
                "vqa": {
                    "accuracy": 0.75,
                    "accuracy_deviation": round(points / 100, 4),
                    "right": 75.0,
                    "wrong": 25.0,
                    "deviation": 4.0,
                }
            },
        }
    ]


def test_counts_that_drowned_give_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    fields = show_scores(FINAL, EXACT, closed(1.0, -3.0))
    assert "larger than the counts (right 1.0, wrong -3.0, each +- 4.0 patients)" in capsys.readouterr().out
    line = json.loads(json.dumps(fields))
    assert line["released_scores"][0]["tasks"]["vqa"]["accuracy"] is None


def test_a_run_that_ended_before_its_release_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_scores(FINAL, EXACT, closed(1.0, 1.0)[:2])["released_scores"] == []
    assert "no scores were released" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fedavg.yaml", "dp_fedavg.yaml"])
def test_nothing_is_called_released_where_the_policy_releases_no_noised_scores(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_scores(load_policy(POLICIES / name), EXACT, closed(75.0, 25.0)) == {}
    assert "released" not in capsys.readouterr().out


def short(folder: Path, release: str) -> tuple[Path, Policy]:
    changes = {
        "rounds": 1,
        "privacy.steps_per_round": 1,
        "evaluation": {"release": release, "epsilon": 1, "limit": 5},
    }
    path = folder / "short.yaml"
    return path, derive(POLICIES / "dp_final_scores.yaml", changes, path)


@pytest.mark.parametrize(("release", "model"), [("final", 1), ("each", 0)])
def test_simulate_prints_what_its_sums_released(tmp_path: Path, release: str, model: int) -> None:
    path, agreed = short(tmp_path, release)
    words = ["simulate", "--policy", str(path), "--patients", "40", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout.splitlines()[-1])
    (shown,) = line["released_scores"]
    assert (shown["round"], shown["source"], set(shown["tasks"])) == (
        model,
        "released, noised",
        {"vqa", "classification"},
    )
    steps = resolve_score_multiplier(agreed) * math.sqrt(bound_squared(2))
    for numbers in shown["tasks"].values():
        assert numbers["deviation"] == pytest.approx(math.sqrt(3) * steps / 1024, rel=1e-3)  # three hospitals' noise
    assert [one.round for one in released_scores(line["rounds"])] == [model] * 2
    assert "task  model  released, noised  exact, local, not released" in done.stdout


@pytest.mark.e2e
def test_demo_prints_what_the_aggregator_signed(tmp_path: Path) -> None:
    path, _ = short(tmp_path, "final")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "fedvlm_secure.cli.main", "demo", "--policy", str(path), "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        env=child_environment(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (shown,) = json.loads(done.stdout.splitlines()[-1])["released_scores"]
    closing = rounds_of(open_run(out / "audit", None).chains["aggregator"])[-1]
    signed = {one.task: (one.right, one.wrong, one.deviation) for one in closing.released}
    assert {task: (n["right"], n["wrong"], n["deviation"]) for task, n in shown["tasks"].items()} == signed
    assert len(signed) == 2 and "task  model  released, noised  exact, local, not released" in done.stdout
