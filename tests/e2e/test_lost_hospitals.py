"""Four hospitals and an aggregator as real processes; one hospital is killed with SIGKILL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.cli.hospitals import phantom_hospitals
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.types import NodeId
from tests.support.cohort import POLICIES
from tests.support.processes import paused, sessions
from tests.support.stalling_proxy import StallingProxy

pytestmark = pytest.mark.e2e

VICTIM = NodeId("harbour")
OTHERS = ["coast", "hills", "valley"]
EVERYBODY = sorted([*OTHERS, VICTIM])
ROUNDS = 8  # enough that the run still goes on when the first closed round is noticed, however busy the machine is
BEFORE_THE_UPLOAD_ENDS = 120_000  # bytes upstream: past the handshake and set-up, inside the 255 kB vector


class ProxiedConsortium(Consortium):
    """Its victim dials the aggregator through a proxy."""

    proxy: StallingProxy | None = None

    def _node_yaml(self, node: NodeId, member: Any) -> str:
        text = super()._node_yaml(node, member)
        if node == VICTIM and self.proxy is None:
            self.proxy = StallingProxy(self._address, BEFORE_THE_UPLOAD_ENDS)
        return text.replace(self._address, self.proxy.address) if self.proxy and node == VICTIM else text


def small_policy(folder: Path) -> Path:
    path = folder / "policy.yaml"
    changes = {
        "rounds": ROUNDS,
        "local.steps": 4,
        "local.batch_size": 32,
        "evaluation.limit": 20,
        "cohort.deadline": "90s",
    }
    derive(POLICIES / "fedavg.yaml", changes, path)
    return path


def consortium(folder: Path, cls: type[Consortium] = Consortium) -> Consortium:
    folder.mkdir(exist_ok=True)
    hospitals = phantom_hospitals(4, seed=5, patients=60)
    return cls(folder / "consortium", small_policy(folder), hospitals, stall_s=60)


def uploaded(running: Consortium) -> set[str]:
    """Hospitals that have uploaded since the start, by the aggregator's own events."""
    return {str(event["node"]) for event in running.steps if event.get("event") == "uploaded"}


def closed(running: Consortium) -> list[dict[str, Any]]:
    return list(running.progress.get("summaries", ()))  # type: ignore[call-overload]


def wait_for(running: Consortium, condition: Callable[[Consortium], bool]) -> None:
    running.wait(until=condition)
    assert condition(running)


def restart_and_finish(running: Consortium) -> None:
    """The victim comes back after the first round is closed; the run waits for it in an open round."""
    wait_for(running, lambda r: len(closed(r)) >= 1)
    before = sessions(running, VICTIM)
    with paused(running, "coast"):
        running.restart(VICTIM)
        wait_for(running, lambda r: sessions(r, VICTIM) > before)
    running.wait()


def check_rounds(running: Consortium, *, first: list[str]) -> None:
    """The first closed with `first`, later ones with everybody again; all end at one state."""
    rounds = closed(running)
    assert [entry["void"] for entry in rounds] == [False] * ROUNDS
    assert rounds[0]["survivors"] == first
    assert rounds[-1]["survivors"] == EVERYBODY
    for member in running.members.values():
        assert any(row["last"] and row["round"] == ROUNDS for row in member.metrics)


def test_hospital_killed_while_it_uploads_is_left_out_and_returns(tmp_path: Path) -> None:
    with consortium(tmp_path, ProxiedConsortium) as running:
        assert isinstance(running, ProxiedConsortium)
        running.set_up()
        running.start()
        assert running.proxy is not None
        try:
            assert running.proxy.stalled.wait(60)
            wait_for(running, lambda r: set(OTHERS) <= uploaded(r))
            assert VICTIM not in uploaded(running)
            running.kill(VICTIM)
            running.proxy.release()
            restart_and_finish(running)
        finally:
            running.proxy.close()
        check_rounds(running, first=OTHERS)


def test_hospital_killed_after_its_upload_is_in_the_sum_and_returns(tmp_path: Path) -> None:
    with consortium(tmp_path) as running:
        running.set_up()
        running.start()
        wait_for(running, lambda r: r.progress.get("phase") == "upload")
        with paused(running, "coast"):
            wait_for(running, lambda r: VICTIM in uploaded(r))
            running.kill(VICTIM)
        restart_and_finish(running)
        check_rounds(running, first=EVERYBODY)
