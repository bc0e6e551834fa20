"""Scores for a noised release: each patient counts once, by itself, whoever else is there, and only where due."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, bound_squared
from fedvlm_secure.train.noised import NoisedTraining, ScoreSchedule
from fedvlm_secure.train.patient_scores import PatientTotals, by_patient
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.types import Float32Vector, Int64Vector
from fedvlm_secure.vlm.adapters import LoraSettings
from fedvlm_secure.vlm.base import shipped_base
from tests.support.entropy import entropy
from tests.train.private_bench import CONTRACT, DATA, SETTINGS

TASKS = ("vqa", "classification")


@pytest.fixture(scope="module")
def member() -> LocalTraining:
    return LocalTraining(
        Tuning(shipped_base("tiny-fuyu"), None, "lora", LoraSettings(r=4, factors="ffa"), 1),
        CONTRACT,
        DATA,
        None,
        batch_order=np.random.default_rng,
        split_key=b"split",
    )


def start(member: LocalTraining) -> Float32Vector:
    return np.zeros(member.layout.dimension, np.float32)


def vector(totals: PatientTotals) -> Int64Vector:
    return np.array([part for task in TASKS for part in (totals.right[task], totals.wrong[task])], dtype=np.int64)


def test_right_and_wrong_together_are_the_patients_who_were_asked(member: LocalTraining) -> None:
    totals = member.score_patients(start(member), TASKS)
    for task in TASKS:
        asked = len({row.patient for row in member.test_rows if row.task == task})
        assert totals.right[task] + totals.wrong[task] == asked * STEPS_PER_PATIENT > 0
    exact = member.evaluate(start(member)).tasks
    for task in TASKS:  # the one counts patients, the other questions
        share = totals.right[task] / (totals.right[task] + totals.wrong[task])
        assert share == pytest.approx(exact[task].accuracy, abs=0.1)


def test_a_patient_who_leaves_changes_nothing_about_the_others(member: LocalTraining) -> None:
    """A limit on questions would break this: who is left out would decide who else is asked."""
    everybody, rows = member.score_patients(start(member), TASKS), member.test_rows
    try:
        for gone in by_patient(rows)[:3]:
            member.test_rows = gone
            alone = vector(member.score_patients(start(member), TASKS))
            member.test_rows = tuple(row for row in rows if row.patient != gone[0].patient)
            without = vector(member.score_patients(start(member), TASKS))
            assert np.array_equal(vector(everybody) - without, alone)
            assert int((alone**2).sum()) <= bound_squared(len(TASKS))
    finally:
        member.test_rows = rows


def test_a_patient_with_ten_times_the_questions_counts_no_more(member: LocalTraining) -> None:
    rows = member.test_rows
    once = vector(member.score_patients(start(member), TASKS))
    try:
        member.test_rows = (*rows, *by_patient(rows)[0] * 9)
        assert np.array_equal(vector(member.score_patients(start(member), TASKS)), once)
    finally:
        member.test_rows = rows


def test_a_round_scores_where_it_is_due_and_one_beyond_the_last_trains_nothing(member: LocalTraining) -> None:
    schedule = ScoreSchedule(TASKS, lambda number: number == 3)
    noised = NoisedTraining(member, replace(SETTINGS, rounds=2), entropy("noised"), schedule)
    trained, closing = noised.train(2, start(member)), noised.train(3, start(member))
    assert trained.update.any() and not trained.right and not trained.wrong
    assert not closing.update.any() and set(closing.right) == set(closing.wrong) == set(TASKS)


def test_without_a_schedule_nothing_is_handed_over(member: LocalTraining) -> None:
    done = NoisedTraining(member, replace(SETTINGS, steps_per_round=1), entropy("none")).train(1, start(member))
    assert not done.right and not done.wrong
