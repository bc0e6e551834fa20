"""A small hospital under DP-SGD, for the tests of private training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedvlm_secure.train.private import train_private
from fedvlm_secure.train.private_gradients import RowLoss
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.types import Entropy, Float32Vector
from fedvlm_secure.vlm.adapters import Factors, LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from tests.support.entropy import entropy

torch.set_num_threads(1)  # batches this small lose time to a second thread
CONTRACT = derive_contract(contract_rows())
DATA = draw_hospital(SITES["coast"], patients=40, image_size=32, name="coast", rng=np.random.default_rng(2))
ROWS = tuple(row for row in DATA.rows if row.task in ("vqa", "classification"))
SETTINGS = PrivateSettings(
    clip_norm=1.0,
    noise_multiplier=1.0,
    sampling_rate=0.25,
    steps_per_round=2,
    expected_patients=40,
    learning_rate=0.01,
    patient_cap=3,
    microbatch=24,
)


def tuned_model(strategy: Strategy = "lora", factors: Factors = "ffa") -> TunedModel:
    base = load_base(shipped_base("tiny-fuyu"))
    return TunedModel(base, strategy=strategy, lora=LoraSettings(r=4, factors=factors), seed=1)


def row_loss(tuned: TunedModel) -> RowLoss:
    return RowLoss(tuned, PromptCodec(tuned.base, CONTRACT), DATA.pictures)


def zeros(tuned: TunedModel) -> Float32Vector:
    return np.zeros(tuned.layout.dimension, np.float32)


def train(
    tuned: TunedModel, label: str = "round", difference: Float32Vector | None = None, **changes: Any
) -> LocalUpdate:
    """One round with entropy that depends on the label alone."""
    source: Entropy = entropy(label)
    return train_private(
        row_loss(tuned),
        ROWS,
        replace(SETTINGS, **changes),
        round_number=1,
        difference=zeros(tuned) if difference is None else difference,
        entropy=source,
    )
