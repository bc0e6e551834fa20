"""A patient who withdrew is in no later round: not loaded, not drawn, not scored, with and without privacy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import DataError, StorageError
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.node_config import NodeConfig, load_node_config
from fedvlm_secure.policy.schema import Policy
from node.hospital import build_training, load_data, with_mechanism
from node.ledger_patients import patient_hashes
from node.withdrawn import ConsentingTraining, consent_of
from tests.ledger.purse import CountedEntropy, Purse

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


@pytest.fixture
def config(purse: Purse, tmp_path: Path) -> NodeConfig:
    path = tmp_path / "node.yaml"
    path.write_text(
        f"node: coast\nstate: {purse.state}\naggregator: 127.0.0.1:1\npopulation: chest\n"
        "data: {phantoms: {site: coast, seed: 1, patients: 60}}\n"
    )
    return load_node_config(path)


def small(tmp_path: Path, base: str) -> Policy:
    changes: dict[str, Any] = {"name": "small", "local.steps": 1, "local.epochs": None}
    if base == "dp_fedavg":
        expected = {"coast": 60, "harbour": 60, "valley": 60}
        changes = {"name": "small", "privacy.expected_patients": expected, "privacy.steps_per_round": 1}
    derive(POLICIES / f"{base}.yaml", changes, tmp_path / "small.yaml")
    return load_policy(tmp_path / "small.yaml")


def leave(purse: Purse, *patients: str) -> None:
    ledger = purse.open()
    ledger.withdraw_patients("chest", patient_hashes(patients, ledger.key), ahead=True)


def test_rows_and_pictures_of_who_withdrew_are_not_loaded(purse: Purse, config: NodeConfig) -> None:
    policy = load_policy(POLICIES / "fedavg.yaml")
    before = load_data(policy, config)  # without a ledger nobody has withdrawn
    purse.create()
    assert load_data(policy, config).rows == before.rows
    gone = sorted({row.patient for row in before.rows})[7]
    leave(purse, f" {gone.upper()} ")
    after = load_data(policy, config)
    kept = [row for row in before.rows if row.patient != gone]
    assert after.patients() == before.patients() - 1 and gone not in {row.patient for row in after.rows}
    assert len(after.pictures) == len({row.picture for row in kept})
    for row, old in zip(after.rows, kept, strict=True):
        np.testing.assert_array_equal(after.pictures[row.picture], before.pictures[old.picture])


def test_another_populations_withdrawal_takes_nobody_from_this_one(purse: Purse, config: NodeConfig) -> None:
    policy = load_policy(POLICIES / "fedavg.yaml")
    purse.create().add_population("abdomen", delta=1e-5, epsilon_limit=1.0)
    ledger = purse.open()
    ids = {row.patient for row in load_data(policy, config).rows}
    ledger.withdraw_patients("abdomen", patient_hashes(ids, ledger.key), ahead=True)
    assert load_data(policy, config).patients() == 60


@pytest.mark.parametrize("base", ["fedavg", "dp_fedavg"])
def test_a_withdrawal_holds_from_the_next_round_of_a_running_service(
    purse: Purse, config: NodeConfig, tmp_path: Path, base: str
) -> None:
    purse.create()
    policy = small(tmp_path, base)
    training = build_training(policy, config)
    rounds = with_mechanism(policy, config, training, CountedEntropy())
    consenting = ConsentingTraining(rounds, training, lambda: consent_of(config), min_patients=20)
    start = np.zeros(training.layout.dimension, dtype=np.float32)
    assert consenting.train(1, start).update.any()
    trained, tested = training.train_rows[0].patient, training.test_rows[0].patient
    leave(purse, tested)
    consenting.evaluate(start, limit=4)
    assert tested not in {row.patient for row in training.test_rows}
    leave(purse, trained)
    consenting.train(2, start)
    assert trained not in {row.patient for row in training.train_rows}


def test_public_constants_do_not_tell_that_somebody_left(purse: Purse, config: NodeConfig, tmp_path: Path) -> None:
    purse.create()
    policy = small(tmp_path, "dp_fedavg")
    training = build_training(policy, config)
    noised: Any = with_mechanism(policy, config, training, CountedEntropy())
    leave(purse, *{row.patient for row in training.train_rows[:40]})
    later: Any = with_mechanism(policy, config, build_training(policy, config), CountedEntropy())
    assert later._settings == noised._settings and later._settings.expected_patients == 60


def test_too_few_who_stay_end_the_rounds_by_name(purse: Purse, config: NodeConfig) -> None:
    purse.create()
    rows = tuple(SimpleNamespace(patient=f"P{at}") for at in range(21))
    asked: list[int] = []
    rounds: Any = SimpleNamespace(train=lambda number, difference: asked.append(number))
    training: Any = SimpleNamespace(train_rows=rows, test_rows=rows)
    consenting = ConsentingTraining(rounds, training, lambda: consent_of(config), min_patients=20)
    nothing = np.zeros(1, dtype=np.float32)
    consenting.train(1, nothing)
    leave(purse, "p3", "p4")
    with pytest.raises(DataError) as caught:
        consenting.train(2, nothing)
    assert asked == [1] and "P3" not in str(caught.value)


def test_in_doubt_about_the_ledger_nobody_trains(purse: Purse, config: NodeConfig) -> None:
    purse.create()
    purse.edit("DELETE FROM entry WHERE sequence = 2")
    with pytest.raises(StorageError) as caught:
        load_data(load_policy(POLICIES / "fedavg.yaml"), config)
    assert caught.value.code == "LEDGER_ROLLED_BACK"
