"""One hospital from its data to its update, its score and its export."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvlm_secure.errors import DataError, ModelError
from fedvlm_secure.train import session as session_module
from fedvlm_secure.train.session import LocalTraining, Tuning, sampled
from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.vlm.adapters import LoraSettings
from fedvlm_secure.vlm.base import fingerprint, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.data.rows import HospitalData

SHIPPED = shipped_base("tiny-fuyu")
CONTRACT = derive_contract(contract_rows())


def hospital(site: str, patients: int = 120) -> HospitalData:
    rng = np.random.default_rng([4, len(site)])
    return draw_hospital(SITES[site], patients=patients, image_size=32, name=site, rng=rng)


def session(site: str = "coast", data: HospitalData | None = None, min_patients: int = 20) -> LocalTraining:
    return LocalTraining(
        Tuning(SHIPPED, fingerprint(SHIPPED), "connector+lora", LoraSettings(), 2026),
        CONTRACT,
        data or hospital(site),
        LocalSettings(learning_rate=3e-3, batch_size=32, steps=25),
        batch_order=lambda round_number: np.random.default_rng([round_number, len(site)]),
        split_key=b"split",
        min_patients=min_patients,
    )


def test_three_hospitals_learn_together_in_two_rounds() -> None:
    members = [session(site) for site in ("coast", "valley", "harbour")]
    state = np.zeros(members[0].layout.dimension, np.float32)
    before = [member.evaluate(state) for member in members]
    for round_number in (1, 2):
        updates = [member.train(round_number, state) for member in members]
        state = (state + np.mean([update.update for update in updates], axis=0)).astype(np.float32)
    after = [member.evaluate(state) for member in members]
    assert len({member.layout.digest for member in members}) == 1
    correct = [sum(score.correct for e in when for score in e.tasks.values()) for when in (before, after)]
    total = sum(score.total for e in after for score in e.tasks.values())
    assert (correct[1] - correct[0]) / total > 0.10


def test_caption_and_grounding_rows_neither_train_nor_score() -> None:
    member = session()
    assert {row.task for row in (*member.train_rows, *member.test_rows)} == {"vqa", "classification"}
    assert set(member.evaluate(np.zeros(member.layout.dimension, np.float32)).tasks) == {"vqa", "classification"}


def test_the_test_side_shares_no_patient_with_training() -> None:
    member = session()
    assert not {row.patient for row in member.train_rows} & {row.patient for row in member.test_rows}
    assert member.patients == len({row.patient for row in member.train_rows})


def test_a_limit_asks_the_same_questions_every_time() -> None:
    member = session()
    state = np.zeros(member.layout.dimension, np.float32)
    one, again = member.evaluate(state, 30), member.evaluate(state, 30)
    assert one == again
    assert sum(score.total for score in one.tasks.values()) == 30
    assert len(sampled(member.test_rows, None)) == len(member.test_rows)
    assert set(sampled(member.test_rows, 10)) <= set(sampled(member.test_rows, 30))


def test_evaluating_leaves_no_trace_in_the_next_round() -> None:
    member = session()
    state = np.zeros(member.layout.dimension, np.float32)
    first = member.train(1, state).update
    member.evaluate(first)
    assert np.array_equal(member.train(1, state).update, first)


def test_a_hospital_with_too_few_patients_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        session(data=hospital("coast", patients=15))
    assert caught.value.code == "TOO_FEW_PATIENTS"


def test_an_answer_that_nobody_agreed_on_is_refused_before_training() -> None:
    data = hospital("coast")
    strange = tuple(replace(row, answer="alien") if row.task == "vqa" else row for row in data.rows)
    with pytest.raises(DataError) as caught:
        session(data=HospitalData(strange, data.pictures))
    assert caught.value.code == "ANSWER_OUTSIDE_VOCABULARY"


def test_another_base_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    other = Path(shutil.copytree(SHIPPED, tmp_path / "other"))
    config = other / "config.json"
    config.write_text(config.read_text().replace('"image_size": 32', '"image_size": 64'))
    with pytest.raises(ModelError) as caught:
        LocalTraining(
            Tuning(other, fingerprint(SHIPPED), "lora", LoraSettings(), 1),
            CONTRACT,
            hospital("coast"),
            LocalSettings(learning_rate=1e-3, batch_size=4, steps=1),
            batch_order=np.random.default_rng,
            split_key=b"split",
        )
    assert caught.value.code == "BASE_FINGERPRINT"


def test_metrics_as_json_name_no_patient() -> None:
    member = session()
    shown = member.evaluate(np.zeros(member.layout.dimension, np.float32), 40).as_json()
    assert set(shown) == {"tasks", "questions"}
    assert "coast-" not in str(shown)


def test_export_writes_adapter_and_connector(tmp_path: Path) -> None:
    member = session()
    names = {path.name for path in member.export(np.zeros(member.layout.dimension, np.float32), tmp_path / "out")}
    assert {"adapter_config.json", "adapter_model.safetensors", "connector.safetensors"} <= names


@pytest.mark.parametrize("part", ["train_plain", "score_rows"])
def test_memory_that_runs_out_in_a_round_is_one_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has less")

    monkeypatch.setattr(session_module, part, full)
    one = session()
    state = np.zeros(one.layout.dimension, np.float32)
    with pytest.raises(ModelError) as caught:
        _ = one.train(1, state) if part == "train_plain" else one.evaluate(state)
    assert caught.value.code == "DEVICE_MEMORY" and "2.00 GiB" in caught.value.cause
