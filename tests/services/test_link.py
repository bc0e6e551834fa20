"""The node's connection: kept up, heard from, and careful with what it is offered."""

from __future__ import annotations

import io
import json
import queue
from pathlib import Path

import pytest

from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.vectors import chunks_of, cut
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root
from fedvlm_secure.secagg.messages import Abort, NodeMessage
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import Digest, NodeId
from fedvlm_secure.wire.tls13 import grpc
from node.channel import dial
from node.client import Connected, Link, Received
from node.traffic import SentBytes
from tests.support.consortium import Consortium, ScriptedMachine, SteadyClock, eventually, make_consortium, serving

NODE = NodeId("hospital-a")
NEWS = Abort(code="NEWS", cause="something to tell", hint="")
BLOB = bytes(range(256)) * (CHUNK_BYTES // 256) + b"and a tail"


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"), NODE)


class Hospital:
    """A link, what it hands over and what it logs."""

    def __init__(self, consortium: Consortium, address: str, folder: Path, *, most: int = 2 * CHUNK_BYTES) -> None:
        self.events: queue.Queue[object] = queue.Queue()
        self.output = io.StringIO()
        self._consortium, self._address = consortium, address
        log = EventLog(NODE, self.output, SteadyClock(), json_lines=True)
        self.link = Link(self._dial, self.events, log, SentBytes(), folder=folder, max_attachment_bytes=most)

    def _dial(self) -> grpc.Channel:
        return dial(self._address, self._consortium.tls(NODE), self._consortium.roster)

    def say_hello(self) -> Connected:
        event = self.events.get(timeout=10)
        assert isinstance(event, Connected)
        self.link.send(event.connection, self._consortium.hello(NODE))
        return event

    def waits(self) -> list[tuple[str, float]]:
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [(line["code"], line["wait_s"]) for line in lines if line["event"] == "waiting"]


def _tells(root: Digest | None = None) -> ScriptedMachine:
    def answer(node: NodeId, message: NodeMessage) -> Outbox:
        return (ToNode(node, NEWS, root),)

    return ScriptedMachine(answer=answer)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.client.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("node.client.LONGEST_WAIT_S", 0.2)


def test_messages_come_with_their_attachments(consortium: Consortium, tmp_path: Path) -> None:
    root = chunk_root(BLOB)
    with serving(consortium, tmp_path, _tells(root)) as server:
        server.blobs.put(cut(BLOB))
        hospital = Hospital(consortium, server.address, tmp_path / "attachments")
        hospital.link.start()
        connected = hospital.say_hello()
        received = hospital.events.get(timeout=10)
        assert isinstance(received, Received) and received.attachment is not None
        assert (received.connection, received.message) == (connected.connection, NEWS)
        assert b"".join(chunks_of(received.attachment)) == BLOB
        hospital.link.close()


@pytest.mark.parametrize(
    ("stored", "most", "code"),
    [
        (BLOB, len(BLOB) - 1, "ATTACHMENT_TOO_LARGE"),
        (BLOB[:-1] + b"?", len(BLOB), "ATTACHMENT_WRONG"),
        (None, len(BLOB), "NO_ATTACHMENT"),
    ],
)
def test_a_wrong_attachment_is_not_handed_over(
    consortium: Consortium, tmp_path: Path, stored: bytes | None, most: int, code: str
) -> None:
    root = chunk_root(BLOB)
    with serving(consortium, tmp_path, _tells(root)) as server:
        if stored is not None:
            server.blobs._path(root).write_bytes(stored)
        hospital = Hospital(consortium, server.address, tmp_path / "attachments", most=most)
        hospital.link.start()
        hospital.say_hello()
        eventually(lambda: code in [found for found, _ in hospital.waits()])
        assert isinstance(hospital.events.get(timeout=10), Connected), "it only connected again"
        hospital.link.close()


def test_a_silent_hospital_is_heard_from(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.client.HEARTBEAT_S", 0.05)
    with serving(consortium, tmp_path, ScriptedMachine()) as server:
        hospital = Hospital(consortium, server.address, tmp_path / "attachments")
        hospital.link.start()
        hospital.say_hello()
        eventually(lambda: server.machine.steps.count(("heard", NODE)) >= 5)
        assert len(server.machine.messages) == 1, "a heartbeat is no message of the protocol"
        hospital.link.close()


def test_it_dials_for_ever_and_takes_part_again_after_a_restart(consortium: Consortium, tmp_path: Path) -> None:
    with serving(consortium, tmp_path, ScriptedMachine()) as server:
        address = server.address
        hospital = Hospital(consortium, address, tmp_path / "attachments")
        hospital.link.start()
        hospital.say_hello()
        eventually(lambda: len(server.machine.messages) == 1)
    eventually(lambda: [code for code, _ in hospital.waits()].count("UNREACHABLE") >= 3)
    assert max(wait for _, wait in hospital.waits()) <= 0.2
    with serving(consortium, tmp_path, _tells(), listen=address) as server:
        connected = hospital.say_hello()
        assert connected.connection == 2
        assert hospital.events.get(timeout=10) == Received(2, NEWS, None)
        hospital.link.send(1, NEWS)  # meant for the connection that is gone
        hospital.link.send(2, consortium.hello(NODE))
        eventually(lambda: len(server.machine.messages) == 2)
        assert NEWS not in [message for _, message in server.machine.messages]
        hospital.link.close()


def test_what_was_queued_is_sent_before_it_hangs_up(consortium: Consortium, tmp_path: Path) -> None:
    with serving(consortium, tmp_path, ScriptedMachine()) as server:
        hospital = Hospital(consortium, server.address, tmp_path / "attachments")
        hospital.link.start()
        connected = hospital.say_hello()
        hospital.link.send(connected.connection, NEWS)
        hospital.link.close()
        eventually(lambda: [message for _, message in server.machine.messages][-1:] == [NEWS])


def test_an_impostor_is_named_and_waited_out(consortium: Consortium, tmp_path: Path) -> None:
    other = make_consortium(tmp_path / "other", NODE)
    with serving(other, tmp_path, ScriptedMachine()) as server:
        hospital = Hospital(consortium, server.address, tmp_path / "attachments")
        hospital.link.start()
        eventually(lambda: len(hospital.waits()) >= 2)
        assert {code for code, _ in hospital.waits()} == {"TLS_REFUSED"}
        assert hospital.events.empty() and server.machine.messages == []
        hospital.link.close()
