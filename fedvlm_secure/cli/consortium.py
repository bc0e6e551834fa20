"""Consortium: an aggregator and its hospitals on this machine, each a process of its own with its own keys.

FOLDER/coordinator/       home of the aggregator
FOLDER/hospitals/ID/      state of a hospital's node, and its node.yaml
FOLDER/exchange/          what the parties hand to each other: join files, certificates, roster.toml
FOLDER/logs/              event lines and errors of every process
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from aggregator import admission
from aggregator.authority import create_authority
from aggregator.status import read_summaries
from fedvlm_secure.cli.budgets import open_budget, population_of
from fedvlm_secure.cli.children import Child, ChildFailed
from fedvlm_secure.cli.hospitals import Hospital
from fedvlm_secure.errors import RunAborted
from fedvlm_secure.policy import join
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.policy.private_file import make_private_folder, read_file, write_public
from fedvlm_secure.policy.roster import Roster, format_roster
from fedvlm_secure.types import Digest, NodeId
from node import approvals
from node.keystore import Keystore, create_keystore
from node.metrics import MetricsFile

AGGREGATOR = "aggregator"
LISTEN_S = 30.0
POLL_S = 0.2
STALL_S = 600.0
"""Without any step of the run for so long it is given up. Each step, score or upload starts the count again."""

_STEPS = frozenset({"starting", "received", "training", "trained", "uploaded", "phase", "round_closed", "finished"})
"""Events that show a run going on; connecting and waiting can repeat for ever without it."""

Observer = Callable[["Consortium"], None]


@dataclass(frozen=True)
class SetUp:
    """What the consortium's ceremony yielded: roster, approved policy, certificate serials (hexadecimal) by party."""

    roster: Roster
    policy_hash: Digest
    serials: dict[str, str]
    seconds: float


@dataclass
class Member:
    """One hospital's node on this machine."""

    hospital: Hospital
    state: Path
    child: Child
    keystore: Keystore = field(repr=False)

    @property
    def metrics(self) -> tuple[dict[str, object], ...]:
        """Its own metrics file, which never leaves it; whoever plays the hospital may read it."""
        return MetricsFile(self.state).rows()


class Consortium:
    """Sets up, starts, watches and ends the processes of one run.

    Args:
        folder: empty or absent; gets everything, keys included.
        policy: the policy file that all approve.
        hospitals: at least three.
        base: directory of the base model where it is not a shipped one.
        name: the consortium's name in the roster.
        stall_s: see STALL_S.

    Use as a context manager: leaving it ends every process.
    """

    def __init__(
        self,
        folder: Path,
        policy: Path,
        hospitals: Sequence[Hospital],
        *,
        base: Path | None = None,
        name: str = "demo",
        stall_s: float = STALL_S,
    ) -> None:
        self.folder = folder
        self.home = folder / "coordinator"
        self.members: dict[NodeId, Member] = {}
        self.steps: list[dict[str, object]] = []
        self._policy, self._base, self._name = policy, base, name
        self._hospitals = sorted(hospitals, key=lambda hospital: hospital.node)
        self._stall_s = stall_s
        self._address = ""
        self._moved_s = time.monotonic()
        self._seen = 0
        self._aggregator = Child(AGGREGATOR, (), folder / "logs")

    def __enter__(self) -> Consortium:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def children(self) -> Iterator[Child]:
        yield self._aggregator
        yield from (member.child for member in self.members.values())

    @property
    def pids(self) -> dict[str, list[int]]:
        """Process ids by party, one per start."""
        return {child.name: list(child.pids) for child in self.children}

    # ---- set-up: every step is what the parties do themselves, with the files they exchange ----

    def set_up(self) -> SetUp:
        """Keys, join files, admission, roster, installation, approval by hash.

        Raises:
            FedvlmError: of the step that failed.
        """
        start_s = time.monotonic()
        for path in (self.folder, self.folder / "hospitals", self.folder / "exchange", self.folder / "logs"):
            make_private_folder(path)
        now = datetime.now(UTC)
        authority, _ = create_authority(self.home, consortium=self._name, hosts=[], address="", now=now)
        serials = {AGGREGATOR: f"{authority.server.serial_number:x}"}
        bundles: dict[NodeId, Path] = {}
        for hospital in self._hospitals:
            member = self._make_member(hospital)
            request = self.folder / "exchange" / f"{hospital.node}.join"
            write_public(request, member.keystore.join_request().to_json())
            asked = join.parse(read_file(request, missing_hint=""), request.name)
            admitted = admission.admit(authority, asked, now)
            bundles[hospital.node] = admitted.bundle
            serials[hospital.node] = f"{admitted.certificate.serial_number:x}"
        listed = admission.roster(authority)
        pinned = self.folder / "exchange" / "roster.toml"
        write_public(pinned, format_roster(listed))
        source = read_policy(self._policy)
        for node, member in self.members.items():
            bundle = read_file(bundles[node], missing_hint="")
            member.keystore.install(bundle, read_file(pinned, missing_hint=""), datetime.now(UTC))
            approvals.approve(member.state, source, now)
            open_budget(member.state, node, source.policy)
        return SetUp(listed, policy_hash(source.policy), serials, time.monotonic() - start_s)

    def _make_member(self, hospital: Hospital) -> Member:
        state = self.folder / "hospitals" / hospital.node
        keystore = create_keystore(state, hospital.node)
        arguments = ("node", "serve", "--config", str(state / "node.yaml"), "--json")
        member = Member(hospital, state, Child(hospital.node, arguments, self.folder / "logs"), keystore)
        self.members[hospital.node] = member
        return member

    # ---- the run ----

    def start(self) -> None:
        """Start the aggregator, wait until it listens, then all hospitals at once.

        Raises:
            ChildFailed: it does not start, in its own words.
            RunAborted: NOT_LISTENING.
        """
        command = ("aggregator", "serve", "--policy", str(self._policy), "--home", str(self.home))
        self._aggregator = Child(AGGREGATOR, (*command, "--listen", "127.0.0.1:0", "--json"), self.folder / "logs")
        self._aggregator.start()
        self._await_address()
        for node, member in self.members.items():
            write_public(member.state / "node.yaml", self._node_yaml(node, member).encode("utf-8"))
        for member in self.members.values():
            member.child.start()
        self._moved_s = time.monotonic()

    def _await_address(self) -> None:
        until_s = time.monotonic() + LISTEN_S
        while not self._address:
            self._read_events()
            failure = self._aggregator.failure()
            if failure is not None:
                raise failure
            if time.monotonic() > until_s:
                raise RunAborted("NOT_LISTENING", f"the aggregator did not listen within {LISTEN_S:g} s", "try again")
            time.sleep(POLL_S / 4)

    def _node_yaml(self, node: NodeId, member: Member) -> str:
        fields: dict[str, object] = {
            "node": str(node),
            "state": str(member.state.resolve()),
            "aggregator": self._address,
            "population": population_of(node),
            "data": dict(member.hospital.source),
            "threads": 1,
        }
        if self._base is not None:
            fields["base"] = str(self._base.resolve())
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)

    def kill(self, node: NodeId) -> None:
        """SIGKILL one hospital's process; its state stays."""
        self.members[node].child.kill()

    def restart(self, node: NodeId) -> None:
        """Start a hospital's process again on the state it left."""
        self.members[node].child.start()

    def poll(self) -> None:
        """Read what is new.

        Raises:
            ChildFailed: a process ended with an error.
            RunAborted: STALLED.
        """
        moved = self._read_events()
        seen = sum(len(member.metrics) for member in self.members.values())
        if moved or seen != self._seen:
            self._moved_s, self._seen = time.monotonic(), seen
        failure = self._failure()
        if failure is not None:
            raise failure
        if time.monotonic() - self._moved_s > self._stall_s:
            raise RunAborted(
                "STALLED",
                f"no step of the run for {self._stall_s:g} s",
                "the machine may be too busy; --keep keeps the logs of every process",
            )

    def _failure(self) -> ChildFailed | None:
        """A hospital's own error first: the aggregator's is often only that this hospital is gone."""
        found = [failure for child in self.children if (failure := child.failure()) is not None]
        if not found:
            return None
        return min(
            found, key=lambda failure: (failure.exit_code == RunAborted.exit_code, failure.code == "CHILD_FAILED")
        )

    def _read_events(self) -> bool:
        moved = False
        for child in self.children:
            for event in child.events():
                if event.get("event") == "listening":
                    self._address = str(event.get("address"))
                moved = moved or event.get("event") in _STEPS
                if child is self._aggregator:
                    self.steps.append(event)
        return moved

    @property
    def done(self) -> bool:
        """Every process has ended well (or was killed from here), the aggregator among them."""
        return self._aggregator.exit_code == 0 and not any(child.running for child in self.children)

    @property
    def progress(self) -> dict[str, object]:
        """The aggregator's last written progress; empty before the run is open."""
        written = read_summaries(self.home)
        return written[-1] if written else {}

    def wait(self, observe: Observer | None = None, until: Callable[[Consortium], bool] | None = None) -> None:
        """Until every process has ended well, or `until` holds.

        Args:
            observe: called after each look.

        Raises:
            ChildFailed, RunAborted: see `poll`; processes are still running then: `stop` ends them.
        """
        while True:
            ended = self.done  # before the last look, so that nothing written by then is missed
            self.poll()
            if observe is not None:
                observe(self)
            if ended or (until is not None and until(self)):
                return
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End every process: asked first, killed after a few seconds."""
        for child in self.children:
            child.ask_to_end()
        for child in self.children:
            child.end()
