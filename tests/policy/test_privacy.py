"""The privacy section: what it refuses and why, what it resolves to, and what an operator reads about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.explain import explain
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.private_release import resolve_noise_multiplier, round_event
from fedvlm_secure.policy.projection import project
from tests.policy.conftest import POLICY

PRIVACY = (
    "{mechanism: dp_sgd, epsilon: 8, delta: 1e-5, clip_norm: 1, sampling_rate: 0.2, steps_per_round: 10, "
    "expected_patients: {a: 600, b: 600, c: 600}}"
)
PRIVATE = POLICY.replace("{mechanism: none}", PRIVACY).replace(", steps: 10}", "}")

PrivateFile = Callable[..., Path]


@pytest.fixture
def private_file(tmp_path: Path) -> PrivateFile:
    """Write a private policy with each (old, new) replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = PRIVATE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "private.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


REFUSED: dict[str, tuple[tuple[str, str], str, str]] = {
    "no delta": ((" delta: 1e-5,", ""), "FIELD_MISSING", "privacy.delta"),
    "no clip": ((" clip_norm: 1,", ""), "FIELD_MISSING", "privacy.clip_norm"),
    "delta of one patient": (("delta: 1e-5", "delta: 0.002"), "FIELD_VALUE", "not below 1 / 600 patients"),
    "delta beyond the accountant": (("delta: 1e-5", "delta: 1e-12"), "FIELD_VALUE", "privacy.delta"),
    "steps": (("learning_rate: 1e-3", "learning_rate: 1e-3, steps: 3"), "FIELD_VALUE", "local.steps"),
    "epochs": (("learning_rate: 1e-3", "learning_rate: 1e-3, epochs: 3"), "FIELD_VALUE", "local.epochs"),
    "batch size": (("learning_rate: 1e-3", "learning_rate: 1e-3, batch_size: 8"), "FIELD_VALUE", "local.batch_size"),
    "augmentation": (("learning_rate: 1e-3", "learning_rate: 1e-3, augment: shift"), "FIELD_VALUE", "local.augment"),
    "shuffled batches": (("learning_rate: 1e-3", "learning_rate: 1e-3, shuffle: true"), "FIELD_UNKNOWN", "shuffle"),
    "counted rows": (("version: 1", "version: 1\nweights: {counted: {cap: 9}}"), "FIELD_VALUE", "number of rows"),
    "exact totals": (("version: 1", "version: 1\nevaluation: {release: totals}"), "FIELD_VALUE", "evaluation.release"),
    "a tiny hospital": (("c: 600", "c: 19"), "FIELD_VALUE", "below limits.min_patients 20"),
    "few patients allowed": (("version: 1", "version: 1\nlimits: {min_patients: 6}"), "FIELD_VALUE", "20 or more"),
    "a hospital too few": ((", c: 600", ""), "FIELD_VALUE", "names 2 hospitals"),
    "a step of its own": (("learning_rate: 1e-3", "learning_rate: 1e-3, optimizer: sgd"), "FIELD_VALUE", "optimizer"),
    "a rate above one": (("sampling_rate: 0.2", "sampling_rate: 1.2"), "FIELD_VALUE", "privacy.sampling_rate"),
    "another unit": (("epsilon: 8", "epsilon: 8, unit: record"), "FIELD_TYPE", "privacy.unit"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_would_break_the_promise_is_one_error_with_its_field(private_file: PrivateFile, fault: str) -> None:
    change, code, cause = REFUSED[fault]
    path = private_file(change)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert (caught.value.code, cause in caught.value.cause) == (code, True), caught.value.cause
    assert caught.value.cause.startswith(f"{path}:") and caught.value.hint


def test_without_privacy_steps_or_epochs_are_still_needed(private_file: PrivateFile) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(private_file((PRIVACY, "{mechanism: none}")))
    assert "local.steps and local.epochs: exactly one" in caught.value.cause


def test_a_is_frozen_and_twenty_patients_are_the_least_where_the_file_is_silent(private_file: PrivateFile) -> None:
    silent = load_policy(private_file())
    assert (silent.model.lora.factors, silent.limits.min_patients) == ("ffa", 20)
    spoken = load_policy(
        private_file(
            ("seed: 7", "seed: 7\n  lora: {factors: both}"), ("version: 1", "version: 1\nlimits: {min_patients: 50}")
        )
    )
    assert (spoken.model.lora.factors, spoken.limits.min_patients) == ("both", 50)


def test_a_derived_private_policy_is_the_same_policy(private_file: PrivateFile, tmp_path: Path) -> None:
    policy = load_policy(private_file())
    assert policy_hash(derive(private_file(), {}, tmp_path / "again.yaml")) == policy_hash(policy)


def test_every_hospital_of_the_cohort_must_be_named(private_file: PrivateFile) -> None:
    policy = load_policy(private_file())
    feasibility.check(policy, 3, frozenset("abc"))
    with pytest.raises(PolicyError) as caught:
        feasibility.check(policy, 3, frozenset("abd"))
    assert caught.value.code == "PATIENTS_MISMATCH" and "does not name d" in caught.value.cause


def test_auto_is_the_least_noise_that_keeps_all_rounds_within_epsilon(private_file: PrivateFile) -> None:
    """50 steps at q = 0.2: the design's own figure for epsilon 8 is z = 1.15."""
    policy = load_policy(private_file())
    multiplier = resolve_noise_multiplier(policy, 12_288)
    assert multiplier == pytest.approx(1.15, abs=0.005) and (multiplier * 1024).is_integer()
    projection = project(policy, 12_288)
    assert projection is not None
    assert 7.98 < projection.trajectory[-1][1] <= 8.0
    less = load_policy(private_file(("epsilon: 8", f"epsilon: 8, noise_multiplier: {multiplier - 1 / 1024}")))
    with pytest.raises(PolicyError) as caught:
        project(less, 12_288)
    assert caught.value.code == "EPSILON_EXCEEDED" and "privacy.epsilon is 8" in caught.value.cause


def test_the_trajectory_rises_and_a_patient_at_two_hospitals_costs_more(private_file: PrivateFile) -> None:
    projection = project(load_policy(private_file()))
    assert projection is not None and projection.two_hospitals is not None
    costs = [cost for _, cost in projection.trajectory]
    assert [done for done, _ in projection.trajectory] == [1, 2, 3, 4, 5]
    assert costs == sorted(costs) and costs[0] > 3
    assert 11 < projection.two_hospitals < 12  # dp-accounting, called directly: 11.47


def test_noise_that_drowns_the_signal_is_refused_with_its_number(private_file: PrivateFile) -> None:
    policy = load_policy(private_file())
    small = project(policy, 20_000)
    assert small is not None and small.pooled is not None
    multiplier = small.noise_multiplier
    assert small.ratios["a"] == pytest.approx(multiplier * math.sqrt(20_000) / 120)
    assert small.pooled == pytest.approx(small.ratios["a"] / math.sqrt(3))
    with pytest.raises(PolicyError) as caught:
        project(policy, 10_000_000)
    assert caught.value.code == "NOISE_DROWNS_SIGNAL" and "10000000 trained values" in caught.value.cause


def test_a_small_hospital_that_drowns_alone_is_warned_of(private_file: PrivateFile) -> None:
    projection = project(load_policy(private_file(("c: 600", "c: 40"))), 20_000)
    assert projection is not None
    assert len(projection.warnings) == 1 and projection.warnings[0].startswith("c: its own noise")


def test_a_large_delta_is_warned_of(private_file: PrivateFile) -> None:
    projection = project(load_policy(private_file(("delta: 1e-5", "delta: 1e-3"))))
    assert projection is not None and "above 1 / (10 * 600 patients)" in projection.warnings[0]


def test_what_is_charged_is_every_step_of_a_round(private_file: PrivateFile) -> None:
    policy = load_policy(private_file())
    event = round_event(policy, 1.15, 100)
    assert vars(event)["count"] == 10


def test_the_operator_reads_the_promise_and_what_is_outside_it(private_file: PrivateFile) -> None:
    text = "\n".join(line for _, lines in explain(load_policy(private_file()), 3, 12_288).paragraphs for line in lines)
    assert "epsilon 8.00 at delta 1e-05 after all 5 rounds" in text
    assert "a patient at two of these hospitals: epsilon 11.47" in text
    assert "charged to this hospital's ledger before its update leaves" in text
    assert "no loss, no number of rows" in text
    assert "no epsilon can be stated" not in text and "nothing bounds" not in text


def test_the_operator_of_an_unprotected_run_reads_that_nothing_is_promised() -> None:
    shipped = Path(__file__).parents[2] / "policies" / "fedavg.yaml"
    text = "\n".join(line for _, lines in explain(load_policy(shipped), 3).paragraphs for line in lines)
    assert "nothing is promised" in text and "for ever as released without formal protection" in text


EVALUATION = ("version: 1", "version: 1\nevaluation: {release: %s}")


def released(private_file: PrivateFile, words: str, *changes: tuple[str, str]) -> Path:
    return private_file((EVALUATION[0], EVALUATION[1] % words), *changes)


SCORES_REFUSED = {
    "more than all": ("final, epsilon: 8", "a part of privacy.epsilon 8"),
    "both": ("each, epsilon: 1, noise_multiplier: 3", "at most one of them"),
    "noise for nothing": ("none, noise_multiplier: 3", "not used with evaluation.release none"),
    "exact counts": ("totals", "exact counts over patients"),
}


@pytest.mark.parametrize("fault", SCORES_REFUSED)
def test_releases_that_do_not_fit_are_refused_with_their_field(private_file: PrivateFile, fault: str) -> None:
    words, cause = SCORES_REFUSED[fault]
    with pytest.raises(PolicyError) as caught:
        load_policy(released(private_file, words))
    assert "evaluation." in caught.value.cause and cause in caught.value.cause and caught.value.hint != cause


@pytest.mark.parametrize("release", ["final", "each"])
def test_a_noised_release_without_a_mechanism_is_refused(private_file: PrivateFile, release: str) -> None:
    plain = ((PRIVACY, "{mechanism: none}"), ("learning_rate: 1e-3", "learning_rate: 1e-3, steps: 3"))
    with pytest.raises(PolicyError) as caught:
        load_policy(released(private_file, release, *plain))
    assert "privacy.mechanism none adds no noise" in caught.value.cause and "totals" in caught.value.hint


def test_scores_get_a_quarter_of_epsilon_and_at_most_one_where_the_file_is_silent(private_file: PrivateFile) -> None:
    assert load_policy(released(private_file, "final")).evaluation.epsilon == 1.0
    assert load_policy(released(private_file, "each", ("epsilon: 8", "epsilon: 2"))).evaluation.epsilon == 0.5
    named = load_policy(released(private_file, "final, noise_multiplier: 3")).evaluation
    assert (named.epsilon, named.noise_multiplier) == (None, 3.0)


def test_a_derived_policy_with_released_scores_is_the_same_policy(private_file: PrivateFile, tmp_path: Path) -> None:
    path = released(private_file, "final")
    assert policy_hash(derive(path, {}, tmp_path / "again.yaml")) == policy_hash(load_policy(path))


@pytest.mark.parametrize(("words", "rounds", "releases"), [("final", 6, 1), ("each", 5, 5), ("each, every: 2", 5, 3)])
def test_released_scores_stay_within_the_runs_epsilon(
    private_file: PrivateFile, words: str, rounds: int, releases: int
) -> None:
    policy = load_policy(released(private_file, words))
    projection = project(policy, 12_288)
    assert projection is not None and projection.scores is not None
    assert policy.rounds_in_all == rounds and [done for done, _ in projection.trajectory] == list(range(1, rounds + 1))
    assert 7.98 < projection.trajectory[-1][1] <= 8.0
    assert projection.scores.releases == releases
    assert 0.99 < projection.scores.epsilon <= 1.0
    assert projection.noise_multiplier > resolve_noise_multiplier(load_policy(private_file()), 12_288)


def test_scores_that_cost_everything_by_themselves_are_refused(private_file: PrivateFile) -> None:
    with pytest.raises(PolicyError) as caught:
        project(load_policy(released(private_file, "each, noise_multiplier: 0.5")))
    assert caught.value.code == "EPSILON_EXCEEDED" and "the released scores alone" in caught.value.cause


def test_the_operator_reads_what_is_released_and_how_blurred(private_file: PrivateFile) -> None:
    policy = load_policy(released(private_file, "final"))
    text = "\n".join(line for _, lines in explain(policy, 3, 12_288).paragraphs for line in lines)
    assert "noised before that: once, of the final model, in round 6 of its own" in text
    assert "exact, local, not released" in text
    assert (
        "epsilon 1.00 by themselves" in text and "standard deviation 5.3 patients" in text and "9.1 in the sum" in text
    )
    assert "no accuracy: it is known" not in text
