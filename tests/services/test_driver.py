"""The one thread around the machine: it says farewell, and it does not go on after a failure."""

from __future__ import annotations

import threading

import pytest

from aggregator.driver import Driver
from aggregator.sessions import Session, Sessions
from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted, StorageError
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.secagg.messages import Abort, NodeMessage
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.codec import from_wire
from fedvlm_secure.wire.envelopes import AggregatorEnvelope
from tests.support.consortium import ScriptedMachine, SteadyClock, eventually

A, B = NodeId("hospital-a"), NodeId("hospital-b")
END = Abort(code="ENOUGH", cause="that was all", hint="")


class _Running:
    """A driver in a thread, with what it raised."""

    def __init__(self, machine: ScriptedMachine, *, members: int = 2) -> None:
        self.sessions, self.stop = Sessions(), threading.Event()
        self.driver = Driver(machine, self.sessions, SteadyClock(), lambda seen: None, members=members)
        self.raised: FedvlmError | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.driver.run(self.stop.is_set)
        except FedvlmError as error:
            self.raised = error

    def join(self, node: NodeId) -> Session:
        session = Session(node, "here", 0.0, cancel=lambda: None)
        self.sessions.open(session)
        return session


@pytest.fixture
def machine() -> ScriptedMachine:
    scripted = ScriptedMachine()

    def answer(node: NodeId, message: NodeMessage) -> Outbox:
        scripted.finished = True
        return (ToNode(A, END), ToNode(B, END))

    scripted.answer = answer
    return scripted


def test_it_ends_when_every_member_was_told_and_has_left(machine: ScriptedMachine) -> None:
    running = _Running(machine)
    sessions = [running.join(node) for node in (A, B)]
    running.driver.receive(A, END)
    for session in sessions:
        raw = session.outgoing.get(timeout=5)
        assert raw is not None and from_wire(AggregatorEnvelope, raw).body == END
        assert running.thread.is_alive()
        running.sessions.close(session)
    running.thread.join(5)
    assert not running.thread.is_alive() and running.raised is None


def test_it_does_not_wait_for_ever_for_who_never_comes(
    machine: ScriptedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.driver._LINGER_S", 0.5)
    running = _Running(machine)
    running.sessions.close(running.join(A))
    running.driver.receive(A, END)
    running.thread.join(5)
    assert not running.thread.is_alive()


def test_a_peers_fault_is_the_peers_a_full_disk_ends_the_service() -> None:
    faults: list[FedvlmError] = [PeerViolation("BAD", "bad", ""), StorageError("DISK_FULL", "full", "")]

    def answer(node: NodeId, message: NodeMessage) -> Outbox:
        raise faults.pop(0)

    running = _Running(ScriptedMachine(answer=answer))
    with pytest.raises(PeerViolation):
        running.driver.receive(A, END)
    running.driver.heard(A)
    with pytest.raises(StorageError):
        running.driver.receive(A, END)
    running.thread.join(5)
    assert isinstance(running.raised, StorageError)
    with pytest.raises(RunAborted) as caught:
        running.driver.heard(A)
    assert caught.value.code == "SERVICE_STOPPING"


def test_a_node_that_reads_nothing_is_hung_up_on() -> None:
    cancelled = threading.Event()
    sessions = Sessions()
    sessions.open(Session(A, "here", 0.0, cancel=cancelled.set))
    delivered = [sessions.deliver(ToNode(A, END)) for _ in range(300)]
    assert delivered[0] and not delivered[-1] and cancelled.is_set()
    assert not sessions.deliver(ToNode(B, END))


def test_steps_wait_for_one_another() -> None:
    machine = ScriptedMachine()
    running = _Running(machine)

    def call() -> None:
        for _ in range(50):
            running.driver.heard(A)

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    eventually(lambda: len(machine.steps) == 400)
    running.stop.set()
    running.thread.join(5)
