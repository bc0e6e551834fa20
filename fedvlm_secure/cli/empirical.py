"""What `fedvlm audit empirical` does: a policy's mechanism on a small model and phantoms, with the real entropy."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

import fedvlm_secure
from fedvlm_secure import console
from fedvlm_secure.audit.empirical import FILE_NAME, CanariesShown, EmpiricalAudit, WhiteBoxShown
from fedvlm_secure.audit.opening import code_digest
from fedvlm_secure.dp.events import PoissonSampled, flatten
from fedvlm_secure.errors import FedvlmError, PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.policy.private_file import write_public
from fedvlm_secure.policy.private_release import resolve_noise_multiplier, training_event
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Entropy
from node.main import SystemEntropy

if TYPE_CHECKING:
    from fedvlm_secure.train.canaries import CanaryResult
    from fedvlm_secure.train.private_gradients import RowMatrix
    from fedvlm_secure.train.private_settings import PrivateSettings
    from fedvlm_secure.vlm.adapters import TunedModel
    from fedvlm_secure.vlm.contract import Contract
    from fedvlm_secure.vlm.data.rows import HospitalData
    from fedvlm_secure.vlm.tasks.prompts import PromptCodec

PROGRAM = "fedvlm"
NODE_PACKAGES = ("torch", "transformers", "peft", "opacus")
BASE = "tiny-fuyu"
CONFIDENCE = 0.99
PHANTOM_PATIENTS = 10
OTHERS = 2
"""Patients who are there in both worlds of the white-box trials."""

LIMITS = (
    "It tries this installation's code at the policy's numbers, on a small model and phantoms; no hospital's data.",
    "Not tried by single steps: the sampling of patients (every patient is drawn), later rounds, composition.",
    "It can refute a claim, never certify one; by chance it refutes a sound one once in a hundred times (each part).",
)


@dataclass(frozen=True)
class SmallHospital:
    """A small base tuned as the policy says, and phantoms."""

    tuned: TunedModel
    codec: PromptCodec
    contract: Contract
    data: HospitalData


def audit_policy(
    path: Path,
    *,
    trials: int,
    canaries: int,
    out: Path | None,
    as_json: bool,
    entropy: Entropy | None = None,
) -> None:
    """Run the trials, print what they show, and write the file.

    Args:
        path: of the policy.
        trials: single steps, at least 100.
        canaries: 0, or at least 12.
        out: folder of the file; None writes none.
        as_json: one JSON object instead of lines.
        entropy: the operating system's without it.

    Raises:
        PolicyError: NOTHING_TO_AUDIT, NODE_PACKAGES_MISSING, OPTION_WRONG, and those of the policy.
        FedvlmError: MECHANISM_REFUTED, once all is printed and written.
        StorageError: FILE_UNWRITABLE.
    """
    policy = load_policy(path)
    _require_noise(policy)
    _require_packages()
    _require_options(canaries, out)
    from fedvlm_secure.train.white_box import audit_step

    entropy = SystemEntropy() if entropy is None else entropy
    hospital = _small_hospital(policy)
    settings = _settings(policy, hospital.tuned.layout.dimension)
    result = audit_step(
        _gradients(hospital),
        settings,
        _claimed_multiplier(policy, settings, hospital.tuned.layout.dimension),
        trials=trials,
        confidence=CONFIDENCE,
        entropy=entropy,
        progress=_progress("trials", trials, quiet=as_json),
    )
    shown = {name: value for name, value in asdict(result).items() if name != "dimension"}
    audit = EmpiricalAudit(
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        policy_name=policy.name,
        policy_hash=policy_hash(policy).hex(),
        mechanism="dp_sgd",
        version=fedvlm_secure.__version__,
        code=code_digest().hex(),
        dimension=result.dimension,
        noise_multiplier=settings.noise_multiplier,
        white_box=WhiteBoxShown(**shown),
        canaries=_canary_run(policy, hospital, settings, canaries, entropy, as_json) if canaries else None,
    )
    _tell(audit, out, as_json)


def _require_noise(policy: Policy) -> None:
    if not isinstance(policy.privacy, DpSgd):
        raise PolicyError(
            "NOTHING_TO_AUDIT",
            f"privacy.mechanism is {policy.privacy.mechanism}: only the noised steps of dp_sgd are tried",
            "`none` makes no claim that trials could refute, and under `distributed` no hospital's step holds all "
            "of the noise; name a policy with mechanism dp_sgd",
        )


def _require_packages() -> None:
    missing = [name for name in NODE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PolicyError(
            "NODE_PACKAGES_MISSING",
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: the code that trains is tried",
            'pip install "fedvlm-secure[node]"',
        )


def _require_options(canaries: int, out: Path | None) -> None:
    from fedvlm_secure.train.canaries import SMALLEST_CANARIES

    if 0 < canaries < SMALLEST_CANARIES:
        raise PolicyError(
            "OPTION_WRONG", f"--canaries {canaries} is below {SMALLEST_CANARIES}", "use 100, or none at all"
        )
    if out is not None and not out.is_dir():
        raise PolicyError("OPTION_WRONG", f"--out {out} is not a folder", "name a folder that exists, such as a run's")


def _small_hospital(policy: Policy) -> SmallHospital:
    from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
    from fedvlm_secure.vlm.base import load_base, shipped_base
    from fedvlm_secure.vlm.contract import derive_contract
    from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
    from fedvlm_secure.vlm.data.rows import SCORED_TASKS, HospitalData
    from fedvlm_secure.vlm.tasks.prompts import PromptCodec

    model, contract = policy.model, derive_contract(contract_rows())
    drawn = draw_hospital(
        SITES["coast"],
        patients=PHANTOM_PATIENTS,
        image_size=contract.image_size,
        name="phantom",
        rng=np.random.default_rng(model.seed),
    )
    base = load_base(shipped_base(BASE))
    tuned = TunedModel(
        base,
        strategy="connector+lora" if model.strategy == "two-stage" else model.strategy,
        lora=LoraSettings(r=model.lora.r, alpha=model.lora.alpha, factors=model.lora.factors),
        seed=model.seed,
    )
    data = HospitalData(tuple(row for row in drawn.rows if row.task in SCORED_TASKS), drawn.pictures)
    return SmallHospital(tuned, PromptCodec(base, contract), contract, data)


def _settings(policy: Policy, dimension: int) -> PrivateSettings:
    from fedvlm_secure.train.private_settings import PrivateSettings

    privacy = cast(DpSgd, policy.privacy)
    return PrivateSettings(
        clip_norm=privacy.clip_norm,
        noise_multiplier=resolve_noise_multiplier(policy, dimension),
        sampling_rate=privacy.sampling_rate,
        steps_per_round=privacy.steps_per_round,
        expected_patients=min(privacy.expected_patients.values()),
        learning_rate=policy.local.learning_rate,
        patient_cap=privacy.patient_cap,
        schedule=policy.local.schedule,
        rounds=policy.rounds,
        connector_rounds=policy.model.connector_rounds,
        microbatch=max(128, privacy.patient_cap),
    )


def _claimed_multiplier(policy: Policy, settings: PrivateSettings, dimension: int) -> float:
    """Of the one event that the ledger is charged with for each step."""
    ((step, _),) = flatten(training_event(policy, settings.noise_multiplier, dimension)).counts
    return cast(PoissonSampled, step).event.noise_multiplier


def _gradients(hospital: SmallHospital) -> RowMatrix:
    """Of one row of each of `OTHERS` patients at the common start, float32 [OTHERS, d]."""
    from fedvlm_secure.train.private_gradients import RowGradients, RowLoss

    first = {row.patient: row for row in reversed(hospital.data.rows)}
    with RowGradients(RowLoss(hospital.tuned, hospital.codec, hospital.data.pictures)) as gradients:
        return gradients.of(list(first.values())[:OTHERS])


def _canary_run(
    policy: Policy, hospital: SmallHospital, settings: PrivateSettings, canaries: int, entropy: Entropy, quiet: bool
) -> CanariesShown:
    from fedvlm_secure.train.canaries import audit_run

    result: CanaryResult = audit_run(
        hospital.tuned,
        hospital.codec,
        hospital.contract,
        hospital.data,
        settings,
        canaries=canaries,
        delta=cast(DpSgd, policy.privacy).delta,
        confidence=CONFIDENCE,
        entropy=entropy,
        progress=_progress("rounds", settings.rounds, quiet=quiet),
    )
    if result.claimed_epsilon > result.largest_epsilon:
        console.warn(
            PROGRAM,
            f"{canaries} canaries can show epsilon {result.largest_epsilon:.2f} at most and "
            f"{result.claimed_epsilon:.2f} is claimed: this run cannot refute it, whatever is broken",
        )
    return CanariesShown(**asdict(result))


def _progress(unit: str, whole: int, *, quiet: bool) -> Callable[[int], None]:
    """Tells on stderr each tenth of the way."""
    told = [0]

    def tell(done: int) -> None:
        tenth = 10 * done // whole
        if tenth > told[0] and not quiet:
            told[0] = tenth
            sys.stderr.write(f"{PROGRAM}: {done} of {whole} {unit}\n")

    return tell


def _tell(audit: EmpiricalAudit, out: Path | None, as_json: bool) -> None:
    if out is not None:
        write_public(out / FILE_NAME, audit.to_bytes())
    if as_json:
        console.emit_json(audit.model_dump(mode="json") | {"refuted": audit.refuted, "limits": list(LIMITS)})
    else:
        console.say(
            f"policy {audit.policy_name}: noise multiplier {audit.noise_multiplier:g}, {audit.dimension} trained values"
        )
        for line in (*audit.words(), audit.verdict, *LIMITS):
            console.say(line)
        if out is not None:
            console.say(str(out / FILE_NAME))
    if audit.refuted:
        raise FedvlmError(
            "MECHANISM_REFUTED",
            f"the noised steps of {audit.policy_name} show more than is accounted for",
            "train nothing with this installation; repeat with more --trials, and report it with the JSON",
        )
