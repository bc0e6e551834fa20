"""A node acts on its own approved copy, for one run per approval."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy, read_policy
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.secagg.messages import Manifest, OpenEpoch
from fedvlm_secure.secagg.record import field_types
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, Signature
from node.approvals import approve, claim
from node.mandate import find_mandate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHIPPED = Path(__file__).parents[2] / "policies" / "fedavg.yaml"


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "agreed.yaml"
    path.write_bytes(SHIPPED.read_bytes())
    return path


def _opened(name: str) -> OpenEpoch:
    blank = {int: 1, str: name, bytes: b"x", float: 1.0, Digest: bytes(32)}
    fields = field_types(Manifest).items()
    manifest = Manifest(**{key: blank.get(declared, ()) for key, declared in fields})  # type: ignore[arg-type]
    return OpenEpoch(signature=Signature(bytes(64)), manifest=manifest, epoch=0, first_round=0)


def _begin(state: Path, memory: NodeMemory, approval: str, name: str) -> OpenEpoch:
    """What the machine and the service note when a run opens."""
    opened = _opened(name)
    run_hash = opened.manifest.run_hash
    memory.commit({"run/open": opened, "approval/" + approval: bytes(run_hash)}, ["run/finished"])
    claim(state, Digest(bytes.fromhex(approval.split("/")[0])), run_hash)
    return opened


def test_without_an_approval_the_error_names_hash_and_command(tmp_path: Path, policy_file: Path) -> None:
    memory = NodeMemory(MemoryJournal())
    with pytest.raises(PolicyError) as caught:
        find_mandate(tmp_path / "state", [policy_file], memory)
    assert caught.value.code == "NOT_APPROVED"
    assert policy_hash(load_policy(policy_file)).hex() in caught.value.cause
    assert f"fedvlm-node approve {policy_file}" in caught.value.hint
    with pytest.raises(PolicyError) as caught:
        find_mandate(tmp_path / "state", [], memory)
    assert caught.value.code == "NOT_APPROVED"


def test_an_approval_serves_its_run_until_it_is_over_and_no_other(tmp_path: Path, policy_file: Path) -> None:
    state, memory = tmp_path / "state", NodeMemory(MemoryJournal())
    approve(state, read_policy(policy_file), NOW)
    first = find_mandate(state, [], memory)
    assert first.fresh and first.policy == load_policy(policy_file)
    _begin(state, memory, first.approval, "one")
    resumed = find_mandate(state, [], memory)
    assert (resumed.approval, resumed.fresh) == (first.approval, False)
    memory.commit({"run/finished": b"1"})
    assert not find_mandate(state, [], memory).fresh
    approve(state, read_policy(policy_file), NOW)
    second = find_mandate(state, [], memory)
    assert second.fresh and second.approval != first.approval
    _begin(state, memory, second.approval, "two")
    assert find_mandate(state, [], memory).approval == second.approval


def test_a_policy_approved_again_leaves_a_run_that_hangs(tmp_path: Path, policy_file: Path) -> None:
    state, memory = tmp_path / "state", NodeMemory(MemoryJournal())
    approve(state, read_policy(policy_file), NOW)
    first = find_mandate(state, [], memory)
    _begin(state, memory, first.approval, "one")
    approve(state, read_policy(policy_file), NOW)
    again = find_mandate(state, [], memory)
    assert again.fresh and again.approval != first.approval


def test_the_policy_file_may_change_the_approved_copy_stays(tmp_path: Path, policy_file: Path) -> None:
    state, memory = tmp_path / "state", NodeMemory(MemoryJournal())
    approve(state, read_policy(policy_file), NOW)
    approved = load_policy(policy_file)
    policy_file.write_text(policy_file.read_text().replace("rounds: 5", "rounds: 6"))
    assert find_mandate(state, [], memory).policy == approved
    with pytest.raises(PolicyError) as caught:
        find_mandate(state, [policy_file], memory)
    assert caught.value.code == "NOT_APPROVED"
