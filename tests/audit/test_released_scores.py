"""Noised scores on record: what they cost, how blurred they are, and what an auditor says to a record that lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aggregator.audit_log import AggregatorAuditLog
from fedvlm_secure.audit.audit_report import render
from fedvlm_secure.audit.export import to_json
from fedvlm_secure.audit.facts import PurseFacts
from fedvlm_secure.audit.folder import AuditedRun, open_run
from fedvlm_secure.audit.record import AuditRecord
from fedvlm_secure.audit.standing import rounds_of
from fedvlm_secure.audit.utility import LABELS, utilities
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.dp.events import compose
from fedvlm_secure.policy.roster import format_roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import NodeAction
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import AggregatorMessage
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Digest, NodeId
from node.audit_log import NodeAuditLog
from tests.audit.chains import resign
from tests.rounds.test_release import RIGHT, federation_of, policy_of
from tests.support.consortium import make_consortium

WALL_S = 1_800_000_000.0


class Ledger:
    """A simulated purse, read for the audit."""

    def __init__(self, purse: MemoryPurse) -> None:
        self._purse = purse

    def at_round(self, run_hash: Digest, round_number: int) -> PurseFacts:
        charges = self._purse.charges
        return PurseFacts(
            round_event=charges.get((run_hash, round_number)),
            population_event=compose(charges[key] for key in sorted(charges, key=lambda key: key[1])),
            delta=1e-5,
            limit=9.0,
        )


def recorded(folder: Path, release: str) -> tuple[AuditedRun, Any]:
    """A run with released scores, and the consortium that signed its records."""
    policy = policy_of(release)
    return recorded_run(folder, policy, federation_of(policy))


def recorded_run(folder: Path, policy: Policy, federation: Federation) -> tuple[AuditedRun, Any]:
    """Let a federation run under the services' own record keeping; its records, and the consortium that signed them."""
    names = tuple(federation.nodes)
    consortium = make_consortium(folder, *names)
    roster = consortium.roster
    told = AggregatorAuditLog(consortium.authority, roster, policy, federation.aggregator_self.memory, lambda: WALL_S)
    logs = {}
    for name, node in federation.nodes.items():
        logs[name] = log = NodeAuditLog(
            folder / name,
            consortium.keystores[name],
            roster,
            policy,
            "patients",
            node.own.memory,
            Ledger(federation.purses[name]),
            ShakeEntropy(0, name),
            lambda: WALL_S,
        )
        node.run.receive = watched(node.run.receive, log)  # type: ignore[method-assign]
    federation.run()
    told.end(finished=True, error=None)
    for log in logs.values():
        log.end()
    run = federation.aggregator_self.memory.manifest.run_id.hex()
    together = folder / "together"
    homes: dict[str, Path] = {"aggregator": consortium.authority.home, **{name: folder / name for name in names}}
    for party, home in homes.items():
        (together / party).mkdir(parents=True)
        (together / party / "audit.jsonl").write_bytes((home / "runs" / run / "audit.jsonl").read_bytes())
    (together / "roster.toml").write_bytes(format_roster(roster))
    return open_run(together, None), consortium


def watched(receive: Callable[..., tuple[NodeAction, ...]], log: NodeAuditLog) -> Callable[..., tuple[NodeAction, ...]]:
    def around(message: AggregatorMessage, attachment: StoredVector | None = None) -> tuple[NodeAction, ...]:
        log.before()
        actions = receive(message, attachment)
        log.after(message)
        return actions

    return around


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditedRun, Any]:
    return recorded(tmp_path_factory.mktemp("final"), "final")


def test_every_partys_records_hold_and_the_closing_round_is_charged(final: tuple[AuditedRun, Any]) -> None:
    audited, _ = final
    assert [str(finding) for finding in audited.findings] == []
    for party in ("aggregator", "a"):
        spent = [closed.spending for closed in rounds_of(audited.chains[party])]
        costs = [one.epsilon_round for one in spent if one is not None and one.epsilon_round is not None]
        assert len(costs) == 3 and costs[0] == costs[1] > 4 and 0.99 < costs[2] <= 1.0
        last = spent[-1]
        assert last is not None and last.epsilon_run is not None and 7.9 < last.epsilon_run <= 8.0


def test_released_with_each_round_they_stand_beside_the_model_they_are_of(tmp_path: Path) -> None:
    audited, _ = recorded(tmp_path, "each")
    assert [str(finding) for finding in audited.findings] == []
    assert {(one.round, one.source) for one in utilities(audited)} == {(0, "noised"), (1, "noised")}


def test_the_report_says_released_and_noised_with_its_deviation(final: tuple[AuditedRun, Any]) -> None:
    audited, _ = final
    scores = utilities(audited)
    assert {(one.party, one.round, one.task) for one in scores} == {("aggregator", 2, task) for task in RIGHT}
    page = render(audited, scores)
    assert "+- 10.6 on each count" in page and f"({LABELS['noised']})" in page and "noise multiplier 3.7314" in page
    assert "once, of the final model: epsilon 1.000 by themselves" in page
    told = json.loads(to_json(audited, scores, made_at="2030-01-01T00:00:00Z"))["utility"]
    vqa = next(one for one in told if one["task"] == "vqa")
    assert abs(vqa["share"] - 0.8) < 6 * vqa["share_deviation"] and 0.01 < vqa["share_deviation"] < 0.03


def forged(final: tuple[AuditedRun, Any], index: int, change: Callable[[dict[str, Any]], None]) -> set[tuple[int, str]]:
    """What is found in the aggregator's chain after it rewrote one record and signed everything anew."""
    audited, consortium = final
    fields = [record.model_dump(mode="json") for record in audited.chains["aggregator"]]
    change(fields[index]["body"])
    records = [AuditRecord.model_validate_json(json.dumps(one)) for one in fields]
    lied = resign(records, consortium.authority.identity)
    return {(one.index, one.field) for one in verify_chain(lied, audited.roster)}


def test_a_release_that_is_charged_zero_is_found(final: tuple[AuditedRun, Any]) -> None:
    def free(body: dict[str, Any]) -> None:
        body["spending"] |= {"event": {"kind": "Composed", "events": []}, "epsilon_round": 0.0}

    assert (3, "event") in forged(final, 3, free)


def test_less_noise_than_agreed_is_found(final: tuple[AuditedRun, Any]) -> None:
    def quieter(body: dict[str, Any]) -> None:
        body["released"][0]["deviation"] /= 2

    assert forged(final, 3, quieter) == {(3, "released")}


def test_scores_in_a_round_that_releases_none_are_found(final: tuple[AuditedRun, Any]) -> None:
    scores = [{"task": task, "right": 1.0, "wrong": 2.0, "deviation": 10.55} for task in RIGHT]
    assert forged(final, 2, lambda body: body.update(released=scores)) == {(2, "released")}


def test_terms_that_promise_more_than_the_noise_gives_are_found(final: tuple[AuditedRun, Any]) -> None:
    def boast(body: dict[str, Any]) -> None:
        body["privacy"]["scores"]["share_variance"] //= 4

    assert (0, "scores.share_variance") in forged(final, 0, boast)


def test_a_party_that_agreed_to_other_scores_stands_alone(final: tuple[AuditedRun, Any], tmp_path: Path) -> None:
    other, _ = recorded(tmp_path, "each")
    from fedvlm_secure.audit.agreement import disagreements

    chains = {**final[0].chains, "a": other.chains["a"]}
    assert ("a", "privacy.scores") in {(one.party, one.field) for one in disagreements(chains)}
    assert NodeId("a") in final[0].chains
