"""A policy file to a Policy: read, bound, its vocabulary pinned, and checked to be feasible."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.binding import Binder
from fedvlm_secure.policy.schema import NOT_YET, Policy, Vocabulary
from fedvlm_secure.policy.yaml_tree import read_bounded, read_tree


@dataclass(frozen=True)
class PolicySource:
    """A policy and the very bytes that it was read from; `vocabulary` is None where the answers stand in the policy."""

    policy: Policy
    text: bytes
    vocabulary: bytes | None


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Returns:
        The policy, defaults filled in and the vocabulary's words complete.

    Raises:
        PolicyError: one, with file, line, key path and hint; see `Binder.bind`, `read_tree` and `feasibility.check`.
            VOCABULARY_MISMATCH: the vocabulary file is not the one whose SHA-256 stands in the policy.
    """
    return read_policy(path).policy


def read_policy(path: Path) -> PolicySource:
    """As `load_policy`, with the bytes: who copies what was checked copies these and does not read the file again."""
    text = read_bounded(path, "policy")
    binder = Binder(str(path), "policy field", path.parent, NOT_YET, "policies/fedavg.yaml shows every field")
    policy = binder.bind(read_tree(text, str(path)), Policy)
    feasibility.check_smallest(policy, binder.place)
    declared = policy.contract.vocabulary
    if declared.file is None:
        return PolicySource(policy, text, None)
    if declared.words:
        raise PolicyError(
            "FIELD_VALUE",
            f"{binder.place('contract.vocabulary')}: contract.vocabulary has a file and words",
            "keep one of them",
        )
    raw = read_bounded(path.parent / declared.file, "vocabulary")
    found = hashlib.sha256(raw).hexdigest()
    if found != declared.sha256:
        raise PolicyError(
            "VOCABULARY_MISMATCH",
            f"{binder.place('contract.vocabulary.sha256')}: {declared.file} has SHA-256 {found[:16]}..., "
            f"the policy says {str(declared.sha256)[:16]}...",
            "get the vocabulary file that the consortium agreed on",
        )
    complete = _with_words(declared, raw, path.parent / declared.file)
    contract = policy.contract.model_copy(update={"vocabulary": complete})
    return PolicySource(policy.model_copy(update={"contract": contract}), text, raw)


def _with_words(declared: Vocabulary, raw: bytes, path: Path) -> Vocabulary:
    try:
        words = tuple(raw.decode("utf-8").removesuffix("\n").split("\n"))
        return Vocabulary(file=declared.file, sha256=declared.sha256, words=words)
    except (UnicodeDecodeError, ValidationError) as error:
        raise PolicyError(
            "VOCABULARY_UNREADABLE",
            f"{path}: not one printable answer a line, each once",
            "write one answer a line in UTF-8, without blank lines or repetition",
        ) from error
