"""Approvals: the node's own copies of the policies its operator agreed to. A node acts on these copies only.

    STATE/approved/HASH/  policy.yaml, its vocabulary file, 0001.approval.json, 0001.run, ...

An approval is used up by the first run that presents it; the operator may approve the same policy again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedvlm_secure.errors import PolicyError, StorageError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import PolicySource, load_policy
from fedvlm_secure.policy.private_file import make_private_folder, read_file, write_private
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import DIGEST_BYTES, Digest

_POLICY_FILE = "policy.yaml"


@dataclass(frozen=True)
class Approval:
    """One approval. `approved_at` is ISO 8601; `used_by` is the run hash that used it up, None while it is open."""

    policy_hash: Digest
    name: str
    number: int
    approved_at: str
    used_by: Digest | None


def approve(state: Path, source: PolicySource, now: datetime) -> Approval:
    """Keep a copy of the policy and one open approval of it. An approval that is still open is returned as it is.

    Raises:
        StorageError: a file cannot be written.
    """
    digest = policy_hash(source.policy)
    folder = _folder(state, digest)
    if not (folder / _POLICY_FILE).exists():
        _copy(state, folder, source)
    standing = _standing(folder, digest, source.policy.name)
    if standing and standing[-1].used_by is None:
        return standing[-1]
    number = len(standing) + 1
    record = {"version": 1, "number": number, "approved_at": now.isoformat(timespec="seconds")}
    write_private(folder / f"{number:04d}.approval.json", (json.dumps(record) + "\n").encode("ascii"), fresh=True)
    return _standing(folder, digest, source.policy.name)[-1]


def approvals(state: Path) -> tuple[Approval, ...]:
    """Every approval, ordered by policy name and number.

    Raises:
        PolicyError: APPROVAL_ALTERED.
    """
    found: list[Approval] = []
    for folder in sorted((state / "approved").glob("*")):
        if (folder / _POLICY_FILE).exists() and len(folder.name) == 2 * DIGEST_BYTES:
            digest = Digest(bytes.fromhex(folder.name))
            found += _standing(folder, digest, approved_policy(state, digest).name)
    return tuple(sorted(found, key=lambda approval: (approval.name, approval.policy_hash, approval.number)))


def approved_policy(state: Path, digest: Digest) -> Policy:
    """The approved copy of the policy with this hash.

    Raises:
        PolicyError: APPROVAL_MISSING, or APPROVAL_ALTERED when the copy no longer has this hash.
    """
    path = _folder(state, digest) / _POLICY_FILE
    if not path.exists():
        raise _missing(digest)
    policy = load_policy(path)
    if policy_hash(policy) != digest:
        raise PolicyError(
            "APPROVAL_ALTERED",
            f"{path} is no longer the policy that was approved",
            "find out who changed it; then approve the policy again",
        )
    return policy


def claim(state: Path, digest: Digest, run_hash: Digest) -> Policy:
    """Use an approval up for one run, before the node says anything in it. The same run may claim again.

    Returns:
        The approved copy.

    Raises:
        PolicyError: APPROVAL_MISSING, APPROVAL_ALTERED, or APPROVAL_USED by another run.
        StorageError: the claim cannot be written; then nothing may be said.
    """
    policy = approved_policy(state, digest)
    folder = _folder(state, digest)
    standing = _standing(folder, digest, policy.name)
    if any(approval.used_by == run_hash for approval in standing):
        return policy
    for approval in standing:
        if approval.used_by is None:
            write_private(folder / f"{approval.number:04d}.run", run_hash.hex().encode("ascii") + b"\n", fresh=True)
            return policy
    if not standing:
        raise _missing(digest)
    raise PolicyError(
        "APPROVAL_USED",
        f"the approval of policy {policy.name} was used up by another run",
        "run `fedvlm-node approve` again to take part in a new one",
    )


def _copy(state: Path, folder: Path, source: PolicySource) -> None:
    """Copy what was checked, vocabulary first: the policy file makes the copy complete."""
    make_private_folder(state / "approved")
    make_private_folder(folder)
    vocabulary = source.policy.contract.vocabulary
    try:
        if vocabulary.file is not None and source.vocabulary is not None:
            make_private_folder((folder / vocabulary.file).parent)
            write_private(folder / vocabulary.file, source.vocabulary)
        write_private(folder / _POLICY_FILE, source.text)
    except StorageError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _standing(folder: Path, digest: Digest, name: str) -> list[Approval]:
    return list(_read(folder, digest, name))


def _read(folder: Path, digest: Digest, name: str) -> Iterator[Approval]:
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9].approval.json")):
        used = path.with_name(path.name.replace(".approval.json", ".run"))
        try:
            record = json.loads(read_file(path, missing_hint=""))
            used_by = bytes.fromhex(read_file(used, missing_hint="").decode("ascii")) if used.exists() else None
            number, approved_at = int(record["number"]), str(record["approved_at"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PolicyError("APPROVAL_ALTERED", f"{path} cannot be read", "approve the policy again") from error
        yield Approval(digest, name, number, approved_at, None if used_by is None else Digest(used_by))


def _folder(state: Path, digest: Digest) -> Path:
    return state / "approved" / digest.hex()


def _missing(digest: Digest) -> PolicyError:
    return PolicyError(
        "APPROVAL_MISSING",
        f"no approval of the policy with hash {digest.hex()[:16]}... here",
        "the aggregator may serve another policy; compare hashes, then run `fedvlm-node approve POLICY`",
    )
