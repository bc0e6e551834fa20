"""A pattern of absences on record: signed, named in every form of the report, and no burden on older records."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aggregator.audit_log import AggregatorAuditLog
from fedvlm_secure.audit.audit_report import render
from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.audit.export import to_csv, to_json
from fedvlm_secure.audit.folder import AuditedRun, open_run
from fedvlm_secure.audit.isolation import Isolation, isolations
from fedvlm_secure.audit.record import AuditRecord
from fedvlm_secure.audit.standing import rounds_of
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.policy.roster import format_roster
from fedvlm_secure.simulate.dropouts import run_with_drops
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import NodeId
from node.audit_log import NodeAuditLog
from tests.audit.chains import resign, roster, write_run
from tests.audit.test_released_scores import WALL_S, watched
from tests.rounds.test_participation import DROPS, scripted
from tests.support.consortium import make_consortium
from tests.support.vectors import vector

ALWAYS_THERE = tuple(map(NodeId, "abcd"))


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditedRun, Any]:
    """Six rounds in which e is lost in every second one, under `cohort.participation: warn`."""
    folder = tmp_path_factory.mktemp("noted")
    consortium = make_consortium(folder, *"abcde")
    cohort, _, _ = scripted("warn")
    federation, roster_of_run = cohort.federation, consortium.roster
    memory = federation.aggregator_self.memory
    told = AggregatorAuditLog(consortium.authority, roster_of_run, cohort.policy, memory, lambda: WALL_S)
    logs = []
    for name in ALWAYS_THERE:
        node = federation.nodes[name]
        log = NodeAuditLog(
            folder / name,
            consortium.keystores[name],
            roster_of_run,
            cohort.policy,
            "patients",
            node.own.memory,
            None,
            ShakeEntropy(0, name),
            lambda: WALL_S,
        )
        logs.append(log)
        node.run.receive = watched(node.run.receive, log)  # type: ignore[method-assign]
    run_with_drops(federation, DROPS)
    told.end(finished=True, error=None)
    for log in logs:
        log.end()
    together, run = folder / "together", memory.manifest.run_id.hex()
    homes: dict[str, Path] = {"aggregator": consortium.authority.home, **{name: folder / name for name in ALWAYS_THERE}}
    for party, home in homes.items():
        (together / party).mkdir(parents=True)
        (together / party / "audit.jsonl").write_bytes((home / "runs" / run / "audit.jsonl").read_bytes())
    (together / "roster.toml").write_bytes(format_roster(roster_of_run))
    return open_run(together, None), consortium


def test_each_hospital_signs_whom_a_rounds_set_isolates(noted: tuple[AuditedRun, Any]) -> None:
    audited, _ = noted
    assert [str(finding) for finding in audited.findings] == []
    for party in ALWAYS_THERE:
        assert [closed.isolated for closed in rounds_of(audited.chains[party])] == [(), (), (), ("e",), ("e",), ("e",)]
    assert {closed.isolated for closed in rounds_of(audited.chains["aggregator"])} == {None}


def test_report_names_hospital_rounds_and_who_noted_it_in_every_form(noted: tuple[AuditedRun, Any]) -> None:
    audited, _ = noted
    assert isolations(audited) == (Isolation("e", (4, 5, 6), tuple("abcd")),)
    page = render(audited, ())
    said = page.index("Participation: e went out of the sum and came in again too often, in rounds 4, 5, 6.")
    assert said < page.index("Who could see what") and "Noted by a, b, c, d." in page
    assert page.count("in and out too often: e") == 3
    told = json.loads(to_json(audited, (), made_at="2030-01-01T00:00:00Z"))
    assert told["isolated"] == [{"hospital": "e", "rounds": [4, 5, 6], "noted_by": list("abcd")}]
    rows = list(csv.DictReader(io.StringIO(to_csv(audited, ()))))
    assert [row["isolated"] for row in rows if row["party"] == "a"] == ["nobody"] * 3 + ["e"] * 3
    assert {row["isolated"] for row in rows if row["party"] == "aggregator"} == {""}


def test_no_word_of_a_pattern_where_there_was_none(tmp_path: Path) -> None:
    audited = open_run(write_run(tmp_path, rounds=2, private=False), None)
    assert isolations(audited) == ()
    assert "Participation:" not in render(audited, ()) and "in and out too often" not in render(audited, ())


def forged(
    noted: tuple[AuditedRun, Any], party: str, change: Callable[[dict[str, Any]], None], *, again: bool
) -> set[tuple[int, str]]:
    """What is found once the record of round 4 reads otherwise; `again`: its party signed everything anew."""
    audited, consortium = noted
    fields = [record.model_dump(mode="json") for record in audited.chains[party]]
    change(fields[4]["body"])
    records = [AuditRecord.model_validate_json(json.dumps(one)) for one in fields]
    if again:
        home = consortium.authority if party == "aggregator" else consortium.keystores[party]
        records = resign(records, home.identity)
    return {(one.index, one.field) for one in verify_chain(records, audited.roster)}


@pytest.mark.parametrize("names", [[], ["d"], ["d", "e"], None])
def test_a_warning_that_was_altered_later_breaks_the_signature(
    noted: tuple[AuditedRun, Any], names: list[str] | None
) -> None:
    found = forged(noted, "a", lambda body: body.update(isolated=names), again=False)
    assert found == {(4, "signature"), (5, "previous")}


def test_a_warning_is_a_hospitals_word_and_well_formed(noted: tuple[AuditedRun, Any]) -> None:
    assert forged(noted, "a", lambda body: body.update(isolated=["e", "d"]), again=True) == {(4, "isolated")}
    assert forged(noted, "a", lambda body: body.update(isolated=["e", "e"]), again=True) == {(4, "isolated")}
    assert forged(noted, "aggregator", lambda body: body.update(isolated=["e"]), again=True) == {(4, "isolated")}


@pytest.mark.parametrize("kind", ["plain", "private"])
def test_records_signed_before_the_field_existed_still_hold(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(line + "\n" for line in vector("audit")[kind]))
    records = read_chain(path)
    assert {closed.isolated for closed in rounds_of(records)} == {None}
    assert verify_chain(records, roster()) == []
    assert b"".join(record.to_line() for record in records) == path.read_bytes()
