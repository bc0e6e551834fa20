"""Pause, withdraw and abort: immediate, recorded, and nothing afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.main import app as aggregator_app
from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.actions import Send, Stop
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.secagg.messages import Abort
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import NodeId
from node.main import app
from node.pause import KillSwitch, has_withdrawn
from node.service import serve
from tests.support.cohort import Cohort
from tests.support.consortium import SteadyClock, make_consortium

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A = NodeId("a")
ROOT = Path(__file__).parents[2]


def test_a_pause_stands_until_it_is_taken_back(tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path)
    assert not switch.thrown and switch.pause(NOW) and not switch.pause(NOW)
    assert KillSwitch(tmp_path).paused and (tmp_path / "paused.json").stat().st_mode & 0o777 == 0o600
    assert switch.resume() and not switch.resume() and not switch.thrown


def test_a_paused_hospital_does_not_even_dial(tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path, "hospital-a", "hospital-b", "hospital-c")
    state = consortium.keystores["hospital-a"].state
    runner = CliRunner()
    paused = runner.invoke(app, ["pause", "--state", str(state), "--json"])
    assert json.loads(paused.stdout) == {"node": "hospital-a", "paused": True, "changed": True}
    config = tmp_path / "node.yaml"
    config.write_text(
        f"node: hospital-a\nstate: {state}\naggregator: 127.0.0.1:1\npopulation: p\n"
        "data: {phantoms: {site: coast, seed: 1, patients: 30}}\n"
    )
    with pytest.raises(RunAborted) as caught:
        serve(config, True, clock=SteadyClock(), entropy=ShakeEntropy(0, "t"), wall_s=lambda: 1.8e9)
    assert caught.value.code == "NODE_PAUSED" and "pause --off" in caught.value.hint
    assert runner.invoke(app, ["pause", "--off", "--state", str(state)]).exit_code == 0
    assert not KillSwitch(state).paused


def test_withdrawal_needs_a_yes(tmp_path: Path) -> None:
    state = make_consortium(tmp_path, "hospital-a", "hospital-b", "hospital-c").keystores["hospital-a"].state
    runner = CliRunner()
    assert runner.invoke(app, ["withdraw", "--state", str(state), "--json"]).exit_code == 2
    assert not KillSwitch(state).withdrawn
    assert runner.invoke(app, ["withdraw", "--state", str(state), "--yes"]).exit_code == 0
    assert KillSwitch(state).withdrawn


def test_withdrawing_erases_every_secret_of_the_run_and_says_so_once() -> None:
    cohort = Cohort(4, rounds=3)
    cohort.run(lambda f: f.aggregator.phase is Phase.SIGN and f.nodes[A].own.memory.upload is not None)
    node = cohort.federation.nodes[A]
    told, stop = node.run.withdraw(has_withdrawn())
    assert isinstance(told, Send) and isinstance(told.message, Abort) and told.message.code == "NODE_WITHDREW"
    assert isinstance(stop, Stop) and stop.error is not None
    journal = node.own.memory.journal
    left = [key for key in journal.keys("") if key.startswith(("round/", "epoch/roots", "epoch/private"))]
    assert left == [] and journal.get("run/withdrawn") == b"1"
    cohort.federation.drop(A)
    cohort.run()
    assert cohort.summaries()[-1]["survivors"] == ["b", "c", "d"]


def test_withdrawing_from_a_finished_run_changes_nothing() -> None:
    cohort = Cohort(3, rounds=1)
    cohort.run()
    node = cohort.federation.nodes[A]
    node.run.withdraw(has_withdrawn())
    assert node.own.memory.journal.get("run/withdrawn") is None and node.run.finished


def test_an_aborted_run_ends_for_everybody_and_keeps_the_last_model() -> None:
    cohort = Cohort(3, rounds=3)
    cohort.run(lambda f: len(f.aggregator_self.memory.summaries) == 1)
    kept = cohort.federation.state.digest
    for entry in cohort.federation.aggregator.abort():
        cohort.federation.deliver(entry)
    with pytest.raises(RunAborted) as caught:
        cohort.run()
    assert caught.value.code == "RUN_ENDED"
    assert all(simulated.stopped for simulated in cohort.federation.nodes.values())
    assert cohort.federation.state.digest == kept
    assert cohort.federation.aggregator.abort() == ()


def test_abort_without_a_run_is_an_error_and_status_says_so(tmp_path: Path) -> None:
    home = make_consortium(tmp_path, "hospital-a", "hospital-b", "hospital-c").authority.home
    runner = CliRunner()
    shown = runner.invoke(aggregator_app, ["status", "--home", str(home), "--json"])
    assert json.loads(shown.stdout) == {"runs": 0, "last": None}
    ended = runner.invoke(aggregator_app, ["abort", "--home", str(home), "--yes"])
    assert ended.exit_code == 2 and "NO_RUN" in ended.stderr


def test_abort_ends_a_service_that_runs(tmp_path: Path) -> None:
    home = make_consortium(tmp_path, "hospital-a", "hospital-b", "hospital-c").authority.home
    command = [sys.executable, "-m", "aggregator", "serve", "--policy", str(ROOT / "policies" / "fedavg.yaml")]
    arguments = [*command, "--home", str(home), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and "listening" in process.stdout.readline()
        ended = CliRunner().invoke(aggregator_app, ["abort", "--home", str(home), "--yes", "--json"])
        assert ended.exit_code == 0, ended.output
        assert process.wait(timeout=30) == RunAborted.exit_code
        assert "RUN_ENDED" in process.stdout.read()
    finally:
        process.kill()
        process.communicate()
    assert not (home / "abort.json").exists() and not (home / "state").exists()
