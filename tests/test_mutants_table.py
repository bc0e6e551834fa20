"""The table of mutants fits the source as it is: `make mutants` itself takes a quarter of an hour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.mutants import Failure, judge
from tools.mutants_table import ROOT, Mutant, TableFault, load_attacks, load_mutants, uncovered
from tools.threat_page import PAGE, render

MUTANTS = load_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_to_the_source_once(mutant: Mutant) -> None:
    mutant.applied(ROOT)


@pytest.mark.parametrize("test", sorted({test for mutant in MUTANTS for test in mutant.tests}))
def test_every_test_that_a_mutant_names_is_there(test: str) -> None:
    path, _, function = test.partition("::")
    sources = [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).glob("test_*.py"))
    wanted = rf"^def {function}\(" if function else r"^def test_"
    assert any(re.search(wanted, source.read_text(encoding="utf-8"), re.MULTILINE) for source in sources)


def test_every_attack_in_scope_has_a_mutant() -> None:
    attacks = load_attacks()
    assert [attack.number for attack in attacks] == [f"A{number}" for number in range(1, 26)]
    assert uncovered(attacks, MUTANTS) == []
    assert uncovered(attacks, [one for one in MUTANTS if "A6" not in one.attacks]) == ["A6"]


def test_every_mutant_names_known_attacks() -> None:
    known = {attack.number for attack in load_attacks()}
    assert {number for mutant in MUTANTS for number in mutant.attacks} <= known


def test_the_threat_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m tools.threat_page`"


def mutant_of(find: str, replace: str) -> Mutant:
    return Mutant("m", ("A1",), "a guard", "guard.py", find, replace, ("tests",))


@pytest.mark.parametrize(
    ("find", "replace", "words"),
    [
        ("missing", "x", "0 times"),
        ("x", "y", "2 times"),
        ("if x:", "if x", "no Python"),
        ("  # why", "", "changes nothing"),
    ],
)
def test_a_mutant_that_removes_no_guard_is_refused(tmp_path: Path, find: str, replace: str, words: str) -> None:
    (tmp_path / "guard.py").write_text("if x:  # why\n    x = 1\n")
    with pytest.raises(TableFault, match=words):
        mutant_of(find, replace).applied(tmp_path)


def test_a_word_of_each_makes_a_mutant_of_its_own(tmp_path: Path) -> None:
    entry = 'name = "m"\nattacks = ["A1"]\nguard = "g"\nfile = "f"\nfind = "a"\nreplace = "{each}"\ntests = ["t"]\n'
    (tmp_path / "t.toml").write_text(f'[[mutant]]\n{entry}each = ["b", "c_d"]\n')
    assert [(one.name, one.replace) for one in load_mutants(tmp_path)] == [("m-b", "b"), ("m-c-d", "c_d")]
    (tmp_path / "t.toml").write_text(f"[[mutant]]\n{entry}[[mutant]]\n{entry}")
    with pytest.raises(TableFault, match="twice"):
        load_mutants(tmp_path)


@pytest.mark.parametrize(
    ("failures", "code", "verdict"),
    [
        ([], 0, "survived"),
        ([Failure("t.py::test_x", "AssertionError: it left", False)], 1, "killed"),
        ([Failure("t.py::test_x", "Failed: DID NOT RAISE", False)], 1, "killed"),
        ([Failure("t.py::test_x", "NameError: name 'x' is not defined", False)], 1, "broken"),
        ([Failure("t.py::test_x", "failed on setup", True)], 1, "broken"),
        ([Failure("t.py", "collection failure", True)], 2, "broken"),
        ([], 4, "broken"),
        ([Failure("t.py::test_x", "Failed: Timeout >90.0s", False)], 1, "hung"),
    ],
)
def test_only_a_tests_own_answer_kills_a_mutant(failures: list[Failure], code: int, verdict: str) -> None:
    assert judge(failures, code)[0] == verdict
