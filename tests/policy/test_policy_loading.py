"""A policy file is read as its author meant it, or refused with file, line and what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.loading import load_policy

PolicyFile = Callable[..., Path]
SHIPPED = sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_default_policy_loads_and_stays_short(path: Path) -> None:
    policy = load_policy(path)
    assert policy.name == path.stem.replace("_", "-")
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


def test_three_policies_are_shipped() -> None:
    assert {"fedavg", "encoder_free", "unprotected"} <= {path.stem for path in SHIPPED}


def test_scalars_mean_what_their_field_declares_not_what_yaml_guesses(policy_file: PolicyFile) -> None:
    policy = load_policy(policy_file("[yes, no]", "[yes, no, on, 1e-5, 0123, 1:30, ~x]"))
    assert policy.contract.vocabulary.words == ("0123", "1:30", "1e-5", "no", "on", "yes", "~x")
    assert policy.local.learning_rate == 0.001
    assert policy.cohort.deadline == 1800


def test_a_whole_number_serves_as_a_float(policy_file: PolicyFile) -> None:
    value = load_policy(policy_file("max_update: 0.25", "max_update: 1")).protection.max_update
    assert value == 1.0
    assert isinstance(value, float)


SPOILED = [
    # what is replaced, by what, code, line, words of the cause, words of the hint
    (
        "max_update",
        "max_updat",
        "FIELD_UNKNOWN",
        15,
        "protection.max_updat is not",
        "did you mean protection.max_update?",
    ),
    ("rounds: 5", "rounds: 5\ndeadline: 3s", "FIELD_UNKNOWN", 4, "deadline is not", "did you mean cohort.deadline?"),
    ("{mechanism: none}", "{mechanism: none, zzz: 1}", "FIELD_UNKNOWN", 16, "privacy.zzz", "known here: mechanism"),
    ("rounds: 5", "rounds: 5\nrounds: 6", "FIELD_DUPLICATE", 4, "rounds is given twice", "line 3"),
    ("steps: 10", "steps: 10, steps: 11", "FIELD_DUPLICATE", 14, "local.steps is given twice", "line 14"),
    ("rounds: 5\n", "", "FIELD_MISSING", 1, "rounds is missing", "add a line"),
    ("learning_rate: 1e-3, ", "", "FIELD_MISSING", 14, "local.learning_rate is missing", "add a line"),
    ("rounds: 5", "rounds: five", "FIELD_TYPE", 3, "rounds must be a whole number, got 'five'", "policies/fedavg.yaml"),
    ("rounds: 5", "rounds: '5'", "FIELD_TYPE", 3, "got '5' (in quotes)", ""),
    ("rounds: 5", "rounds: 5.0", "FIELD_TYPE", 3, "whole number", ""),
    ("rounds: 5", "rounds: 0x5", "FIELD_TYPE", 3, "whole number", ""),
    ("rounds: 5", "rounds: 010", "FIELD_TYPE", 3, "whole number", ""),
    ("rounds: 5", "rounds:", "FIELD_TYPE", 3, "got nothing", ""),
    ("rounds: 5", "rounds: [5]", "FIELD_TYPE", 3, "got a list", ""),
    ("rounds: 5", "rounds: {a: 5}", "FIELD_TYPE", 3, "got a section", ""),
    ("1e-3", ".nan", "FIELD_TYPE", 14, "local.learning_rate must be a number", ""),
    ("1e-3", "1e999", "FIELD_TYPE", 14, "local.learning_rate must be a number", ""),
    ("rounds: 5", "rounds: 0", "FIELD_VALUE", 3, "greater than or equal to 1", ""),
    ("30m", "1:30", "FIELD_TYPE", 13, "a duration such as", ""),
    ("strategy: lora", "strategy: lorra", "FIELD_TYPE", 6, "model.strategy must be", "did you mean lora?"),
    ("name: trial", "name: ../trial", "FIELD_VALUE", 2, "name", ""),
    ("name: trial", 'name: "a\\e[2J"', "FIELD_TYPE", 2, "control characters", ""),
    ("name: tiny-fuyu", "name: a, path: /b", "FIELD_VALUE", 5, "exactly one of them", ""),
    ("steps: 10", "steps: 10, epochs: 1", "FIELD_VALUE", 14, "exactly one of them", ""),
    ("[yes, no]", "[yes, yes]", "FIELD_VALUE", 10, "named twice", ""),
    ("[yes, no]", "[]", "FIELD_VALUE", 10, "contract.vocabulary.words is empty", "list the answers"),
    ("image_size: 32", 'image_size: 32\n  prompt: "x"', "FIELD_VALUE", 10, "must hold {question} exactly once", ""),
    ("version: 1", "version: 2", "FIELD_TYPE", 1, "version must be 1", ""),
    (
        "version: 1",
        "version: 1\nweights: {counted: {cap: 9}, declared: {a: 1}}",
        "FIELD_VALUE",
        2,
        "exclude",
        "keep one",
    ),
    ("version: 1", "version: 1\nunsafe_no_protection: yes", "FIELD_TYPE", 2, "true or false", ""),
    (
        "version: 1",
        "version: 1\nunsafe_no_protection: true",
        "FIELD_VALUE",
        2,
        "although updates are protected",
        "remove",
    ),
    ("method: masking", "method: none", "FIELD_VALUE", 15, "in clear", "unsafe_no_protection: true"),
    ("mechanism: none", "mechanism: distributed, epsilon: 8", "FIELD_MISSING", 16, "privacy.delta", ""),
    (
        "version: 1",
        "version: 1\nalgorithm: {name: scaffold}",
        "NOT_IN_THIS_VERSION",
        2,
        "scaffold",
        "second protected vector",
    ),
    ("version: 1", "version: 1\nalgorithm: {name: fedadam, tau: 1}", "FIELD_MISSING", 2, "algorithm.server_lr", ""),
    ("version: 1", "version: 1\nalgorithm: {name: fedprox, nu: 1}", "FIELD_UNKNOWN", 2, "algorithm.nu", "mu"),
    ("version: 1", "version: 1\nalgorithm: {name: fedavgm, momentum: 1.0}", "FIELD_VALUE", 2, "momentum", ""),
    ("version: 1", "version: 1\nalgorithm: {name: fedyogi, server_lr: 1, tau: 0}", "FIELD_VALUE", 2, "tau", ""),
    ("version: 1", "version: 1\nalgorithm: {name: fedadam, server_lr: 1, beta2: 1}", "FIELD_VALUE", 2, "beta2", ""),
    ("version: 1", "version: 1\nalgorithm: {name: fedadagrad, server_lr: 0}", "FIELD_VALUE", 2, "server_lr", ""),
    ("version: 1", "version: 1\nalgorithm: {name: fedprox, mu: 0}", "FIELD_VALUE", 2, "algorithm.mu", ""),
    ("strategy: lora", "strategy: two-stage", "FIELD_VALUE", 4, "connector_rounds", "connector first"),
    ("strategy: lora", "strategy: lora\n  connector_rounds: 2", "FIELD_VALUE", 7, "two-stage", "remove"),
    ("strategy: lora", "strategy: two-stage\n  connector_rounds: 5", "FIELD_VALUE", 7, "LoRA no round", "below 5"),
    ("min_nodes: 3", "min_nodes: 3\n  colluding: -1", "FIELD_VALUE", 13, "cohort.colluding: must be greater", ""),
    ("min_nodes: 3", "min_nodes: 3\n  colluding: one", "FIELD_TYPE", 13, "a whole number", ""),
    ("min_nodes: 3", "min_nodes: 2", "COHORT_TOO_SMALL", 12, "below 3", "min_nodes: 3"),
    ("min_nodes: 3", "min_nodes: 3\n  colluding: 2", "COHORT_INFEASIBLE", 11, "cannot leave 4 survivors", "lower"),
    ("version: 1", "version: 1\nlimits: {min_patients: 1}", "FIELD_VALUE", 2, "limits.min_patients", ""),
    ("rounds: 5", "rounds: &five 5", "YAML_REFUSED", 3, "anchors", "write the value out"),
    ("rounds: 5", "rounds: !!int 5", "YAML_REFUSED", 3, "tags", "remove the tag"),
    ("rounds: 5", "rounds: !!python/object/apply:os.system [id]", "YAML_REFUSED", 3, "tags", "remove the tag"),
    ("rounds: 5", "rounds: " + "[" * 500, "YAML_REFUSED", 3, "nested too deeply", ""),
    ("rounds: 5", "rounds: 5\n  x: : [", "YAML_SYNTAX", 4, "not valid YAML", "indentation"),
    ("rounds: 5", "rounds: 5\n---\na: 1", "YAML_SYNTAX", 4, "not valid YAML", ""),
]


@pytest.mark.parametrize(("old", "new", "code", "line", "cause", "hint"), SPOILED)
def test_one_spoiled_place_gives_one_error_with_its_line(
    policy_file: PolicyFile, old: str, new: str, code: str, line: int, cause: str, hint: str
) -> None:
    path = policy_file(old, new)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert caught.value.code == code
    assert caught.value.cause.startswith(f"{path}:{line}: ")
    assert cause in caught.value.cause
    assert hint in caught.value.hint
    assert caught.value.hint or code in ("YAML_SYNTAX", "YAML_REFUSED")
    assert caught.value.cause.isprintable()


def test_lanes_without_room_for_the_cohort_are_refused_with_the_ones_that_fit(policy_file: PolicyFile) -> None:
    path = policy_file("min_nodes: 3", "min_nodes: 40")
    load_policy(path)
    path.write_text(path.read_text().replace("method: masking", "method: masking, lanes: 3"))
    with pytest.raises(PolicyError, match=r":15: .*32 nodes, the cohort has 40") as caught:
        load_policy(path)
    assert caught.value.code == "RING_HEADROOM"
    assert "lanes: 2" in caught.value.hint


def test_a_missing_and_a_huge_file_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy: No such file"):
        load_policy(tmp_path / "none.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (2 << 20))
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(huge)


def test_a_vocabulary_file_counts_only_with_its_own_hash(policy_file: PolicyFile, tmp_path: Path) -> None:
    raw = b"pneumonia\nnormal\n"
    (tmp_path / "answers.txt").write_bytes(raw)
    pinned = f'{{file: answers.txt, sha256: "{hashlib.sha256(raw).hexdigest()}"}}'
    path = policy_file("[yes, no]", pinned)
    assert load_policy(path).contract.vocabulary.words == ("normal", "pneumonia")
    (tmp_path / "answers.txt").write_bytes(raw + b"covid\n")
    with pytest.raises(PolicyError, match=rf"^{path}:10: answers.txt has SHA-256") as caught:
        load_policy(path)
    assert caught.value.code == "VOCABULARY_MISMATCH"


@pytest.mark.parametrize("file", ["../answers.txt", "/etc/hosts.txt", "a/../../b.txt", "policy.yaml"])
def test_a_vocabulary_file_cannot_lie_elsewhere(policy_file: PolicyFile, file: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(policy_file("[yes, no]", f'{{file: "{file}", sha256: "{"0" * 64}"}}'))
    assert caught.value.code == "FIELD_VALUE"


@pytest.mark.parametrize("raw", [b"a\n\nb\n", b"a\na\n", b"\xff\n", b"a\x1b[2J\n", b""])
def test_a_vocabulary_file_with_odd_lines_is_refused(policy_file: PolicyFile, tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "answers.txt").write_bytes(raw)
    path = policy_file("[yes, no]", f'{{file: answers.txt, sha256: "{hashlib.sha256(raw).hexdigest()}"}}')
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert caught.value.code == "VOCABULARY_UNREADABLE"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))))
def test_junk_gives_a_policy_error_and_nothing_else(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(junk)
    with pytest.raises(PolicyError):
        load_policy(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), junk=st.text(alphabet="{}[]:,-#&*!|>'\"%@`\n\t 0aé\x00", min_size=1, max_size=6))
def test_a_splice_anywhere_loads_or_gives_a_policy_error(policy_file: PolicyFile, at: int, junk: str) -> None:
    path = policy_file()
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:at] + junk + text[at:], encoding="utf-8")
    causes = [str(path)]
    try:
        load_policy(path)
    except PolicyError as error:
        causes.append(error.cause)
    assert all(cause.startswith(str(path)) for cause in causes)
