"""node.yaml: read like a policy, paths from its own folder, limits that only tighten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.node_config import (
    DatasetsSource,
    JsonlSource,
    PhantomSource,
    check_cohort,
    effective_limits,
    evaluation_limit,
    load_node_config,
)

CONFIG = """\
node: hospital-a
state: state
aggregator: aggregator.example.org:7443
population: chest-2026
data: {jsonl: rows/train.jsonl}
"""


def write(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in CONFIG
    path = folder / "node.yaml"
    path.write_text(CONFIG.replace(old, new, 1) if old else CONFIG, encoding="utf-8")
    return path


def test_paths_start_at_the_files_own_folder(tmp_path: Path) -> None:
    config = load_node_config(write(tmp_path))
    assert config.state == tmp_path / "state"
    assert config.roster_path == tmp_path / "state" / "roster.toml"
    assert isinstance(config.data, JsonlSource)
    assert config.data.jsonl == tmp_path / "rows" / "train.jsonl"
    absolute = load_node_config(write(tmp_path, "state: state", "state: /var/lib/fedvlm"))
    assert absolute.state == Path("/var/lib/fedvlm")


def test_the_three_sources_of_data_are_told_apart(tmp_path: Path) -> None:
    phantoms = load_node_config(write(tmp_path, "{jsonl: rows/train.jsonl}", "{phantoms: {site: north, seed: 3}}"))
    assert isinstance(phantoms.data, PhantomSource)
    assert phantoms.data.phantoms.patients >= 600
    mapped = "{datasets: {path: rows, loader: parquet, columns: {image: pic, question: q, answer: a, patient: p}}}"
    datasets = load_node_config(write(tmp_path, "{jsonl: rows/train.jsonl}", mapped))
    assert isinstance(datasets.data, DatasetsSource)
    assert datasets.data.datasets.columns.image == "pic"


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("population", "populaton", "FIELD_UNKNOWN", "node.yaml:4: populaton is not a field of node.yaml"),
        ("{jsonl: rows/train.jsonl}", "{jsonl: a, phantoms: {site: b, seed: 1}}", "FIELD_VALUE", "exclude each other"),
        ("{jsonl: rows/train.jsonl}", "{csv: a}", "FIELD_UNKNOWN", "data.csv"),
        ("{jsonl: rows/train.jsonl}", "{}", "FIELD_MISSING", "data is empty"),
        ("hospital-a", "../a", "FIELD_VALUE", "node"),
        (":7443", "", "FIELD_VALUE", "aggregator"),
        ("node: hospital-a", "node: hospital-a\nthreads: 0", "FIELD_VALUE", "threads"),
        ("node: hospital-a", "node: hospital-a\ndevice: tpu", "FIELD_VALUE", "device"),
    ],
)
def test_a_spoiled_configuration_is_one_error(tmp_path: Path, old: str, new: str, code: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_node_config(write(tmp_path, old, new))
    assert caught.value.code == code
    assert words in caught.value.cause


def test_own_limits_tighten_and_never_loosen(tmp_path: Path, policy_file: Callable[..., Path]) -> None:
    policy = load_policy(policy_file("version: 1", "version: 1\nlimits: {min_patients: 20, step_norm: 5}"))
    own = "node: hospital-a\nlimits: {min_patients: 50, step_norm: 1}"
    limits = effective_limits(policy, load_node_config(write(tmp_path, "node: hospital-a", own)))
    assert (limits.min_patients, limits.step_norm) == (50, 1.0)
    assert effective_limits(policy, load_node_config(write(tmp_path))).min_patients == 20
    for looser in ("min_patients: 19", "step_norm: 6"):
        config = load_node_config(write(tmp_path, "node: hospital-a", f"node: hospital-a\nlimits: {{{looser}}}"))
        with pytest.raises(PolicyError) as caught:
            effective_limits(policy, config)
        assert caught.value.code == "LIMIT_LOOSER"


def test_fewer_questions_may_be_asked_but_not_more(tmp_path: Path, policy_file: Callable[..., Path]) -> None:
    policy = load_policy(policy_file("version: 1", "version: 1\nevaluation: {limit: 100}"))
    for own, expected in ((20, 20), (500, 100)):
        text = f"node: hospital-a\nevaluation: {{limit: {own}}}"
        assert evaluation_limit(policy, load_node_config(write(tmp_path, "node: hospital-a", text))) == expected


def test_a_hospital_may_ask_for_a_larger_cohort_than_the_policy(tmp_path: Path) -> None:
    config = load_node_config(write(tmp_path, "node: hospital-a", "node: hospital-a\nlimits: {min_nodes: 5}"))
    check_cohort(config, 5)
    with pytest.raises(PolicyError, match=r"4 hospitals; node\.yaml asks for 5"):
        check_cohort(config, 4)
