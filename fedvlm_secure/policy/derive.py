"""A derived policy file: a base policy with some values changed, written out so that it can be read and approved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.private_file import write_public
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.policy.section import format_seconds

_DURATIONS = ("deadline", "setup_deadline")


class _Writer(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True  # an alias would be refused when the file is read back


def derive(base: Path, changes: Mapping[str, object], out: Path) -> Policy:
    """Write `out`: the policy of `base` with `changes`, complete with defaults and with its vocabulary as a list.

    Args:
        base: a policy file.
        changes: dotted key path to new value, spelled as in YAML: {"rounds": 20, "cohort.deadline": "20s",
            "contract.vocabulary": ["no", "yes"], "weights": {"counted": {"cap": 500}}}. A map replaces the whole
            section; None removes an optional field, for example to go from steps to epochs.
        out: the new file; a header says what it came from and what was changed.

    Returns:
        The new policy, read back from `out`.

    Raises:
        PolicyError: as `load_policy` for the base or for the result; FIELD_UNKNOWN for a path that leads nowhere.
        StorageError: FILE_UNWRITABLE.
    """
    source = load_policy(base)
    document = as_document(source)
    for path, value in changes.items():
        _change(document, path, value)
    header = [
        f"# Derived from the policy {source.name}, hash {policy_hash(source).hex()}.",
        f"# Changed: {', '.join(sorted(changes)) or 'nothing'}.",
    ]
    body = yaml.dump(document, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)
    write_public(out, ("\n".join(header) + "\n" + body).encode("utf-8"))
    return load_policy(out)


def as_document(policy: Policy) -> dict[str, Any]:
    """The policy as YAML values: defaults filled in, durations as text, the vocabulary as a list, None left out."""
    document: dict[str, Any] = _without_none(policy.model_dump(mode="python"))
    for field in _DURATIONS:
        document["cohort"][field] = format_seconds(document["cohort"][field])
    document["contract"]["vocabulary"] = list(policy.contract.vocabulary.words)
    return document


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple):
        return [_without_none(item) for item in value]
    return value


def _change(document: dict[str, Any], path: str, value: object) -> None:
    *sections, field = path.split(".")
    place: Any = document
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise PolicyError("FIELD_UNKNOWN", f"{path} is not a policy field", "name it as it stands in a policy file")
    if value is None:
        place.pop(field, None)
    else:
        place[field] = _without_none(value)
