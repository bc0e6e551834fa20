"""A DP-SGD step beside the plain step at the same rows, and where its time goes.

    python benchmarks/dp_step.py [--rows 64] [--cap 1] [--strategy lora] [--factors ffa] [--rank 8]
                                 [--base tiny-fuyu] [--device cpu] [--json]

Both steps do forward, backward and AdamW on the same rows of phantoms, one thread, in turns of a few steps each, as a
round has them. The private one adds: per-row gradients, one clip and one rounding per patient, and one draw of noise.
One row per patient (`--cap 1`) is the most rounding there can be. The sampler is outside both. CPU time; on another
device wall time, from idle to idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.rounding import add_rounded_rows
from fedvlm_secure.dp.streams import KEY_BYTES
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.train.private import clipped_sum, patient_means
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.types import Secret
from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.device import prepare_device
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

TARGET_RATIO = 1.5
ROUNDS, STEPS = 5, 4
REPEATS = 15


def seconds(act: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        act()
        return time.process_time() - start
    torch.accelerator.synchronize(device)
    start = time.perf_counter()
    act()
    torch.accelerator.synchronize(device)
    return time.perf_counter() - start


class Steps:
    """Both kinds of step on one model and the same rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        data = draw_hospital(SITES["coast"], patients=200, image_size=32, name="a", rng=np.random.default_rng(1))
        kept = [row for row in data.rows if row.task in ("vqa", "classification")]
        self.rows = kept[: options.rows]
        lora = LoraSettings(r=options.rank, factors=options.factors)
        self.device = prepare_device(options.device)
        base = load_base(shipped_base(options.base), device=str(self.device))
        self.tuned = TunedModel(base, strategy=options.strategy, lora=lora, seed=1)
        self.dimension = self.tuned.layout.dimension
        self.loss = RowLoss(self.tuned, PromptCodec(self.tuned.base, derive_contract(contract_rows())), data.pictures)
        settings = PrivateSettings(1.0, 1.15, 0.2, 1, 600, 1e-4, microbatch=options.rows)
        self.clip = settings.clip(self.dimension)
        self.noise = DiscreteGaussian(settings.noise(self.dimension).share_variance)
        self.entropy = ShakeEntropy(1, "benchmark")
        self.drawn = np.array_split(np.arange(len(self.rows)), -(-len(self.rows) // options.cap))
        self.optimizer = torch.optim.AdamW(self.tuned.trainable, lr=1e-6, weight_decay=0.0, foreach=True)

    def plain(self) -> None:
        self.tuned.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.rows).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.tuned.model.eval()

    def private(self, gradients: RowGradients) -> None:
        total = clipped_sum(gradients, self.rows, self.drawn, len(self.rows), self.clip, self.entropy)
        self.add_noise(total)
        flat = torch.from_numpy(total.astype(np.float32))
        for (slot, span), parameter in zip(self.tuned.layout.spans(), self.tuned.trainable, strict=True):
            parameter.grad = flat[span].reshape(slot.shape).to(parameter.device)
        self.optimizer.step()

    def add_noise(self, total: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self.noise.add_to(total, Secret(self.entropy.bytes(KEY_BYTES)))


def measure(steps: Steps) -> dict[str, float]:
    """Medians in milliseconds."""

    def timed(act: Callable[[], object], times: int) -> list[float]:
        return [seconds(act, steps.device) for _ in range(times)]

    plain, private = [], []
    for _ in range(ROUNDS):
        plain += timed(steps.plain, STEPS)
        with RowGradients(steps.loss) as gradients:
            private += timed(partial(steps.private, gradients), STEPS)
    key, total = Secret(bytes(range(KEY_BYTES))), np.zeros(steps.dimension, dtype=np.int64)
    with RowGradients(steps.loss) as gradients:
        rows_only = timed(lambda: deque(gradients.pieces(steps.rows, [1] * len(steps.rows)), maxlen=0), REPEATS)
        means = patient_means(gradients.of(steps.rows), [len(numbers) for numbers in steps.drawn])
        rounding = timed(lambda: add_rounded_rows(total, means, steps.clip, key), REPEATS)
    noise = timed(lambda: steps.add_noise(total), REPEATS)
    parts = {"plain": plain, "private": private, "row_gradients": rows_only, "rounding": rounding, "noise": noise}
    return {name: statistics.median(times) * 1e3 for name, times in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--cap", type=int, default=1, help="rows per patient")
    parser.add_argument("--strategy", choices=("lora", "connector", "connector+lora"), default="lora")
    parser.add_argument("--factors", choices=("ffa", "both"), default="ffa")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--base", choices=("tiny-fuyu", "tiny-llava"), default="tiny-fuyu")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = Steps(options)
    found = measure(steps)
    result = {
        "rows": options.rows,
        "rows_per_patient": options.cap,
        "strategy": options.strategy,
        "device": str(steps.device),
        "dimension": steps.dimension,
        "ms": {name: round(value, 2) for name, value in found.items()},
        "ratio": round(found["private"] / found["plain"], 2),
        "noise_ns_per_value": round(found["noise"] * 1e6 / steps.dimension, 1),
        "rounding_ns_per_value": round(found["rounding"] * 1e6 / steps.dimension / len(steps.drawn), 1),
        "gradient_bytes": options.rows * steps.dimension * 4,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.strategy} on {steps.device}: {options.rows} rows, {options.cap} per patient, d = {steps.dimension:,}"
    )
    for name, value in found.items():
        print(f"{name:<14} {value:8.2f} ms")
    met = "met" if found["private"] <= TARGET_RATIO * found["plain"] else "NOT MET"
    print(f"private / plain {result['ratio']}   target {TARGET_RATIO}: {met}")
    print(f"noise {result['noise_ns_per_value']} ns per value, rounding {result['rounding_ns_per_value']} ns per value")
    print(f"memory of per-row gradients: rows * d * 4 = {result['gradient_bytes'] / 1e6:.1f} MB here and on the device")


if __name__ == "__main__":
    main()
