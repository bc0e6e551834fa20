"""`mechanism: distributed` in a policy: what it refuses and why, what it resolves to, what an operator reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.dp.events import flatten
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.explain import explain, unprotected
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.noise_shares import makers_of, noise_of
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.privacy_words import holds_against
from fedvlm_secure.policy.private_release import resolve_noise_multiplier, round_event, run_event
from fedvlm_secure.policy.projection import project
from tests.policy.conftest import POLICY

D = 12_288
PRIVACY = (
    "{mechanism: distributed, epsilon: 8, delta: 1e-5, clip_norm: 1, sampling_rate: 0.2, "
    "expected_patients: {a: 600, b: 600, c: 600}}"
)
SHARED = (
    POLICY.replace("{mechanism: none}", PRIVACY)
    .replace(", steps: 10}", "}")
    .replace("rounds: 5", "rounds: 50\nalgorithm: {name: fedadam, server_lr: 0.012, tau: 2e-3}")
)

SharedFile = Callable[..., Path]


@pytest.fixture
def shared_file(tmp_path: Path) -> SharedFile:
    """Write a policy with shared noise with each (old, new) replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = SHARED
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "shared.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


ADAM = "{name: fedadam, server_lr: 0.012, tau: 2e-3}"
MASKING = "method: masking"
RATE = "learning_rate: 1e-3"
REFUSED: dict[str, tuple[tuple[str, str], str, str, str]] = {
    "one key for all": ((MASKING, "method: bfv"), "FIELD_VALUE", "protection.method is bfv", "another's update"),
    "one key for all, ckks": ((MASKING, "method: ckks"), "FIELD_VALUE", "protection.method is ckks", "share of noise"),
    "no masks": (
        (f"{{{MASKING}", "{method: none"),
        "FIELD_VALUE",
        "protection.method is none under distributed",
        "a fraction of what is accounted for",
    ),
    "narrow lanes": ((MASKING, f"{MASKING}, lanes: 3"), "FIELD_VALUE", "protection.lanes is 3", "does not fit"),
    "public sizes": (
        ("version: 1", "version: 1\nweights: {declared: {a: 1, b: 2, c: 3}}"),
        "FIELD_VALUE",
        "weights",
        "counts alike",
    ),
    "a proximal term": ((ADAM, "{name: fedprox}"), "FIELD_VALUE", "algorithm.name is fedprox", "local steps"),
    "two sums": ((ADAM, "{name: scaffold}"), "NOT_IN_THIS_VERSION", "scaffold", ""),
    "the study's form": (
        (ADAM, "{name: fedadam, server_lr: 0.012, reference_compat: true}"),
        "FIELD_VALUE",
        "algorithm.reference_compat",
        "variance",
    ),
    "two stages": (
        ("strategy: lora", "strategy: two-stage\n  connector_rounds: 9"),
        "FIELD_VALUE",
        "model.strategy is two-stage",
        "rest",
    ),
    "a local optimizer": ((RATE, f"{RATE}, optimizer: adamw"), "FIELD_VALUE", "local.optimizer is adamw", "sum"),
    "a falling rate": ((RATE, f"{RATE}, schedule: cosine"), "FIELD_VALUE", "local.schedule is cosine", "bit for bit"),
    "local steps": ((RATE, f"{RATE}, steps: 3"), "FIELD_VALUE", "local.steps is not used under distributed", ""),
    "steps in a round": (("clip_norm: 1", "clip_norm: 1, steps_per_round: 2"), "FIELD_TYPE", "steps_per_round", ""),
    "replacing a patient": (("clip_norm: 1", "clip_norm: 1, adjacency: replace_one"), "FIELD_TYPE", "adjacency", ""),
    "a whole hospital": (("clip_norm: 1", "clip_norm: 1, unit: hospital"), "FIELD_TYPE", "privacy.unit", ""),
    "exact totals": (("version: 1", "version: 1\nevaluation: {release: totals}"), "FIELD_VALUE", "release", "exact"),
    "a delta of one patient": (("delta: 1e-5", "delta: 0.002"), "FIELD_VALUE", "privacy.delta", "600 patients"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_one_noised_sum_cannot_carry_is_one_error_with_its_field_and_reason(
    shared_file: SharedFile, fault: str
) -> None:
    change, code, field, reason = REFUSED[fault]
    path = shared_file(change)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert caught.value.code == code, caught.value.cause
    assert field in caught.value.cause and reason in caught.value.cause + caught.value.hint
    assert caught.value.cause.startswith(f"{path}:") and caught.value.hint


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_every_algorithm_whose_step_is_the_servers_is_taken(shared_file: SharedFile, name: str) -> None:
    rate = "" if name == "fedavg" else ", server_lr: 0.1"
    assert load_policy(shared_file((ADAM, f"{{name: {name}{rate}}}"))).algorithm.name == name


def test_sgd_lanes_of_32_bits_and_a_frozen_a_where_the_file_is_silent(shared_file: SharedFile) -> None:
    policy = load_policy(shared_file())
    assert (policy.local.optimizer, policy.model.lora.factors, policy.limits.min_patients) == ("sgd", "ffa", 20)
    assert feasibility.check(policy, 3).lanes.per_word == 2


def test_a_derived_policy_is_the_same_policy(shared_file: SharedFile, tmp_path: Path) -> None:
    again = derive(shared_file(), {}, tmp_path / "again.yaml")
    assert policy_hash(again) == policy_hash(load_policy(shared_file()))


def test_auto_is_the_noise_of_the_shares_counted_on_and_each_hospital_makes_its_part(shared_file: SharedFile) -> None:
    """50 sums at q = 0.2: z = 1.15 as for one noise maker, made by 3 - 1 of 3 hospitals."""
    policy = load_policy(shared_file())
    assert isinstance(policy.privacy, Distributed)
    multiplier = resolve_noise_multiplier(policy, D)
    assert multiplier == pytest.approx(1.15, abs=0.005)
    makers = makers_of(policy)
    assert (makers.counted, makers.readers, makers.coalition) == (2, 3, 1)
    noise = noise_of(policy, policy.privacy, multiplier, D)
    assert noise.guaranteed_variance == 2 * noise.share_variance
    assert noise.guaranteed_variance >= multiplier**2 * noise.clip_squared
    assert flatten(round_event(policy, multiplier, D)) == flatten(run_event(policy, multiplier, D, 1))


def test_epsilons_of_all_observers_stand_beside_each_other(shared_file: SharedFile) -> None:
    """dp-accounting, called directly for z, z sqrt(3/2), z / sqrt(2) and the mixture: 7.99, 5.79, 14.7 and 18.8."""
    projection = project(load_policy(shared_file()), D)
    assert projection is not None and projection.shared is not None and projection.two_hospitals is not None
    assert 7.98 < projection.trajectory[-1][1] <= 8.0
    assert projection.shared.readers == pytest.approx(5.79, abs=0.02)
    assert projection.shared.alone == pytest.approx(14.7, abs=0.1)
    assert projection.two_hospitals == pytest.approx(18.8, abs=0.1)
    assert projection.pooled is not None and projection.pooled < min(projection.ratios.values())


def test_who_colludes_is_not_counted_on_and_three_take_more_noise_away_than_one(shared_file: SharedFile) -> None:
    patients = "{a: 600, b: 600, c: 600}"
    six = ", ".join(f"{name}: 600" for name in "abcdef")
    shares = []
    for colluding in (0, 1, 3):
        path = shared_file((patients, f"{{{six}}}"), ("min_nodes: 3", f"min_nodes: 6\n  colluding: {colluding}"))
        policy = load_policy(path)
        makers = makers_of(policy)
        terms = feasibility.check(policy, 6).terms
        assert makers.coalition == max(1, colluding) and makers.counted == terms.min_survivors - makers.coalition
        assert isinstance(policy.privacy, Distributed)
        shares.append(noise_of(policy, policy.privacy, 1.15, D).share_variance)
    assert shares[2] > shares[1] == shares[0]


def test_noise_sized_for_fewer_hospitals_than_are_named_is_warned_of(shared_file: SharedFile) -> None:
    """Five named, three the least: 2 counted on where 3 could be, sqrt(2/3) of the noise, 18 % less."""
    five = ("{a: 600, b: 600, c: 600}", "{a: 600, b: 600, c: 600, d: 600, e: 600}")
    spare = project(load_policy(shared_file(five)))
    exact = project(load_policy(shared_file(five, ("min_nodes: 3", "min_nodes: 5"))))
    assert spare is not None and exact is not None
    assert [warning for warning in spare.warnings if "3 would be, and each would add 18% less" in warning]
    assert exact.warnings == ()


def test_what_is_approved_says_who_is_counted_on_and_what_it_costs_otherwise(shared_file: SharedFile) -> None:
    policy = load_policy(shared_file())
    lines = [line for _, paragraph in explain(policy, 3, D).paragraphs for line in paragraph]
    text = "\n".join(lines)
    for wanted in (
        "the aggregator with one other hospital on its side, which follows the protocol and tells what it knows: "
        "2 others at least make their noise in every sum",
        "it rests on the masks",
        "against the aggregator alone, and readers of the model: epsilon 5.79",
        "if every other hospital helps the aggregator: epsilon 14.7",
        "a patient at two of these hospitals: epsilon 18.8",
        "its share of the noise; it makes no step",
        "divided by the 360 patients expected",
        "no loss, no number of rows",
        "2 values per 64-bit word",
    ):
        assert wanted in text, wanted
    assert "everybody: the aggregator, all other hospitals" not in text
    assert any("2 hospitals or more on the aggregator's side" in line for line in unprotected(policy))


def test_where_a_dishonest_hospital_is_tolerated_the_promise_holds_against_it_too(shared_file: SharedFile) -> None:
    """With colluding 0 the masks themselves stand against nobody who breaks the protocol; with 1 against one."""
    four = ("{a: 600, b: 600, c: 600}", "{a: 600, b: 600, c: 600, d: 600}")
    words = [
        holds_against(load_policy(shared_file(*changes))) for changes in ((), (four, ("min_nodes: 3", "min_nodes: 4")))
    ]
    assert ["follows the protocol" in text for text in words] == [True, False]


def test_noise_that_drowns_the_one_sum_is_refused_with_its_number(shared_file: SharedFile) -> None:
    with pytest.raises(PolicyError) as caught:
        project(load_policy(shared_file()), 10_000_000)
    assert caught.value.code == "NOISE_DROWNS_SIGNAL"


def test_a_sum_that_could_leave_its_lane_is_refused_before_anything_starts(shared_file: SharedFile) -> None:
    with pytest.raises(PolicyError) as caught:
        project(load_policy(shared_file(("max_update: 0.25", "max_update: 20"))), D)
    assert caught.value.code == "RING_HEADROOM" and "protection.max_update from" in caught.value.hint
