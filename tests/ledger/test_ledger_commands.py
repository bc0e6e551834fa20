"""The operator's commands: what they show, and that errors come with a code and a hint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fedvlm_secure import console
from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.dp.events import Gaussian, Perturbed
from node.ledger_commands import UNPROTECTED, ledger_app
from node.ledger_entries import Floor
from node.ledger_restore import Witness, restore
from tests.ledger.purse import PLAN, ROUND, Purse, run_id


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


def call(purse: Purse, *words: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=console.error_group("fedvlm-node"))
    app.add_typer(ledger_app(purse.entropy, purse.wall_s), name="ledger")

    @app.command()
    def other() -> None:
        """So that the group keeps its sub-commands."""

    result = CliRunner().invoke(app, ["ledger", "--state", str(purse.state), *words])
    return result.exit_code, result.stdout, result.stderr


def test_an_operator_opens_fills_and_reads_a_ledger(purse: Purse) -> None:
    assert call(purse, "open")[0] == 0
    assert "no population yet" in call(purse)[1]
    assert call(purse, "add", "chest", "8", "--delta", "1e-5")[0] == 0
    assert "limit 4.5 (before: 8)" in call(purse, "limit", "chest", "4.5")[1]
    ledger = purse.open()
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    ledger.record_unprotected(run_id(2), "chest")
    code, text, _ = call(purse)
    assert code == 0
    assert "chest" in text
    assert UNPROTECTED in text
    assert f"{ledger.balance('chest').spent:.4f}" in text


def test_json_holds_the_whole_balance_and_the_head(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    code, text, _ = call(purse, "--json")
    shown = json.loads(text)
    row = shown["populations"][0]
    assert code == 0
    assert shown["head"]["digest"] == ledger.head.digest.hex()
    assert row["epsilon_spent"] == ledger.balance("chest").spent
    assert row["epsilon_left"] == ledger.balance("chest").remaining
    assert (row["unit"], row["adjacency"], row["delta"]) == ("patient", "add_or_remove", 1e-5)


def test_missing_ledger_is_one_clear_error(purse: Purse) -> None:
    code, _, errors = call(purse)
    assert code == 7
    assert "LEDGER_MISSING" in errors
    assert "fedvlm-node: hint:" in errors


def test_merge_is_said_back(purse: Purse) -> None:
    purse.create()
    call(purse, "add", "abdomen", "3")
    assert "now part of chest" in call(purse, "merge", "abdomen", "chest")[1]
    assert call(purse, "--json", "limit", "abdomen", "3")[0] == 2


def test_charge_without_a_bound_is_null_in_json(purse: Purse) -> None:
    purse.create()
    boundless = Perturbed(Gaussian(1.0), 0.0, 1.0)
    seen = Witness(LedgerHead(60, run_id(4)), (Floor("chest", 1e-5, 8.0, boundless, False),))
    restore(purse.paths, [seen], purse.entropy, purse.wall_s)
    row = json.loads(call(purse, "--json")[1])["populations"][0]
    assert (row["epsilon_spent"], row["epsilon_left"]) == (None, 0.0)
