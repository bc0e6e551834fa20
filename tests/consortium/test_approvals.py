"""A node acts on its own approved copy, and one approval serves one run."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.types import Digest
from node import approvals

SHIPPED = Path(__file__).parents[2] / "policies" / "fedavg.yaml"
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
