"""Overtaking: a message that came to a node before one that was sent ahead of it."""

from __future__ import annotations

from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.secagg.messages import AggregatorMessage, CatchUp, Finished, HeKeys, OpenEpoch, Plan


class Overtaken:
    """What a node refused only because it came too early. In memory only: a node that restarts says Hello anyway.

    Nothing of such a message is kept for use: once it could be taken, the node says Hello again, and the aggregator
    repeats whatever it still owes. So every message is judged when it comes, by the same rules as ever.
    """

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self._refused: dict[type[AggregatorMessage], AggregatorMessage] = {}  # the last one of each kind

    def refused(self, message: AggregatorMessage) -> None:
        """Note a message that broke the protocol as the node stands, if it is one that waits for another."""
        if self._is_early(message):
            self._refused[type(message)] = message

    def ask_again(self) -> bool:
        """Whether something that was refused could be taken by now; said once."""
        if all(self._is_early(message) for message in self._refused.values()):
            return False
        self._refused.clear()
        return True

    def _is_early(self, message: AggregatorMessage) -> bool:
        memory = self._memory
        opened, closing = memory.opened_epoch, memory.closing
        if opened is None:
            return False
        next_round = 0 if closing is None else closing.round + 1
        match message:
            case HeKeys():
                return memory.epoch_keys is None
            case OpenEpoch():  # of this membership; a new one does not wait for closings
                return message.manifest == opened.manifest and message.first_round > next_round
            case CatchUp():
                return not memory.epoch_ready
            case Plan():
                return not memory.epoch_ready or message.round > next_round
            case Finished():
                return message.certificate.round >= next_round
            case _:
                return False
