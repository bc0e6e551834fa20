"""From the approved policy and this hospital's own file to its model and data. The one place that loads torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.algorithms import FedProx
from fedvlm_secure.policy.node_config import (
    DatasetsTable,
    JsonlSource,
    NodeConfig,
    PhantomSource,
    effective_limits,
)
from fedvlm_secure.policy.privacy import Distributed, NoPrivacy, PatientPrivacy
from fedvlm_secure.policy.private_release import resolve_noise_multiplier
from fedvlm_secure.policy.schema import DEFAULT_BATCH_SIZE, Policy
from fedvlm_secure.types import Entropy
from node.withdrawn import consent_of, without_withdrawn

if TYPE_CHECKING:
    from fedvlm_secure.train.noised import NoisedTraining
    from fedvlm_secure.train.session import LocalTraining, Tuning
    from fedvlm_secure.vlm.data.rows import HospitalData

DEFAULT_MICROBATCH = 128
"""Rows whose gradients are held at a time under a mechanism."""


def build_training(policy: Policy, config: NodeConfig) -> LocalTraining:
    """Load the base, the data and the trainable parameters.

    Raises:
        ModelError, DataError: they do not fit the policy.
        PolicyError: DEVICE, before any data is read; MICROBATCH, PHANTOM_SITE, or LIMIT_LOOSER.
    """
    import torch

    from fedvlm_secure.train.session import LocalTraining
    from fedvlm_secure.train.settings import LocalSettings
    from fedvlm_secure.vlm.contract import Contract
    from fedvlm_secure.vlm.device import prepare_device

    _refuse_unused(policy, config)
    tuning = _tuning(policy, config, str(prepare_device(config.device)))  # before any of the hospital's data is read
    torch.set_num_threads(config.threads)
    model, contract, local = policy.model, policy.contract, policy.local
    return LocalTraining(
        tuning,
        Contract(
            prompt=contract.prompt,
            image_size=contract.image_size,
            normalisation=contract.normalisation,
            vocabulary=contract.vocabulary.words,
        ),
        load_data(policy, config),
        LocalSettings(
            learning_rate=local.learning_rate,
            batch_size=local.batch_size or DEFAULT_BATCH_SIZE,
            steps=local.steps,
            epochs=local.epochs,
            weight_decay=local.weight_decay,
            augment=local.augment,
            schedule=local.schedule,
            rounds=policy.rounds,
            proximal_mu=policy.algorithm.mu if isinstance(policy.algorithm, FedProx) else 0.0,
            connector_rounds=model.connector_rounds,
        )
        if isinstance(policy.privacy, NoPrivacy)
        else None,
        batch_order=batch_order(policy, config),
        split_key=canonical.digest("test-split", config.population),
        tasks=contract.tasks,
        min_patients=effective_limits(policy, config).min_patients,
    )


def trained_values(policy: Policy, config: NodeConfig) -> int:
    """d: how many values the policy trains in this hospital's copy of the base. No data is read.

    Raises:
        ModelError: the base is missing, is another one, or cannot be tuned as the policy asks.
        PolicyError: BASE_PATH.
    """
    from fedvlm_secure.vlm.adapters import TunedModel
    from fedvlm_secure.vlm.base import load_base

    tuning = _tuning(policy, config, "cpu")
    base = load_base(tuning.base_dir, sha256=tuning.base_sha256)
    return TunedModel(base, strategy=tuning.strategy, lora=tuning.lora, seed=tuning.seed).layout.dimension


def _tuning(policy: Policy, config: NodeConfig, device: str) -> Tuning:
    from fedvlm_secure.train.session import Tuning
    from fedvlm_secure.vlm.adapters import LoraSettings
    from fedvlm_secure.vlm.base import shipped_base

    model = policy.model
    return Tuning(
        base_dir=config.base if config.base is not None else shipped_base(_base_name(policy)),
        base_sha256=model.base.sha256,
        strategy="connector+lora" if model.strategy == "two-stage" else model.strategy,
        lora=LoraSettings(r=model.lora.r, alpha=model.lora.alpha, factors=model.lora.factors),
        seed=model.seed,
        device=device,
    )


def with_mechanism(
    policy: Policy, config: NodeConfig, training: LocalTraining, entropy: Entropy
) -> LocalTraining | NoisedTraining:
    """The rounds that the policy's mechanism asks for: plain ones, noised in every step, or one sum to be noised.

    Args:
        entropy: of sampling, rounding and the steps' noise.

    Raises:
        PolicyError: PATIENTS_MISMATCH, EPSILON_EXCEEDED, EPSILON_UNREACHABLE, MICROBATCH.
    """
    from fedvlm_secure.train.noised import NoisedTraining, ScoreSchedule, SummedTraining
    from fedvlm_secure.train.private_settings import PrivateSettings

    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        return training
    if config.node not in privacy.expected_patients:
        raise PolicyError(
            "PATIENTS_MISMATCH",
            f"privacy.expected_patients does not name {config.node}",
            "this policy was made for other hospitals",
        )
    microbatch = config.microbatch or max(DEFAULT_MICROBATCH, privacy.patient_cap)
    if microbatch < privacy.patient_cap:
        raise PolicyError(
            "MICROBATCH", f"microbatch {microbatch} is below privacy.patient_cap {privacy.patient_cap}", "raise it"
        )
    settings = PrivateSettings(
        clip_norm=privacy.clip_norm,
        noise_multiplier=resolve_noise_multiplier(policy, training.layout.dimension),
        sampling_rate=privacy.sampling_rate,
        steps_per_round=privacy.steps_per_round,
        expected_patients=privacy.expected_patients[config.node],
        learning_rate=policy.local.learning_rate,
        patient_cap=privacy.patient_cap,
        schedule=policy.local.schedule,
        rounds=policy.rounds,
        mu=policy.algorithm.mu if isinstance(policy.algorithm, FedProx) else 0.0,
        connector_rounds=policy.model.connector_rounds,
        microbatch=microbatch,
    )
    schedule = ScoreSchedule(policy.contract.tasks, lambda number: policy.releases_scores(number - 1))
    kind = SummedTraining if isinstance(privacy, Distributed) else NoisedTraining
    return kind(training, settings, entropy, schedule if policy.evaluation.is_noised else None)


def load_data(policy: Policy, config: NodeConfig) -> HospitalData:
    """This hospital's rows and pictures, whichever source its file names, without patients who withdrew.

    Raises:
        DataError: they cannot be read or do not fit.
        PolicyError: PHANTOM_SITE.
        StorageError: the ledger, which knows who withdrew, is in doubt.
    """
    return without_withdrawn(_load(policy, config), consent_of(config))


def _load(policy: Policy, config: NodeConfig) -> HospitalData:
    from fedvlm_secure.vlm.data.jsonl import load_jsonl
    from fedvlm_secure.vlm.data.phantoms import SITES, draw_hospital

    source, side, tasks = config.data, policy.contract.image_size, policy.contract.tasks
    if isinstance(source, JsonlSource):
        return load_jsonl(source.jsonl, image_size=side, tasks=tasks)
    if isinstance(source, PhantomSource):
        phantoms = source.phantoms
        if phantoms.site not in SITES:
            raise PolicyError(
                "PHANTOM_SITE", f"data.phantoms.site: no site {phantoms.site!r}", f"known: {', '.join(SITES)}"
            )
        seed = _generator("phantoms", phantoms.seed, config.node)
        return draw_hospital(
            SITES[phantoms.site], patients=phantoms.patients, image_size=side, name=config.node, rng=seed
        )
    return _load_table(source.datasets, side, tasks)


def _load_table(table: DatasetsTable, side: int, tasks: tuple[str, ...]) -> HospitalData:
    from fedvlm_secure.vlm.data.sources import ColumnMapping, load_source

    columns = ColumnMapping(
        image=table.columns.image,
        question=table.columns.question,
        answer=table.columns.answer,
        patient=table.columns.patient,
        task=table.columns.task if table.columns.task is not None else table.task_kind,
    )
    return load_source(table.loader, table.path, part=table.split, columns=columns, image_size=side, tasks=tasks)


def batch_order(policy: Policy, config: NodeConfig) -> Callable[[int], np.random.Generator]:
    """Round number -> generator of that round's order of rows: the same after a restart, another at each hospital.

    The order is the same, the update on a GPU need not be; what is sent again is the journal's bytes, never trained
    anew.
    """
    return lambda round_number: _generator("batch-order", policy.model.seed, config.node, round_number)


def _generator(label: str, *values: object) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(canonical.digest(label, *values), "big")))


def _base_name(policy: Policy) -> str:
    if policy.model.base.name is None:
        raise PolicyError(
            "BASE_PATH", "the policy names a base by path; node.yaml does not say where it lies here", "set base: DIR"
        )
    return policy.model.base.name


def _refuse_unused(policy: Policy, config: NodeConfig) -> None:
    """What this version would silently not do is refused."""
    if config.microbatch is not None and isinstance(policy.privacy, NoPrivacy):
        raise PolicyError("MICROBATCH", "microbatch is not used without differential privacy", "remove the line")
