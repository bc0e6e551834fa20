"""Real processes under test: one made to stand still, and how often one has connected."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.types import NodeId


@contextmanager
def paused(running: Consortium, node: str) -> Iterator[None]:
    """A hospital that stands still: the round stays open as long."""
    pid = running.members[NodeId(node)].child.pids[-1]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sessions(running: Consortium, node: NodeId) -> int:
    """How often a hospital has connected."""
    return sum(event.get("event") == "connected" and event.get("node") == node for event in running.steps)
