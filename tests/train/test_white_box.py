"""The white-box audit is silent about training as it is and finds what was planted.

False alarms: a sound mechanism is refuted with chance 5 % at confidence 0.95 and 1 % at 0.99; the entropy here is
fixed, so each of these tests gives the same answer every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.train import private
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.white_box import WhiteBoxResult, audit_step, given_gradients
from fedvlm_secure.types import Entropy
from fedvlm_secure.vlm.data.rows import Row
from tests.support.entropy import ShakeEntropy, entropy
from tests.train.test_private_planted_bugs import (
    clip_per_picture,
    clip_per_tensor,
    forgotten_clip,
    noise_forgotten_for_half,
    noise_from_one_key,
)

DIMENSION = 256
SETTINGS = PrivateSettings(1.0, 2.0, 0.2, 1, 600, 0.01, patient_cap=3)
OTHERS: NDArray[np.float32] = (np.random.default_rng(4).normal(0.0, 0.1, (2, DIMENSION))).astype(np.float32)


def audit(
    trials: int,
    settings: PrivateSettings = SETTINGS,
    *,
    claimed: float = 2.0,
    confidence: float = 0.95,
    source: Entropy | None = None,
) -> WhiteBoxResult:
    source = entropy("white box") if source is None else source
    return audit_step(OTHERS, settings, claimed, trials=trials, confidence=confidence, entropy=source)


def test_the_step_as_it_is_is_not_refuted_and_the_bound_is_not_empty() -> None:
    found = audit(10_000)
    assert found.claimed_mu == 0.5
    assert not found.refuted
    assert found.shown_mu > 0.35  # expected 0.45 +- 0.03


def test_half_the_noise_shows_as_0_93_against_a_claimed_0_50(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "DiscreteGaussian", lambda variance: DiscreteGaussian(variance // 4))
    found = audit(20_000)
    assert found.refuted
    assert 0.93 <= found.shown_mu <= 1.0  # expected 0.96 +- 0.02


def test_an_event_that_promises_more_noise_than_is_drawn_is_refuted() -> None:
    assert audit(2_000, claimed=3.5).refuted


@pytest.mark.parametrize(
    "bug",
    [
        noise_from_one_key,
        noise_forgotten_for_half,
        forgotten_clip,
        clip_per_tensor,
        clip_per_picture,
    ],
)
def test_a_planted_mistake_is_refuted(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    found = audit(5_000 if bug is noise_forgotten_for_half else 1_000, confidence=0.99)
    assert found.refuted, f"{bug.__name__}: only {found.shown_mu:.2f} was shown"


def test_entropy_that_starts_again_for_every_step_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = private.NoisySteps.take

    def from_a_seed(self: private.NoisySteps, gradients: RowGradients, source: Entropy) -> private.NoisyStep:
        return real(self, gradients, ShakeEntropy(7, "the same every time"))

    monkeypatch.setattr(private.NoisySteps, "take", from_a_seed)
    found = audit(1_000, confidence=0.99)
    assert found.right == found.judged
    assert found.shown_mu == found.largest_mu


def test_nothing_is_shown_of_a_canary_that_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "clipped_sum", lambda *_: np.zeros(DIMENSION, dtype=np.int64))
    assert audit(1_000, confidence=0.99).shown_mu == 0.0


def test_sampling_and_stages_of_the_policy_do_not_weaken_the_audit() -> None:
    plain = audit(300, source=entropy("same"))
    staged = replace(SETTINGS, sampling_rate=0.01, connector_rounds=1)
    assert audit(300, staged, source=entropy("same")) == plain


def test_given_gradients_come_back_through_the_hooks_bit_for_bit() -> None:
    rows = [Row("", "-", "vqa", f"{number}", number, "") for number in (1, 0, 1)]
    with RowGradients(given_gradients(OTHERS)) as gradients:
        np.testing.assert_array_equal(gradients.of(rows), OTHERS[[1, 0, 1]])


def test_progress_is_told_and_too_few_trials_are_our_mistake() -> None:
    told: list[int] = []
    audit_step(OTHERS, SETTINGS, 2.0, trials=100, confidence=0.9, entropy=entropy("told"), progress=told.append)
    assert told == sorted(told) and len(told) == 10
    with pytest.raises(ValueError, match="100 trials"):
        audit(99)
    with pytest.raises(ValueError, match="other patient"):
        audit_step(OTHERS[:0], SETTINGS, 2.0, trials=100, confidence=0.9, entropy=entropy("none"))
