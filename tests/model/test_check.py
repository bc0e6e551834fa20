"""The models under proto/model and the program that searches them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "proto" / "model"
GUARD = re.compile(r"^#if(?:n?def| defined\() ?((?:NO_|LOW_|HISTORY_)\w+)", re.MULTILINE)


def load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_check", FOLDER / "check.py")
    if spec is None or spec.loader is None:
        raise LookupError("proto/model/check.py is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


check = load_check()
VARIANTS = check.load_variants(FOLDER / "variants.toml")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_a_variant_defines_is_read_by_its_model(variant: object) -> None:
    text = variant.source.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    for word in variant.define:  # type: ignore[attr-defined]
        name = word.split("=")[0]
        assert re.search(rf"^#(ifn?def|if .*){name}\b|^#if.*\b{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("model", ["round", "history", "closing"])
def test_every_guard_of_a_model_has_a_variant_without_it(model: str) -> None:
    guards = set(GUARD.findall((FOLDER / f"{model}.pml").read_text(encoding="utf-8")))
    removed = {word for variant in VARIANTS if variant.model == model for word in variant.define}
    assert guards
    assert guards <= removed


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_expects_properties_that_its_model_asserts(variant: object) -> None:
    text = variant.source.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    asserted = set(re.findall(r"assert\(!(\w+)\)", text))
    expected = set(variant.expect)  # type: ignore[attr-defined]
    assert expected == {check.HOLDS} or expected <= asserted


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("State-vector 32 byte, depth reached 9, errors: 0\n", "holds"),
        ("pan:1: assertion violated  !(too_close) (at depth 9)\nerrors: 1\n", "too_close"),
        ("error: max search depth too small\nState-vector 32 byte, depth reached 9, errors: 0\n", "cut short: depth"),
    ],
)
def test_a_search_that_was_cut_short_is_not_taken_for_a_proof(printed: str, found: str) -> None:
    assert check.read_outcome(VARIANTS[0], printed, cpu_s=0.0, memory_mb=0.0).found == found


@pytest.mark.parametrize("printed", ["pan: reached -DMEMLIM bound\nWarning: Search not completed\nerrors: 0\n", ""])
def test_a_search_without_memory_or_report_is_not_taken_for_a_proof(printed: str) -> None:
    outcome = check.read_outcome(VARIANTS[0], printed, cpu_s=0.0, memory_mb=0.0)
    assert outcome.found.startswith("cut short")
    assert not outcome.as_expected


def test_missing_tools_are_one_clear_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert check.main([]) == 2
    assert capsys.readouterr().err == (
        "model: error: spin and gcc not found\nmodel: hint: install them, e.g. apt-get install spin gcc\n"
    )


def test_nodes_are_named_in_a_trace() -> None:
    assert check.name_nodes("<3> signs {11} in round 0") == "d signs {a, b, d} in round 0"


@pytest.mark.skipif(not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc are not installed")
def test_the_model_finds_a_planted_error_and_none_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--only", "clone at n=3 c=0", "--only", "round n=3 c=0"]) == 0
    printed = capsys.readouterr().out
    assert "| round n=3 c=0 | holds | holds |" in printed
    assert "| clone at n=3 c=0 | two_attempts | two_attempts |" in printed
