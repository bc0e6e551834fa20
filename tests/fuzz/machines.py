"""Both protocol machines as fuzz targets: sound messages of a real run, damaged in their structure and signed again.

A case is a script: how far the honest run goes, then a few messages, each with its sender, its place and its damage.
Whatever it says, each message is answered, or refused with an error of our tree; a refused one leaves the journal as it
was, and a phase that was left is not entered again within its round.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from fedvlm_secure.errors import FedvlmError, PeerViolation
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase
from fedvlm_secure.rounds.aggregator_run import AggregatorRun
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, UploadBundle
from fedvlm_secure.secagg.record import Record, Signer, Statement
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.fuzz.choices import Choices
from tests.fuzz.decoders import Target, well_coded
from tests.fuzz.mutations import mutated
from tests.support.cohort import Cohort

_NODES = 3
_MESSAGES = 4
_ATTACHMENTS = (None, b"", b"\x00" * 7, b"\x00" * 8)


@dataclasses.dataclass(frozen=True)
class Moment:
    """A point of an honest run: the journals as they stood, and all that was said before and after it."""

    aggregator: Mapping[str, bytes]
    nodes: Mapping[NodeId, Mapping[str, bytes]]
    now_s: float


@dataclasses.dataclass(frozen=True)
class Story:
    """An honest run of two rounds: every moment and every message."""

    federation: Federation
    moments: tuple[Moment, ...]
    up: tuple[tuple[NodeId, NodeMessage], ...]
    down: tuple[tuple[NodeId, AggregatorMessage, bytes | None], ...]


@cache
def story() -> Story:
    """Played once per process."""
    up: list[tuple[NodeId, NodeMessage]] = []
    down: list[tuple[NodeId, AggregatorMessage, bytes | None]] = []
    moments: list[Moment] = []

    def tap(direction: str, node: NodeId, message: Any) -> bool:
        if direction == "up":
            up.append((node, message))
        else:
            down.append((node, message, None))
        return True

    cohort = Cohort(_NODES, dimension=12, rounds=2, tap=tap)
    federation = cohort.federation
    seen: set[tuple[Phase, int]] = set()

    def look(running: Federation) -> bool:
        mark = (running.aggregator.phase, len(up))
        if mark not in seen:
            seen.add(mark)
            moments.append(_moment(running))
        return running.aggregator.finished

    federation.run(look)
    federation.run()
    return Story(federation, tuple(moments), tuple(up), tuple(down))


def _moment(federation: Federation) -> Moment:
    return Moment(
        _content(federation.aggregator_self.memory),
        {node: _content(simulated.own.memory) for node, simulated in federation.nodes.items()},
        federation.now_s,
    )


def _content(memory: AggregatorMemory | NodeMemory) -> dict[str, bytes]:
    journal = memory.journal
    if not isinstance(journal, MemoryJournal):
        raise TypeError("a simulated party journals in memory")
    return dict(journal.content)


def _journal(content: Mapping[str, bytes]) -> MemoryJournal:
    journal = MemoryJournal()
    journal.content = dict(content)
    return journal


def _signed(message: Any, signer: Signer) -> Any:
    """The message as the holder of `signer` would say it, headers inside bundles included."""
    if isinstance(message, UploadBundle):
        return dataclasses.replace(message, header=_signed(message.header, signer))
    if isinstance(message, Statement):
        fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "signature"}
        return signer.sign(type(message), **fields)
    return message


def _damaged(message: Record, signer: Signer, choices: Choices) -> Any:
    """Untouched, damaged, or damaged and signed again."""
    style = choices.below(4)
    if style == 0:
        return message
    changed = mutated(message, choices)
    return changed if style == 1 else _signed(changed, signer)


def aggregator_machine(raw: bytes) -> None:
    """Members of the roster that say anything at any time."""
    choices, told = Choices(raw), story()
    moment = choices.pick(told.moments)
    journal = _journal(moment.aggregator)
    own = dataclasses.replace(
        told.federation.aggregator_self, memory=AggregatorMemory(journal), spool=copy.deepcopy(told.federation.spool)
    )
    machine = AggregatorRun(own, moment.now_s)
    now_s = moment.now_s
    nodes = sorted(told.federation.nodes)
    for node in nodes:
        machine.connected(node, now_s)
    for _ in range(_MESSAGES):
        if choices.spent:
            return
        sender = choices.pick(nodes)
        message = _damaged(choices.pick(told.up)[1], told.federation.nodes[sender].own.signer, choices)
        now_s += choices.pick((0.0, 0.1, 5.0, 100.0))
        before, standing = dict(journal.content), _standing(own.memory)
        try:
            if isinstance(message, UploadBundle):
                machine.check_upload(sender, message)
            machine.receive(sender, message, now_s)
        except PeerViolation as error:
            well_coded(error)
            if journal.content != before:
                raise AssertionError(f"{error.code}: a refused message changed the journal") from error
        match choices.below(8):
            case 0 | 1:
                machine.tick(now_s)
            case 2:
                machine.disconnected(sender, now_s)
            case 3:  # it dies and comes back from what it journalled
                machine = AggregatorRun(own, now_s)
                machine.connected(sender, now_s)
            case _:
                pass
        if _standing(own.memory) < standing:
            raise AssertionError(f"the run went back from {standing} to {_standing(own.memory)}")


_ORDER = tuple(Phase)


def _standing(memory: AggregatorMemory) -> tuple[int, int, int]:
    """Closed rounds, attempt and phase: none of it goes down while what stands before it stays."""
    closed = -1 if memory.journal.get("closing") is None else memory.closing.round
    attempt = -1 if memory.journal.get("plan") is None else memory.plan.attempt
    return closed, attempt, _ORDER.index(memory.phase)


def node_machine(raw: bytes) -> None:
    """An aggregator, with its true key, that says anything at any time."""
    choices, told = Choices(raw), story()
    moment = choices.pick(told.moments)
    name = choices.pick(sorted(told.federation.nodes))
    simulated = told.federation.nodes[name]
    journal = _journal(moment.nodes[name])
    own = dataclasses.replace(simulated.own, memory=NodeMemory(journal), purse=copy.deepcopy(simulated.own.purse))
    machine = NodeRun(own)
    signers = [told.federation.aggregator_self.signer, *(n.own.signer for n in told.federation.nodes.values())]
    for _ in range(_MESSAGES):
        if choices.spent:
            return
        _, sound, _ = choices.pick(told.down)
        message = _damaged(sound, choices.pick(signers) if choices.below(4) == 0 else signers[0], choices)
        attachment = choices.pick((*_ATTACHMENTS, *_blobs(told)))
        before, revealed = dict(journal.content), own.memory.revealed
        if choices.below(8) == 0:  # it dies and comes back from what it journalled
            machine = NodeRun(own)
        try:
            machine.receive(message, None if attachment is None else HeldVector(attachment))
        except PeerViolation as error:
            well_coded(error)
            if journal.content != before:
                raise AssertionError(f"{error.code}: a refused message changed the journal") from error
        except FedvlmError as error:
            well_coded(error)
        _check_reveals(revealed, own.memory.revealed)


def _blobs(told: Story) -> tuple[bytes, ...]:
    return tuple(told.federation.blobs._content.values())


def _check_reveals(before: Any, after: Any) -> None:
    """A reveal that was made is never made again otherwise within its round."""
    if before is not None and after is not None and before[0] == after[0] and before[1] != after[1]:
        raise AssertionError("a second reveal in one round")


MACHINES: dict[str, Target] = {"aggregator-machine": aggregator_machine, "node-machine": node_machine}
