"""Looks at the machine: its clock, its device, and whether a step under the policy really does what it is meant to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.streams import KEY_BYTES
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.noise_shares import noise_of
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.private_release import resolve_noise_multiplier
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.noised_sum import noised_part
from fedvlm_secure.types import Entropy, Float32Vector, Int64Vector, Secret
from node.finding import Finding
from node.hospital import build_training, with_mechanism
from node.preflight import one_step

if TYPE_CHECKING:
    from fedvlm_secure.train.session import LocalTraining

CLOCK_TOLERANCE_S = 300
NOBODY = 1e-9
"""A sampling rate at which no patient is drawn: what moves then is noise."""

_WRITTEN = ("journal/journal.sqlite", "ledger/ledger.sqlite", "metrics.jsonl", "runs/*/audit.jsonl")
_LEAST_MOVED = 0.9
_DEVIATIONS = 6.0


def look_at_clock(state: Path, now: datetime) -> Finding:
    """Whether the clock stands before something that was written already. The protocol itself carries no time."""
    times = [path.stat().st_mtime for pattern in _WRITTEN for path in state.glob(pattern)]
    latest = max(times, default=0.0)
    behind_s = round(latest - now.timestamp())
    if behind_s > CLOCK_TOLERANCE_S:
        text = f"stands {behind_s} seconds before the last thing that was written here"
        return Finding("clock", "wrong", text, "set it; the ledger takes no entry until then")
    return Finding("clock", "ok", f"{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, after everything that was written here")


def look_at_device(asked: str) -> Finding:
    """What node.yaml asks for, what torch found and tried, and its memory.

    Raises:
        PolicyError: DEVICE, it is not there or does not compute.
    """
    import torch

    from fedvlm_secure.vlm.device import cuda_devices, free_and_whole_bytes, prepare_device

    device, seen = prepare_device(asked), cuda_devices()
    text = f"{asked}; torch {torch.__version__} sees {seen} CUDA devices; trains on {device}"
    memory = free_and_whole_bytes(device)
    if memory is not None:
        free, whole = (size / (1 << 30) for size in memory)
        text += f" ({torch.cuda.get_device_name(device)}, {free:.1f} of {whole:.1f} GiB free)"
    if asked == "cpu" and seen:
        return Finding("device", "warning", text, "perhaps device: cuda")
    return Finding("device", "ok", text)


def look_at_step(policy: Policy, config: NodeConfig, entropy: Entropy) -> Finding:
    """One local step, thrown away. Under a mechanism: per-row gradients, noise without patients, and its spread.

    Raises:
        ModelError, DataError, PolicyError: what a round would fail with; ZERO_UPDATE where no noise arrives.
    """
    training = build_training(one_step(policy), config)
    d = training.layout.dimension
    start = np.zeros(d, dtype=np.float32)
    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        moved = np.count_nonzero(training.train(1, start).update)
        hint = "" if moved else "check strategy, base and device"
        return Finding(
            "step",
            "ok" if moved else "wrong",
            f"one local step on {training.tuned.model.device} moves {moved} of {d} values",
            hint,
        )
    multiplier = resolve_noise_multiplier(policy, d)
    real = one_step(policy, multiplier)
    with_mechanism(real, config, training, entropy).train(1, start)  # admits the model, guards rows and tensors
    noise_only = _noise_alone(real, config, training, entropy)
    share, spread = np.count_nonzero(noise_only) / d, _spread(policy, privacy, multiplier, d, entropy)
    text = (
        f"a row's gradient is its own; noise alone moves {share:.1%} of {d} values; its spread is {spread:.3f} of what "
        f"is accounted for; on {training.tuned.model.device}"
    )
    if share < _LEAST_MOVED or abs(spread - 1) > _DEVIATIONS / np.sqrt(2 * d):
        return Finding("step", "wrong", text, "do not train: reinstall the package, and report this")
    return Finding("step", "ok", text)


def _noise_alone(
    policy: Policy, config: NodeConfig, training: LocalTraining, entropy: Entropy
) -> Float32Vector | Int64Vector:
    """What a step of this policy, whose multiplier is a number, moves when it draws nobody: [d]."""
    privacy, d = policy.privacy, training.layout.dimension
    nobody = privacy.model_copy(update={"sampling_rate": NOBODY})
    start = np.zeros(d, dtype=np.float32)
    done = with_mechanism(policy.model_copy(update={"privacy": nobody}), config, training, entropy).train(1, start)
    if not isinstance(privacy, Distributed):
        return done.update
    multiplier = resolve_noise_multiplier(policy, d)
    key = Secret(entropy.bytes(KEY_BYTES))
    return noised_part(policy, privacy, done.integers, multiplier=multiplier, dimension=d, key=key)


def _spread(policy: Policy, privacy: PatientPrivacy, multiplier: float, dimension: int, entropy: Entropy) -> float:
    """Measured over accounted standard deviation of one step's noise."""
    variance = noise_of(policy, privacy, multiplier, dimension).share_variance
    drawn = np.zeros(dimension, dtype=np.int64)
    DiscreteGaussian(variance).add_to(drawn, Secret(entropy.bytes(KEY_BYTES)))
    return float(np.sqrt(np.mean(drawn.astype(np.float64) ** 2) / variance))
