"""The audit report says what was spent and what is left, and nothing in it can act."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedvlm_secure.audit.audit_report import render, write_audit_report
from fedvlm_secure.audit.export import safe_cell, to_csv
from fedvlm_secure.audit.folder import AuditedRun, open_run
from fedvlm_secure.audit.utility import utilities
from fedvlm_secure.audit.verify import Finding
from fedvlm_secure.errors import StorageError
from tests.audit.chains import write_run
from tests.demo.test_report import HOSTILE, Page


def scored(folder: Path, party: str, rounds: int, *, task: str = "vqa") -> None:
    lines = [
        {"run": "ab" * 16, "round": at, "last": at == rounds, "tasks": {task: {"correct": 30 + at, "total": 60}}}
        for at in range(rounds + 1)
    ]
    (folder / party / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditedRun:
    folder = write_run(tmp_path_factory.mktemp("run"), rounds=3, void=(2,))
    scored(folder, "coast", 3)
    return open_run(folder, None)


def test_csv_has_epsilon_beside_utility_one_row_per_party_and_round(audited: AuditedRun) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(audited, utilities(audited)))))
    assert [(row["party"], row["round"]) for row in rows[:4]] == [
        ("aggregator", "1"),
        ("aggregator", "2"),
        ("aggregator", "3"),
        ("coast", "1"),
    ]
    assert len(rows) == 12
    coast = [row for row in rows if row["party"] == "coast"]
    assert [float(row["accuracy"]) for row in coast] == [31 / 60, 32 / 60, 33 / 60]
    assert {row["accuracy_source"] for row in coast} == {"exact, local, not released"}
    spent = [float(row["epsilon_run"]) for row in coast]
    assert spent == sorted(spent) and spent[0] > 0
    for row in coast:
        assert float(row["remaining"]) == pytest.approx(float(row["limit"]) - float(row["epsilon_population"]))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_no_cell_is_a_formula(text: str) -> None:
    cell = safe_cell(text)
    assert cell.startswith("'")
    assert cell.isprintable()


def test_a_hostile_task_name_acts_neither_in_a_spreadsheet_nor_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=2)
    scored(folder, "coast", 2, task='=HYPERLINK("x")' + HOSTILE)
    found = open_run(folder, None)
    header = next(csv.reader(io.StringIO(to_csv(found, utilities(found)))))
    assert not any(name.startswith(("=", "+", "-", "@")) for name in header)
    page = render(found, utilities(found))
    assert Page(page).count("script") == 0
    assert "\x1b" not in page


def test_first_screen_says_spent_left_seen_and_open(audited: AuditedRun) -> None:
    text = Page(render(audited, utilities(audited))).text
    for words in (
        "was spent per patient",
        "Least left in a hospital's purse",
        "What was spent, what is left",
        "Who could see what",
        "What is not protected",
    ):
        assert words in text
    assert text.index("What was spent") < text.index("Who could see what") < text.index("Rounds and participation")
    assert "NOT VERIFIED" not in text


def test_page_without_a_mechanism_prints_no_epsilon(tmp_path: Path) -> None:
    found = open_run(write_run(tmp_path, rounds=2, private=False), None)
    text = Page(render(found, utilities(found))).text
    assert "No formal protection of the released model" in text
    assert not re.search(r"epsilon[^.]*\d", text, re.IGNORECASE)


def test_a_fault_stands_on_the_first_screen(audited: AuditedRun) -> None:
    bad = replace(audited, findings=(Finding(3, "coast", "epsilon_run", "says 1, computed 2" + HOSTILE),))
    text = Page(render(bad, ())).text
    assert "NOT VERIFIED" in text
    assert "record 3, field epsilon_run" in text


def test_page_is_self_contained_and_readable_without_seeing_it(audited: AuditedRun) -> None:
    html = render(audited, utilities(audited))
    page = Page(html)
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    assert page.count("h1") == 1
    assert page.count("table") == page.count("caption")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(attributes.get("aria-label") or attributes.get("aria-hidden") == "true" for attributes in drawings)


def test_json_holds_verdict_standings_and_every_signed_record(audited: AuditedRun, tmp_path: Path) -> None:
    paths = write_audit_report(audited, tmp_path)
    fields = json.loads(paths[0].read_text())
    assert fields["verified"] is True
    assert fields["parties"]["coast"]["rounds"] == 3
    assert len(fields["records"]["aggregator"]) == 5
    assert sorted(path.suffix for path in paths) == [".csv", ".html", ".json"]


def test_a_broken_metrics_file_is_one_clear_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=1, private=False)
    (folder / "coast" / "metrics.jsonl").write_text("{\n")
    with pytest.raises(StorageError) as caught:
        utilities(open_run(folder, None))
    assert caught.value.code == "METRICS_UNREADABLE"
