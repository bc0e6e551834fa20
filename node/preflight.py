"""Everything that a round would do at this hospital but sending: data against the contract, counts, one local step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedvlm_secure.dp.rounding import decode
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.he.cipher import require_library
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.noise_shares import clip_of, expected_batch
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.private_release import resolve_noise_multiplier
from fedvlm_secure.policy.projection import project
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.types import Clock, Entropy
from node.approvals import approvals, approved_policy
from node.hospital import build_training, with_mechanism
from node.worker import Trained


@dataclass(frozen=True)
class Preflight:
    """What was found; counts stay at this hospital.

    Attributes:
        step_norm: L2 norm of one local step's update; under `distributed` of this hospital's part of the mean gradient,
            before noise.
        epsilon: projected for the whole run, None without a mechanism.
        noise_ratio: this hospital's noise beside its clipped step.
    """

    policy: str
    policy_hash: str
    train_rows: int
    test_rows: int
    train_patients: int
    test_patients: int
    expected_patients: int | None
    trained_values: int
    upload_bytes: int
    step_seconds: float
    step_norm: float
    epsilon: float | None
    noise_ratio: float | None


def chosen_policy(config: NodeConfig, asked: Path | None) -> Policy:
    """The policy to try: the one asked for, node.yaml's first, or the one approved last.

    Raises:
        PolicyError: NOT_APPROVED where there is none, or the policy's own.
    """
    if asked is not None or config.policies:
        return load_policy(asked if asked is not None else config.policies[0])
    known = approvals(config.state)
    if not known:
        raise PolicyError("NOT_APPROVED", "no policy is approved here", "name one with --policy")
    return approved_policy(config.state, max(known, key=lambda one: one.approved_at).policy_hash)


def run_preflight(policy: Policy, config: NodeConfig, *, clock: Clock, entropy: Entropy) -> Preflight:
    """Try one local step. Nothing is sent, charged or kept.

    Raises:
        PolicyError, ModelError, DataError: what a run would fail with.
    """
    feasible = feasibility.check(policy, policy.cohort.min_nodes)
    if feasible.encryption is not None:
        require_library()
    training = build_training(one_step(policy), config)
    d = training.layout.dimension
    tried = one_step(policy, resolve_noise_multiplier(policy, d))
    projection = project(policy, d)
    trainer = with_mechanism(tried, config, training, entropy)
    start_s = clock.now_s()
    done = trainer.train(1, np.zeros(d, dtype=np.float32))
    privacy = policy.privacy
    return Preflight(
        policy=policy.name,
        policy_hash=policy_hash(policy).hex(),
        train_rows=len(training.train_rows),
        test_rows=len(training.test_rows),
        train_patients=len({row.patient for row in training.train_rows}),
        test_patients=len({row.patient for row in training.test_rows}),
        expected_patients=privacy.expected_patients[config.node] if isinstance(privacy, PatientPrivacy) else None,
        trained_values=d,
        upload_bytes=feasible.upload_words(d) * WORD_BYTES,
        step_seconds=round(clock.now_s() - start_s, 3),
        step_norm=_step_norm(policy, done),
        epsilon=None if projection is None else projection.trajectory[-1][1],
        noise_ratio=None if projection is None else projection.ratios[config.node],
    )


def _step_norm(policy: Policy, done: Trained) -> float:
    privacy = policy.privacy
    if done.integers is None or not isinstance(privacy, Distributed):
        return float(np.linalg.norm(done.update.astype(np.float64)))
    clip = clip_of(privacy, len(done.integers))
    return float(np.linalg.norm(decode(done.integers, clip, expected_batch(privacy))))


def one_step(policy: Policy, noise_multiplier: float | None = None) -> Policy:
    """The same policy with one local step a round, and with a given noise multiplier under a mechanism."""
    if isinstance(policy.privacy, PatientPrivacy):
        changes: dict[str, object] = {"steps_per_round": 1}
        if noise_multiplier is not None:
            changes["noise_multiplier"] = noise_multiplier
        return policy.model_copy(update={"privacy": policy.privacy.model_copy(update=changes)})
    return policy.model_copy(update={"local": policy.local.model_copy(update={"steps": 1, "epochs": None})})
