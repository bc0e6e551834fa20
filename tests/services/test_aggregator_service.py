"""`aggregator serve` as a process: quick to listen, alone on its home, orderly when told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.service import serve
from aggregator.status import read_summaries
from fedvlm_secure.errors import PolicyError, StorageError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.secagg.messages import Manifest, OpenEpoch
from fedvlm_secure.secagg.record import field_types, record_bytes
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import Digest, NodeId, Signature
from tests.support.consortium import SteadyClock, make_consortium

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "policies" / "fedavg.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_consortium(tmp_path, "hospital-a", "hospital-b", "hospital-c").authority.home


@contextmanager
def _process(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    command = [sys.executable, "-m", "aggregator", "serve", "--policy", str(POLICY), "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=10)


def _serve(home: Path) -> int:
    entropy = ShakeEntropy(0, "test")
    return serve(POLICY, home, "127.0.0.1:0", True, clock=SteadyClock(), entropy=entropy, wall_s=time.time)


def test_it_says_where_it_listens_and_stops_when_told(home: Path) -> None:
    with _process(home) as (process, first):
        assert first["event"] == "listening" and first["pid"] == process.pid
        assert first["policy"] == policy_hash(load_policy(POLICY)).hex()
        host, _, port = str(first["address"]).rpartition(":")
        assert host == "127.0.0.1" and int(port) > 0
        with pytest.raises(StorageError) as caught:
            _serve(home)
        assert caught.value.code == "STATE_IN_USE"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 130
    assert (home / "state" / "journal" / "journal.sqlite").exists(), "the run resumes with the next start"
    with _process(home) as (process, first):
        assert first["event"] == "listening", "a killed or stopped service leaves no lock"
        os.kill(process.pid, signal.SIGKILL)


def test_another_policys_unfinished_run_is_not_touched(home: Path) -> None:
    blank = {int: 1, str: "x", bytes: b"x", float: 1.0, Digest: bytes(32)}
    fields = {name: blank.get(declared, ()) for name, declared in field_types(Manifest).items()}
    manifest = Manifest(**{**fields, "nodes": (NodeId("hospital-a"),)})  # type: ignore[arg-type]
    opened = OpenEpoch(signature=Signature(bytes(64)), manifest=manifest, epoch=0, first_round=0)
    journal = SqliteJournal(home / "state" / "journal")
    journal.commit({"open": record_bytes(opened), "phase": b"keys"})
    journal.close()
    with pytest.raises(PolicyError) as caught:
        _serve(home)
    assert caught.value.code == "RUN_IN_PROGRESS"
    journal = SqliteJournal(home / "state" / "journal")
    assert journal.get("open") == record_bytes(opened)
    journal.close()
    assert read_summaries(home) == ()
