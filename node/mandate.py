"""What this node may do now: the approved policy of the run it is in, or of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.types import Digest
from node.approvals import Approval, approvals, approved_policy

_OVER = ("run/finished", "run/aborted")


@dataclass(frozen=True)
class Mandate:
    """An approval and the approved copy it stands for. `fresh`: no run has used it up."""

    approval: str
    policy_hash: Digest
    policy: Policy
    fresh: bool


def find_mandate(state: Path, wanted: Sequence[Path], memory: NodeMemory) -> Mandate:
    """Choose among the approvals.

    The run that the journal is in goes on, unless its policy was approved once more since; else the oldest approval
    that no run has used; else, for what is left to do of it, the run that was finished or aborted.

    Args:
        state: the node's folder.
        wanted: policy files that narrow the choice, as node.yaml names them; none allows every approved policy.

    Raises:
        PolicyError: NOT_APPROVED, with the hash of the policy that is wanted, or APPROVAL_ALTERED.
    """
    hashes = {policy_hash(load_policy(path)): path for path in wanted}
    standing = [one for one in approvals(state) if not hashes or one.policy_hash in hashes]
    present = [one for one in standing if _serves(one, memory)]
    fresh = [one for one in standing if one.used_by is None and one not in present]
    over = any(memory.journal.get(key) is not None for key in _OVER)
    again = [one for one in fresh if present and one.policy_hash == present[-1].policy_hash]
    if present and not over and not again:
        return _mandate(state, present[-1], fresh=False)
    if fresh:
        return _mandate(state, (again or fresh)[0], fresh=True)
    if present:
        return _mandate(state, present[-1], fresh=False)
    raise _not_approved(hashes)


def _serves(approval: Approval, memory: NodeMemory) -> bool:
    opened = memory.opened_epoch
    used_by = memory.journal.get("approval/" + _id(approval))
    return opened is not None and used_by == opened.manifest.run_hash


def _id(approval: Approval) -> str:
    return f"{approval.policy_hash.hex()}/{approval.number}"


def _mandate(state: Path, approval: Approval, *, fresh: bool) -> Mandate:
    return Mandate(_id(approval), approval.policy_hash, approved_policy(state, approval.policy_hash), fresh)


def _not_approved(hashes: dict[Digest, Path]) -> PolicyError:
    if hashes:
        digest, path = next(iter(hashes.items()))
        return PolicyError(
            "NOT_APPROVED",
            f"no unused approval of {path}, policy hash {digest.hex()}",
            f"read and approve it: fedvlm-node approve {path}",
        )
    return PolicyError(
        "NOT_APPROVED", "no policy is approved here for a new run", "read and approve one: fedvlm-node approve POLICY"
    )
