"""The policy of a demo: the one given, or a derived file that holds whatever the options change."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fedvlm_secure
from fedvlm_secure.cli.hospitals import PHANTOM_PATIENTS, PHANTOMS, Hospital, train_answers, train_patients
from fedvlm_secure.errors import ModelError, PolicyError
from fedvlm_secure.he.cipher import require_library
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.private_file import write_public
from fedvlm_secure.policy.schema import Policy

PHANTOM_POLICY = "fedavg.yaml"
PRIVATE_POLICY = "dp_fedavg.yaml"
IMAGE_POLICY = "fedavg_images.yaml"
VOCABULARY_FILE = "answers.txt"
DERIVED = "-derived"
_NAME_CHARACTERS = 64
_CONTRACT_FIELDS = ("prompt", "image_size", "normalisation")


@dataclass(frozen=True)
class DemoPolicy:
    """The file that is approved, what stands in it, and which fields were changed."""

    path: Path
    policy: Policy
    changed: tuple[str, ...]


def default_policy(*, own_data: bool, private: bool = False) -> Path:
    """The shipped policy that serves where none is named: for real pictures, or for phantoms with or without privacy.

    Raises:
        PolicyError: POLICY_MISSING.
    """
    name = IMAGE_POLICY if own_data else PRIVATE_POLICY if private else PHANTOM_POLICY
    path = Path(fedvlm_secure.__file__).resolve().parents[1] / "policies" / name
    if not path.is_file():
        raise PolicyError("POLICY_MISSING", f"no policies/{name} beside the package", "name a file with --policy")
    return path


def demo_policy(
    source: Path,
    out: Path,
    hospitals: Sequence[Hospital],
    *,
    rounds: int | None,
    seed: int | None,
    base: Path | None,
    own_data: bool,
) -> DemoPolicy:
    """Write OUT/policy.yaml where an option changes anything; else use the given file as it is.

    Args:
        source: the policy that was asked for.
        out: existing folder.
        hospitals: whose train answers are the vocabulary, when `own_data`.
        rounds, seed, base: the options, None where not given.
        own_data: the hospitals read files, so that the contract is theirs.

    Raises:
        PolicyError, ModelError, DataError: an option does not fit; HE_LIBRARY_MISSING.
    """
    policy = load_policy(source)
    if policy.protection.is_encrypted:
        require_library()
    changes: dict[str, object] = {}
    if rounds is not None and rounds != policy.rounds:
        changes["rounds"] = rounds
    if seed is not None and seed != policy.model.seed:
        changes["model.seed"] = seed
    if base is not None:
        changes |= base_changes(base)
    if own_data:
        image_size = int(str(changes.get("contract.image_size", policy.contract.image_size)))
        words = train_answers(hospitals, image_size=image_size, tasks=policy.contract.tasks)
        changes["contract.vocabulary"] = write_vocabulary(out, words)
    changes |= patient_changes(policy, hospitals)
    changes = {path: value for path, value in changes.items() if not _stands(policy, path, value)}
    if not changes:
        return DemoPolicy(source, policy, ())
    path = out / "policy.yaml"
    named = {"name": f"{policy.name[: _NAME_CHARACTERS - len(DERIVED)]}{DERIVED}", **changes}
    return DemoPolicy(path, derive(source, named, path), tuple(changes))


def patient_changes(policy: Policy, hospitals: Sequence[Hospital]) -> dict[str, object]:
    """What each operator would declare about its patients, where the policy asks for it and has other hospitals.

    Raises:
        DataError: TOO_FEW_PATIENTS, a file has fewer patients to train on than the policy admits.
    """
    names = {str(hospital.node) for hospital in hospitals}
    phantoms = all(PHANTOMS in hospital.source for hospital in hospitals)
    if not isinstance(policy.privacy, PatientPrivacy) or (phantoms and names <= set(policy.privacy.expected_patients)):
        return {}
    declared = dict.fromkeys(sorted(names), PHANTOM_PATIENTS)
    if not phantoms:
        minimum, tasks = policy.limits.min_patients, policy.contract.tasks
        declared = {str(one.node): train_patients(one, tasks=tasks, minimum=minimum) for one in hospitals}
    return {"privacy.expected_patients": declared}


def base_changes(base: Path) -> dict[str, object]:
    """What a base of one's own changes: its name and fingerprint, and the form of the pictures it was made for.

    Raises:
        ModelError: it is no base model; BASE_BROKEN when its contract.json is not one.
    """
    from fedvlm_secure.vlm.base import fingerprint

    name = re.sub(r"[^a-z0-9-]+", "-", base.resolve().name.lower()).strip("-")[:64] or "base"
    changes: dict[str, object] = {"model.base": {"name": name, "sha256": fingerprint(base)}}
    described = base / "contract.json"
    if not described.is_file():
        return changes
    try:
        fields: Mapping[str, object] = json.loads(described.read_text(encoding="utf-8"))
        return {**changes, **{f"contract.{field}": fields[field] for field in _CONTRACT_FIELDS}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "BASE_BROKEN", f"{base.name}/contract.json is not what `fedvlm models build` writes", "build the base again"
        ) from error


def write_vocabulary(out: Path, words: Sequence[str]) -> dict[str, str]:
    """OUT/answers.txt, one answer a line, and what the policy says about it."""
    raw = ("\n".join(words) + "\n").encode("utf-8")
    write_public(out / VOCABULARY_FILE, raw)
    return {"file": VOCABULARY_FILE, "sha256": hashlib.sha256(raw).hexdigest()}


def _stands(policy: Policy, path: str, value: object) -> bool:
    """Whether the policy says this already."""
    place: object = policy
    for field in path.split("."):
        place = getattr(place, field)
    return place == value
