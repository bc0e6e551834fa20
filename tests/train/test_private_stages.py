"""Two stages under DP-SGD: a round clips, noises and moves its own stage's coordinates, and no other by a bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedvlm_secure.train import private
from fedvlm_secure.train.plain import trains
from fedvlm_secure.train.private import clipped_sum, resting_coordinates
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.vlm.adapters import TunedModel
from tests.support.entropy import entropy
from tests.train.private_bench import ROWS, SETTINGS, row_loss, train, tuned_model


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    return tuned_model("connector+lora")


def stages(tuned: TunedModel) -> dict[str, Any]:
    return {stage: resting_coordinates(tuned.layout, stage) for stage in ("connector", "lora")}


def test_every_coordinate_trains_in_exactly_one_stage(tuned: TunedModel) -> None:
    resting = stages(tuned)
    assert np.array_equal(resting["connector"], ~resting["lora"])
    assert resting["connector"].any() and resting["lora"].any()
    assert not resting_coordinates(tuned.layout, None).any()


@pytest.mark.parametrize(("connector_rounds", "stage"), [(1, "connector"), (0, "lora")])
def test_a_round_moves_all_of_its_stage_and_nothing_else(
    tuned: TunedModel, connector_rounds: int, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a state away from the start, where reading differences back rounds."""
    monkeypatch.setattr(PrivateSettings, "stage_at", lambda *_: stage)
    away = np.random.default_rng(1).normal(0, 0.01, tuned.layout.dimension).astype(np.float32)
    update = train(tuned, difference=away).update
    resting = stages(tuned)[stage]
    assert not update[resting].any()
    for slot, span in tuned.layout.spans():
        assert update[span].any() == trains(slot.name, stage)  # type: ignore[arg-type]
    assert np.mean(update[~resting] != 0) > 0.99  # noise reaches every value that trains


def test_the_clip_is_over_the_stages_own_coordinates(tuned: TunedModel) -> None:
    """A patient's gradient in resting tensors must not eat up the clip of those that train, nor leave."""
    clip = SETTINGS.clip(tuned.layout.dimension)
    resting = stages(tuned)["connector"]
    with RowGradients(row_loss(tuned)) as gradients:
        total = clipped_sum(gradients, ROWS, [np.array([0])], 24, clip, entropy("one"), resting)
        whole = gradients.of([ROWS[0]])[0].astype(np.float64)
    assert not total[resting].any()
    assert float(np.linalg.norm(total.astype(np.float64))) <= clip.norm
    own = np.where(resting, 0.0, whole)
    along = float(total @ own) / float(np.linalg.norm(own))  # rounding adds length, but hardly any in this direction
    assert along == pytest.approx(min(1.0, float(np.linalg.norm(own))) * clip.grid_steps, rel=0.03)


def test_without_the_stages_coordinates_left_out_the_other_stage_would_move(
    tuned: TunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: a stage that is ignored shows in the update."""
    monkeypatch.setattr(PrivateSettings, "stage_at", lambda *_: "connector")
    monkeypatch.setattr(private, "resting_coordinates", lambda layout, stage: np.zeros(layout.dimension, np.bool_))
    assert train(tuned).update[stages(tuned)["connector"]].any()


def test_the_round_number_decides_the_stage() -> None:
    staged = PrivateSettings(1.0, 1.0, 0.2, 1, 40, 0.01, connector_rounds=2, rounds=4)
    assert [staged.stage_at(number) for number in (1, 2, 3, 4)] == ["connector", "connector", "lora", "lora"]
    with pytest.raises(ValueError, match="connector_rounds"):
        PrivateSettings(1.0, 1.0, 0.2, 1, 40, 0.01, connector_rounds=0)
