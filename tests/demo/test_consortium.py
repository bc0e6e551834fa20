"""A consortium of real processes: what set-up leaves where, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedvlm_secure.cli.children import ChildFailed, child_environment
from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.cli.hospitals import Hospital, phantom_hospitals
from fedvlm_secure.errors import RunAborted
from fedvlm_secure.types import NodeId
from tests.demo.test_children import alive


def test_set_up_leaves_private_keys_with_their_owners_only(tmp_path: Path, quick_policy: Path) -> None:
    consortium = Consortium(tmp_path / "c", quick_policy, phantom_hospitals(3, 1))
    ceremony = consortium.set_up()
    keys = list((tmp_path / "c").rglob("*.key.pem"))
    owners = {path.relative_to(tmp_path / "c").parts[:2] for path in keys}
    assert owners == {("coordinator", "authority"), *(("hospitals", node) for node in consortium.members)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    handed_over = b"".join(path.read_bytes() for path in (tmp_path / "c" / "exchange").iterdir())
    assert b"PRIVATE" not in handed_over
    assert len(set(ceremony.serials.values())) == 4


def test_every_hospital_pins_the_same_roster_and_approved_the_same_policy(tmp_path: Path, quick_policy: Path) -> None:
    consortium = Consortium(tmp_path / "c", quick_policy, phantom_hospitals(4, 1))
    ceremony = consortium.set_up()
    pinned = {(member.state / "roster.toml").read_bytes() for member in consortium.members.values()}
    assert len(pinned) == 1
    for member in consortium.members.values():
        assert [path.name for path in (member.state / "approved").iterdir()] == [ceremony.policy_hash.hex()]


@pytest.mark.e2e
def test_failure_of_one_hospital_is_told_in_its_words_and_ends_all_processes(
    tmp_path: Path, quick_policy: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"image": "gone.png"\n', encoding="utf-8")
    hospitals = (*phantom_hospitals(3, 1), Hospital(NodeId("broken"), {"jsonl": str(broken)}))
    consortium = Consortium(tmp_path / "c", quick_policy, hospitals)
    consortium.set_up()
    with consortium:
        consortium.start()
        with pytest.raises(ChildFailed, match=r"broken: broken\.jsonl:1") as caught:
            consortium.wait()
    assert (caught.value.code, caught.value.exit_code) == ("JSON_BROKEN", 3)
    pids = [pid for started in consortium.pids.values() for pid in started]
    assert len(pids) == 5
    assert not any(alive(pid) for pid in pids)


def test_aggregator_that_cannot_start_is_told_before_any_hospital_starts(tmp_path: Path, quick_policy: Path) -> None:
    consortium = Consortium(tmp_path / "c", quick_policy, phantom_hospitals(3, 1))
    consortium.set_up()
    (consortium.home / "authority" / "server.key.pem").chmod(0o644)
    with pytest.raises(ChildFailed, match="aggregator: ") as caught, consortium:
        consortium.start()
    assert caught.value.code == "KEY_FILE_OPEN"
    assert all(not consortium.pids[node] for node in consortium.members)


@pytest.mark.e2e
def test_run_in_which_nothing_happens_is_given_up(tmp_path: Path, quick_policy: Path) -> None:
    consortium = Consortium(tmp_path / "c", quick_policy, phantom_hospitals(3, 1), stall_s=0.5)
    consortium.set_up()
    with consortium:
        consortium.start()
        for node in consortium.members:  # killed from here: that is no failure, but nobody is left to go on
            consortium.kill(node)
        with pytest.raises(RunAborted, match="STALLED"):
            consortium.wait()
    assert not any(child.running for child in consortium.children)


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process_behind(tmp_path: Path, quick_policy: Path, number: int) -> None:
    out = tmp_path / "out"
    demo = subprocess.Popen(
        [sys.executable, "-m", "fedvlm_secure.cli.main", "demo", "--policy", str(quick_policy), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(os.environ),
    )
    until_s = time.monotonic() + 60
    while len(started := _started(out)) < 4 and time.monotonic() < until_s:
        time.sleep(0.05)
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=30)
    assert len(started) == 4, errors
    assert demo.returncode == 130
    assert "INTERRUPTED" in errors
    assert "Traceback" not in errors
    asked = (out / "consortium" / "logs" / "aggregator.jsonl").read_text(encoding="utf-8")
    assert '"event": "stopped"' in asked, "it was asked to end before anything harder"
    assert not any(alive(pid) for pid in started)


def _started(out: Path) -> list[int]:
    """Process ids of a demo's services, as each wrote its own into its log."""
    lines = [line for path in (out / "consortium" / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
    return [event["pid"] for event in map(json.loads, lines) if "pid" in event]


@pytest.mark.parametrize(("event", "stalls"), [("waiting", True), ("connecting", True), ("uploaded", False)])
def test_only_a_step_of_the_run_counts_as_going_on(
    tmp_path: Path, quick_policy: Path, event: str, stalls: bool
) -> None:
    consortium = Consortium(tmp_path / "c", quick_policy, phantom_hospitals(3, 1), stall_s=0.3)
    consortium.set_up()
    stalled = False
    with (tmp_path / "c" / "logs" / "coast.jsonl").open("a", encoding="utf-8") as log:
        for _ in range(8):
            log.write(json.dumps({"event": event}) + "\n")
            log.flush()
            time.sleep(0.1)
            try:
                consortium.poll()
            except RunAborted:
                stalled = True
    assert stalled is stalls
