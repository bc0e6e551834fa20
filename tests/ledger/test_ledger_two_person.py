"""Two operators: a higher limit takes both, a lower one takes one, and nobody slips an entry past them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fedvlm_secure import console
from fedvlm_secure.errors import IdentityError, PolicyError, StorageError
from fedvlm_secure.types import Secret
from node.ledger import Ledger
from node.ledger_chain import append_entries
from node.ledger_commands import ledger_app
from node.ledger_consent import Decision
from node.ledger_entries import Consent, Entry, LimitSet, Operator, OperatorsSet, PopulationAdded
from node.ledger_operators import OperatorKey, create_operator_key, open_operator_key
from node.ledger_proposal import format_proposal, parse_proposal, with_consent
from node.ledger_restore import restore
from tests.ledger.purse import DELTA, PLAN, Purse, run_id

WORDS = Secret(b"a long enough passphrase")


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


def operators(folder: Path) -> tuple[OperatorKey, OperatorKey]:
    return tuple(create_operator_key(folder / f"{name}.key", name, WORDS) for name in ("ada", "ben"))  # type: ignore[return-value]


def agreed(ledger: Ledger, decision: Decision, *keys: OperatorKey) -> Decision:
    digest, _ = ledger.to_sign(decision)
    for key in keys:
        decision = with_consent(decision, key.consent(digest))
    return decision


def two(purse: Purse, folder: Path) -> tuple[Ledger, OperatorKey, OperatorKey]:
    ledger = purse.create(limit=8.0)
    ada, ben = operators(folder)
    ledger.decide(agreed(ledger, OperatorsSet((ada.operator, ben.operator)), ada, ben))
    return ledger, ada, ben


def refused(ledger: Ledger, decision: Decision) -> str:
    with pytest.raises(PolicyError) as caught:
        ledger.decide(decision)
    return caught.value.code


def test_raising_takes_both_and_lowering_one(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, ben = two(purse, tmp_path)
    assert refused(ledger, LimitSet("chest", 9.0)) == "OPERATOR_NEEDED"
    assert refused(ledger, agreed(ledger, LimitSet("chest", 9.0), ada)) == "OPERATOR_NEEDED"
    assert refused(ledger, LimitSet("chest", 7.0)) == "OPERATOR_NEEDED"
    ledger.decide(agreed(ledger, LimitSet("chest", 9.0), ada, ben))
    assert purse.open().balance("chest").limit == 9.0
    ledger.decide(agreed(ledger, LimitSet("chest", 2.0), ben))
    assert purse.open().balance("chest").limit == 2.0


def test_a_new_population_with_a_budget_is_a_higher_limit_too(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, ben = two(purse, tmp_path)
    assert refused(ledger, PopulationAdded("second-purse", DELTA, 100.0)) == "OPERATOR_NEEDED"
    ledger.add_population("no-budget", delta=DELTA, epsilon_limit=0.0)  # what a run without protection opens
    ledger.decide(agreed(ledger, PopulationAdded("abdomen", DELTA, 3.0), ada, ben))
    assert ledger.balance("abdomen").limit == 3.0


def test_switching_off_takes_both(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, ben = two(purse, tmp_path)
    assert refused(ledger, agreed(ledger, OperatorsSet(()), ada)) == "OPERATOR_NEEDED"
    ledger.decide(agreed(ledger, OperatorsSet(()), ada, ben))
    ledger.set_limit("chest", 20.0)


def test_one_person_is_not_two(purse: Purse, tmp_path: Path) -> None:
    ledger = purse.create()
    ada, ben = operators(tmp_path)
    twin = replace(ada, operator=Operator("ada-again", ada.operator.public))
    assert refused(ledger, agreed(ledger, OperatorsSet((ada.operator, twin.operator)), ada, twin)) == "OPERATORS"
    assert refused(ledger, agreed(ledger, OperatorsSet((ada.operator,)), ada)) == "OPERATORS"
    assert refused(ledger, agreed(ledger, OperatorsSet((ada.operator, ben.operator)), ada)) == "OPERATOR_NEEDED"


def test_a_consent_serves_one_decision_of_one_ledger_once(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, ben = two(purse, tmp_path)
    high = agreed(ledger, LimitSet("chest", 9.0), ada, ben)
    assert refused(ledger, LimitSet("chest", 90.0, high.consents)) == "CONSENT_INVALID"
    ledger.decide(high)
    ledger.decide(agreed(ledger, LimitSet("chest", 5.0), ben))
    assert refused(ledger, high) == "CONSENT_INVALID"  # a replay of what both once agreed to
    (tmp_path / "other").mkdir()
    elsewhere = Purse(tmp_path / "other")
    elsewhere.entropy.bytes(1)
    there = elsewhere.create()
    there.decide(agreed(there, OperatorsSet((ada.operator, ben.operator)), ada, ben))
    there.decide(agreed(there, LimitSet("chest", 7.0), ada))
    there.decide(agreed(there, LimitSet("chest", 5.0), ada))
    assert refused(ledger, agreed(there, LimitSet("chest", 9.0), ada, ben)) == "CONSENT_INVALID"


def test_a_strangers_consent_is_worth_nothing(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, _ = two(purse, tmp_path)
    eve = create_operator_key(tmp_path / "eve.key", "eve", WORDS)
    assert refused(ledger, agreed(ledger, LimitSet("chest", 9.0), ada, eve)) == "CONSENT_INVALID"
    posing = replace(eve, operator=Operator("ben", eve.operator.public))
    assert refused(ledger, agreed(ledger, LimitSet("chest", 9.0), ada, posing)) == "CONSENT_INVALID"


def test_an_entry_written_past_the_rule_is_an_edited_ledger(purse: Purse, tmp_path: Path) -> None:
    ledger, _, _ = two(purse, tmp_path)
    head = ledger.head
    forged = Entry(head.sequence + 1, head.digest, purse.now_s, LimitSet("chest", 50.0))
    append_entries(purse.paths.ledger, [forged])
    with pytest.raises(StorageError) as caught:
        purse.open()
    assert caught.value.code == "LEDGER_TAMPERED"


def test_the_rule_survives_a_wiped_ledger_while_the_anchor_stands(purse: Purse, tmp_path: Path) -> None:
    ledger, ada, ben = two(purse, tmp_path)
    ledger.reserve(run_id(1), "chest", PLAN)
    purse.paths.ledger.unlink()
    restore(purse.paths, [], purse.entropy, purse.wall_s)
    again = purse.open()
    assert [each.name for each in again.operators] == ["ada", "ben"]
    assert refused(again, LimitSet("chest", 9.0)) == "OPERATOR_NEEDED"
    again.decide(agreed(again, LimitSet("chest", 9.0), ada, ben))


def test_a_key_opens_with_its_own_passphrase_only(tmp_path: Path) -> None:
    made = create_operator_key(tmp_path / "a.key", "ada", WORDS)
    assert open_operator_key(tmp_path / "a.key", WORDS).operator == made.operator
    assert b"PRIVATE" in (tmp_path / "a.key").read_bytes() and b"ENCRYPTED" in (tmp_path / "a.key").read_bytes()
    for path, words, code in (
        (tmp_path / "a.key", b"another passphrase", "OPERATOR_KEY"),
        (tmp_path / "a.key", b"", "OPERATOR_KEY"),
        (tmp_path / "b.key", b"short", "PASSPHRASE_SHORT"),
    ):
        with pytest.raises(IdentityError) as caught:
            open_operator_key(path, Secret(words)) if path.exists() else create_operator_key(path, "b", Secret(words))
        assert caught.value.code == code
    with pytest.raises(StorageError):
        create_operator_key(tmp_path / "a.key", "eve", WORDS)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"version": 1}',
        b'{"version": 1, "kind": "Spent", "consents": []}',
        b'{"version": 1, "kind": "LimitSet", "population": 3, "epsilon_limit": 1, "consents": []}',
        b'{"version": 1, "kind": "LimitSet", "population": "a", "epsilon_limit": [], "consents": []}',
        b'{"version": 1, "kind": "OperatorsSet", "operators": [{"name": "a", "public": "zz"}], "consents": []}',
    ],
)
def test_what_is_no_proposal_is_one_clear_error(raw: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_proposal(raw, "x.json")
    assert caught.value.code == "PROPOSAL_INVALID"


@pytest.mark.parametrize(
    "decision",
    [
        LimitSet("chest", 9.5, (Consent("ada", bytes(64)),)),
        PopulationAdded("chest", 1e-5, 3.0),
        OperatorsSet((Operator("ada", bytes(32)), Operator("ben", bytes([1]) * 32))),
        OperatorsSet(()),
    ],
)
def test_a_proposal_reads_back_as_it_was_written(decision: Decision) -> None:
    assert parse_proposal(format_proposal(decision), "x") == decision


def call(purse: Purse, typed: str, *words: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=console.error_group("fedvlm-node"))
    app.add_typer(ledger_app(purse.entropy, purse.wall_s), name="ledger")

    @app.command()
    def other() -> None:
        """So that the group keeps its sub-commands."""

    result = CliRunner().invoke(app, ["ledger", "--state", str(purse.state), *words], input=typed)
    return result.exit_code, result.stdout, result.stderr


def test_two_people_at_the_command_line(purse: Purse, tmp_path: Path) -> None:
    purse.create(limit=8.0)
    ada, ben, out = (str(tmp_path / name) for name in ("ada.key", "ben.key", "raise.json"))
    assert call(purse, "ada's words\nada's words\n", "operator", "ada", "--out", ada)[0] == 0
    assert call(purse, "ben's words\nben's words\n", "operator", "ben", "--out", ben)[0] == 0
    code, _, errors = call(purse, "ada's words\nwrong\n", "two-person", ada, ben)
    assert code == 6 and "OPERATOR_KEY" in errors
    assert call(purse, "ada's words\nben's words\n", "two-person", ada, ben)[0] == 0
    code, _, errors = call(purse, "", "limit", "chest", "12")
    assert code == 2 and "OPERATOR_NEEDED" in errors and "ledger confirm" in errors
    code, text, _ = call(purse, "ada's words\n", "limit", "chest", "12", "--operator", ada, "--out", out)
    assert code == 0 and "not yet in force" in text and purse.open().balance("chest").limit == 8.0
    assert json.loads(Path(out).read_text())["epsilon_limit"] == 12.0
    assert call(purse, "ada's words\n", "confirm", out, "--operator", ada)[0] == 2  # her own twice is still one
    code, text, errors = call(purse, "ben's words\n", "confirm", out, "--operator", ben)
    assert code == 0 and "limit 12" in errors and purse.open().balance("chest").limit == 12.0
    assert call(purse, "ben's words\n", "confirm", out, "--operator", ben)[0] == 2
    assert call(purse, "ben's words\n", "limit", "chest", "3", "--operator", ben)[0] == 0
    assert purse.open().balance("chest").limit == 3.0
    assert call(purse, "ben's words\n", "two-person", "--off", "--operator", ben, "--out", out)[0] == 0
    assert call(purse, "ada's words\n", "confirm", out, "--operator", ada)[0] == 0
    assert call(purse, "", "limit", "chest", "20")[0] == 0
