"""Canary patients in one run: a run without clip or without noise is caught at epsilon 1, a sound one is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedvlm_secure.dp.calibration import calibrate_sampled_gaussian
from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.train.canaries import CanaryResult, audit_run
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.types import Int64Vector, Secret
from fedvlm_secure.vlm.data.phantoms import SITES, draw_hospital
from fedvlm_secure.vlm.data.rows import HospitalData
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from tests.support.entropy import entropy
from tests.train.private_bench import CONTRACT, tuned_model
from tests.train.test_private_planted_bugs import forgotten_clip

ROUNDS, STEPS, RATE, DELTA = 6, 10, 0.5, 1e-5


def run(clip_norm: float, canaries: int = 60) -> CanaryResult:
    drawn = draw_hospital(SITES["coast"], patients=6, image_size=32, name="coast", rng=np.random.default_rng(3))
    data = HospitalData(tuple(row for row in drawn.rows if row.task in ("vqa", "classification")), drawn.pictures)
    tuned = tuned_model()
    multiplier = calibrate_sampled_gaussian(0.99, DELTA, RATE, ROUNDS * STEPS, "add_or_remove")
    settings = PrivateSettings(clip_norm, multiplier, RATE, STEPS, 36, 0.012, patient_cap=6, rounds=ROUNDS)
    return audit_run(
        tuned,
        PromptCodec(tuned.base, CONTRACT),
        CONTRACT,
        data,
        settings,
        canaries=canaries,
        delta=DELTA,
        confidence=0.95,
        entropy=entropy("canaries"),
    )


def forgotten_noise(patch: pytest.MonkeyPatch) -> None:
    def nothing(self: DiscreteGaussian, values: Int64Vector, key: Secret) -> None:
        del self, values, key

    patch.setattr(DiscreteGaussian, "add_to", nothing)


def test_a_sound_run_at_epsilon_1_is_not_refuted() -> None:
    found = run(1.0)
    assert 0.9 < found.claimed_epsilon <= 1.0
    assert not found.refuted
    assert (found.canaries, found.guesses) == (60, 40)


@pytest.mark.parametrize(("bug", "clip_norm"), [(forgotten_noise, 1.0), (forgotten_clip, 0.02)])
def test_a_run_without_noise_or_without_clip_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None], clip_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    found = run(clip_norm)
    assert found.refuted, f"{found.right} of {found.guesses} right shows {found.shown_epsilon:.2f} only"
    assert found.shown_epsilon <= found.largest_epsilon < 3.0


def test_too_few_canaries_are_our_mistake() -> None:
    with pytest.raises(ValueError, match="12 canaries"):
        run(1.0, canaries=11)
