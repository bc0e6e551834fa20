"""The aggregator's disk is full while hospitals upload: said once where and how much, and taken up again with room."""

from __future__ import annotations

import errno
import io
import os
import queue
from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.rounds.actions import Upload
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import UploadBundle
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from node.channel import dial
from node.client import Link
from node.traffic import SentBytes
from node.uploader import Uploader
from tests.support.consortium import ScriptedMachine, SteadyClock, bundle_for, eventually, make_consortium, serving

NODE = NodeId("hospital-a")
CONTENT = bytes([1]) * CHUNK_BYTES + bytes([2]) * CHUNK_BYTES + b"the tail"


def test_an_upload_goes_on_once_the_aggregators_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second chunk finds no room, three times; the first stays held and is not sent again."""
    monkeypatch.setattr("node.uploader._WAIT_S", 0.02)
    consortium = make_consortium(tmp_path / "consortium", NODE)
    machine, output = ScriptedMachine(expected_bytes=len(CONTENT)), io.StringIO()
    real, refusals = os.write, [3]

    def write(handle: int, content: Any) -> int:
        if len(content) == CHUNK_BYTES and bytes(content[:1]) == b"\x02" and refusals[0] > 0:
            refusals[0] -= 1
            real(handle, content[:5000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, content)

    with serving(consortium, tmp_path, machine) as server:
        monkeypatch.setattr(os, "write", write)
        log, sent = EventLog(NODE, output, SteadyClock(), json_lines=True), SentBytes()
        link = Link(
            lambda: dial(server.address, consortium.tls(NODE), consortium.roster),
            queue.Queue[object](),
            log,
            sent,
            folder=tmp_path / "attachments",
            max_attachment_bytes=0,
        )
        uploader = Uploader(lambda: link.channel, log, sent)
        link.start()
        uploader.start()
        uploader.offer(Upload(bundle_for(NODE, CONTENT), HeldVector(CONTENT)))
        eventually(lambda: any(isinstance(said, UploadBundle) for _, said in machine.messages), within_s=20)
        assert machine.vectors == {NODE: CONTENT} and refusals == [0]
        refused = server.events("refused")
        assert [event["code"] for event in refused] == ["DISK_FULL"] * 3
        assert all(str(CHUNK_BYTES) in str(event["cause"]) and "spool" in str(event["cause"]) for event in refused)
        assert machine.steps.count(("heard", NODE)) == 3, "each chunk was taken once"
        uploader.close()
        link.close()
