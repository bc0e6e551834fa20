"""Real processes: one hospital joins, one leaves, one renews its keys, in the middle of a run that was killed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aggregator import admission
from aggregator.authority import open_authority
from fedvlm_secure.audit.chain import FILE_NAME, read_chain
from fedvlm_secure.audit.folder import ROSTER_NAME
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.cli.budgets import open_budget
from fedvlm_secure.cli.children import Child
from fedvlm_secure.cli.consortium import AGGREGATOR, Consortium, Member
from fedvlm_secure.cli.hospitals import phantom_hospitals
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.policy.private_file import write_public
from fedvlm_secure.policy.roster import format_roster, load_roster
from fedvlm_secure.types import NodeId
from node import approvals
from node.keystore import open_keystore, renew_keystore
from tests.support.cohort import POLICIES

pytestmark = pytest.mark.e2e

ROUNDS = 6


def survivors(running: Consortium) -> list[list[str]]:
    summaries: Any = running.progress.get("summaries", ())
    return [sorted(entry["survivors"]) for entry in summaries]


class ChangingConsortium(Consortium):
    """Its coordinator opens another epoch. Everybody was killed while uploads may have been on their way, so that the
    hospitals accept what they refuse by themselves: another cohort from the model of that round."""

    def _node_yaml(self, node: NodeId, member: Member) -> str:
        return super()._node_yaml(node, member) + "other_cohorts: accept\n"

    def kill_everybody(self) -> None:
        self._aggregator.kill()
        for member in self.members.values():
            member.child.kill()

    def change(self, *, joins: Any, leaves: NodeId, renews: NodeId) -> None:
        """Admission, removal, renewal, the new roster everywhere, new approvals; then the next epoch."""
        now, source, authority = datetime.now(UTC), read_policy(self._policy), open_authority(self.home)
        self._make_member(joins)
        bundles = {node: admission.admit(authority, m.keystore.join_request(), now) for node, m in self.members.items()}
        bundles[renews] = admission.admit(authority, renew_keystore(self.members[renews].state), now)
        admission.remove(authority, leaves)
        self.members.pop(leaves)
        roster = format_roster(admission.roster(authority))
        for node, member in self.members.items():
            keystore = open_keystore(member.state)
            keystore.install(bundles[node].bundle.read_bytes(), roster, now, accept_changes=True)
            approvals.approve(member.state, source, now)
        open_budget(self.members[joins.node].state, joins.node, source.policy)
        self._address = ""
        command = ("aggregator", "serve", "--policy", str(self._policy), "--home", str(self.home), "--new-epoch")
        self._aggregator = Child(AGGREGATOR, (*command, "--listen", "127.0.0.1:0", "--json"), self.folder / "logs")
        self._aggregator.events()  # of the process before
        self._aggregator.start()
        self._await_address()
        for node, member in self.members.items():
            write_public(member.state / "node.yaml", self._node_yaml(node, member).encode("utf-8"))
            member.child.start()


def check_records(folder: Path) -> None:
    records = read_chain(folder / FILE_NAME)
    assert verify_chain(records, load_roster(folder / ROSTER_NAME)) == []
    assert json.loads((folder / FILE_NAME).read_text().splitlines()[-1])["body"]["outcome"] == "finished"


def test_hospitals_join_leave_and_renew_in_the_middle_of_a_run(tmp_path: Path) -> None:
    hospitals = phantom_hospitals(5, seed=5, patients=60)
    *first, joining = hospitals
    leaving, renewing = first[0].node, first[1].node
    policy = tmp_path / "policy.yaml"
    # a round trains for a second or two: everybody is killed before an upload binds its cohort to the round
    changes = {"rounds": ROUNDS, "local.steps": 40, "local.batch_size": 32, "evaluation.limit": 20}
    derive(POLICIES / "fedavg.yaml", {**changes, "cohort.deadline": "30s"}, policy)
    with ChangingConsortium(tmp_path / "consortium", policy, first, stall_s=90) as running:
        running.set_up()
        running.start()
        running.wait(until=lambda run: bool(survivors(run)) and run.progress["phase"] == "upload")
        running.kill_everybody()
        closed = len(survivors(running))
        running.change(joins=joining, leaves=leaving, renews=renewing)
        running.wait()
        before, after = [h.node for h in first], [h.node for h in hospitals if h.node != leaving]
        taken = survivors(running)
        assert taken[:closed] == [sorted(before)] * closed
        assert taken[-1] == sorted(after)
        assert len(taken) == ROUNDS
        run = str(running.progress["run"])
        for member in running.members.values():
            assert any(row["last"] for row in member.metrics)
            check_records(member.state / "runs" / run / "epoch-1")
        check_records(running.home / "runs" / run / "epoch-1")
        assert all(row["round"] >= closed for row in running.members[joining.node].metrics)
