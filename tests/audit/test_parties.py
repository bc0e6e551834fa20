"""Hospitals and aggregator keep records through a real run of the machines, with losses, and the records agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aggregator.audit_log import AggregatorAuditLog
from fedvlm_secure.audit.folder import open_run
from fedvlm_secure.audit.record import Round
from fedvlm_secure.audit.standing import rounds_of, standings
from fedvlm_secure.policy.roster import format_roster
from fedvlm_secure.rounds.actions import NodeAction
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, ResultAck
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import NodeId
from node.audit_log import NodeAuditLog
from tests.support.cohort import Cohort
from tests.support.consortium import Consortium, make_consortium

WALL_S = 1_800_000_000.0
FOUR = ("a", "b", "c", "d")


class Recorded:
    """A cohort whose parties write audit files as their services do."""

    def __init__(self, folder: Path, *, rounds: int = 3, tap: Callable[..., bool] | None = None) -> None:
        self.consortium: Consortium = make_consortium(folder, *FOUR)
        self.folder = folder
        self.cohort = Cohort(4, rounds=rounds, tap=tap)
        federation, roster = self.cohort.federation, self.consortium.roster
        self.aggregator = AggregatorAuditLog(
            self.consortium.authority, roster, self.cohort.policy, federation.aggregator_self.memory, lambda: WALL_S
        )
        self.logs = {name: self.log(name) for name in FOUR}
        for name in FOUR:
            self.attach(name)
        (folder / "roster.toml").write_bytes(format_roster(roster))

    def log(self, name: str) -> NodeAuditLog:
        keystore = self.consortium.keystores[name]
        memory = self.cohort.federation.nodes[NodeId(name)].own.memory
        return NodeAuditLog(
            self.folder / name,
            keystore,
            self.consortium.roster,
            self.cohort.policy,
            "patients",
            memory,
            None,
            ShakeEntropy(0, name),
            lambda: WALL_S,
        )

    def attach(self, name: str) -> None:
        """Stand around `receive` as the service does."""
        run, log = self.cohort.federation.nodes[NodeId(name)].run, self.logs[name]
        receive = run.receive

        def recorded(message: AggregatorMessage, attachment: StoredVector | None = None) -> tuple[NodeAction, ...]:
            log.before()
            actions = receive(message, attachment)
            log.after(message)
            self.aggregator.observe()
            return actions

        run.receive = recorded  # type: ignore[method-assign]

    def finish(self) -> None:
        self.cohort.run()
        for log in self.logs.values():
            log.end()
        self.aggregator.end(finished=True, error=None)

    def rounds(self, party: str) -> tuple[Round, ...]:
        return rounds_of(open_run(self.folder, self.folder / "roster.toml").chains[party])


def test_records_of_every_party_agree_and_hold(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    audited = open_run(tmp_path, tmp_path / "roster.toml")
    assert audited.findings == ()
    assert [(one.party, one.rounds, one.outcome) for one in standings(audited)] == [
        (party, 3, "finished") for party in ("aggregator", *FOUR)
    ]
    model = recorded.cohort.federation.state.digest.hex()
    assert {rounds_of(records)[-1].model_after for records in audited.chains.values()} == {model}


def test_a_hospital_that_was_away_says_so_and_the_rest_holds(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, rounds=4)
    federation = recorded.cohort.federation
    recorded.cohort.run(until=lambda now: now.aggregator_self.memory.journal.get("summary/00000000") is not None)
    federation.drop(NodeId("b"))
    recorded.cohort.run(until=lambda now: now.aggregator_self.memory.journal.get("summary/00000002") is not None)
    federation.connect(NodeId("b"))
    recorded.attach("b")
    recorded.finish()
    assert open_run(tmp_path, tmp_path / "roster.toml").findings == ()
    outcomes = [closed.outcome for closed in recorded.rounds("b")]
    assert len(outcomes) == 4
    assert outcomes[0] == "result"
    assert "missed" in outcomes
    assert recorded.rounds("a")[1].survivors == ("a", "c", "d")


def test_a_service_killed_between_journal_and_record_leaves_no_gap(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, rounds=2)
    log = recorded.logs["c"]
    after = log.after
    lost: list[AggregatorMessage] = []

    def killed_once(message: AggregatorMessage | None) -> None:
        closing = log._memory.closing
        if closing is not None and closing.round == 0 and not lost and message is not None:
            lost.append(message)
            return
        after(message)

    log.after = killed_once  # type: ignore[method-assign]
    recorded.finish()
    assert len(lost) == 1
    audited = open_run(tmp_path, tmp_path / "roster.toml")
    assert audited.findings == ()
    assert [closed.outcome for closed in recorded.rounds("c")] == ["missed", "result"]
    assert recorded.rounds("c")[0].result == recorded.rounds("a")[0].result


def test_a_restarted_aggregator_continues_its_chain(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, rounds=2)
    recorded.cohort.run(until=lambda now: now.aggregator_self.memory.journal.get("summary/00000000") is not None)
    recorded.aggregator.end(finished=False, error=None)
    recorded.aggregator = AggregatorAuditLog(
        recorded.consortium.authority,
        recorded.consortium.roster,
        recorded.cohort.policy,
        recorded.cohort.federation.aggregator_self.memory,
        lambda: WALL_S,
    )
    recorded.finish()
    audited = open_run(tmp_path, tmp_path / "roster.toml")
    assert audited.findings == ()
    kinds = [record.body.kind for record in audited.chains["aggregator"]]
    assert kinds == ["start", "round", "end", "round", "end"]


def test_the_record_is_written_before_the_acknowledgement_leaves(tmp_path: Path) -> None:
    seen: list[int] = []
    holder: list[Recorded] = []

    def tap(direction: str, node: NodeId, message: NodeMessage | AggregatorMessage) -> bool:
        if direction == "up" and isinstance(message, ResultAck) and node == "a":
            files = list((holder[0].folder / "a" / "runs").glob("*/audit.jsonl"))
            seen.append(files[0].read_bytes().count(b'"kind":"round"'))
        return True

    holder.append(Recorded(tmp_path, rounds=2, tap=tap))
    holder[0].finish()
    assert seen == [1, 2]


def test_a_void_round_leaves_the_model_and_is_on_record_everywhere(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, rounds=2)
    federation = recorded.cohort.federation
    recorded.cohort.run(until=Phase.REVEAL)
    for name in ("c", "d"):
        federation.drop(NodeId(name))
    recorded.cohort.run(until=Phase.VOID)
    for name in ("c", "d"):
        federation.connect(NodeId(name))
        recorded.attach(name)
    recorded.finish()
    audited = open_run(tmp_path, tmp_path / "roster.toml")
    assert audited.findings == ()
    for records in audited.chains.values():
        first, second = rounds_of(records)
        assert (first.outcome, second.outcome) == ("void", "result")
        assert first.model_after == first.model_before != second.model_after


def test_the_population_is_not_named_and_its_salt_stays(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, rounds=1)
    recorded.finish()
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("audit.jsonl"))
    assert b'patients"' not in text.replace(b"expected_patients", b"")
    starts = [
        records[0].body.model_dump()["population"]
        for records in open_run(tmp_path, tmp_path / "roster.toml").chains.values()
    ]
    assert starts[0] is None
    assert len(set(starts[1:])) == 4
    salt = tmp_path / "a" / "audit.salt"
    assert salt.stat().st_mode & 0o777 == 0o600
    assert salt.read_bytes() not in text
