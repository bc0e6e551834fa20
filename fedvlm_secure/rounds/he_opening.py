"""Decryption: who is asked to decrypt the encrypted sum, when the next one is, and when nobody is left."""

from __future__ import annotations

from collections.abc import Iterable

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_messages import phase_messages
from fedvlm_secure.rounds.aggregator_round import AggregatorRound
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.he_aggregator import DECRYPTIONS, EncryptedRound
from fedvlm_secure.rounds.presence import Presence
from fedvlm_secure.types import NodeId


class Decryption:
    """The waiting of R3. In memory only: after a restart everybody who was asked has the whole deadline again.

    Args:
        presence: who is there.
        steps: publish, or close void.
    """

    def __init__(self, own: AggregatorSelf, presence: Presence, steps: AggregatorRound) -> None:
        self._own, self._presence, self._steps = own, presence, steps
        self._sum = EncryptedRound(own)
        self._deadline_s = float(own.policy.cohort.deadline)
        self._asked_s: dict[tuple[bytes, NodeId], float] = {}

    def begin(self) -> None:
        """Add the ciphertexts and go over to R3; a spooled upload that is none any more makes the round void."""
        try:
            self._sum.ask()
        except PeerViolation:
            self._steps.request_void()

    def step(self, now_s: float, phase_s: float, greeted: Iterable[NodeId]) -> Outbox | None:
        """Publish what enough nodes decrypted to the same words; else ask more of them, wait, or close the round void.

        Args:
            phase_s: when the phase began.
            greeted: who is told about the next phase.

        Returns:
            What to send; None while answers are awaited.
        """
        memory = self._own.memory
        if len(self._sum.equal()) < DECRYPTIONS:
            request, asked = memory.decrypt_request, self._ask_more(now_s)
            if asked and request is not None:
                return tuple(ToNode(node, request, request.sum_root) for node in asked)
            if not self._is_hopeless(now_s, phase_s):
                return None
            self._steps.request_void()
            return phase_messages(memory, self._steps, greeted)
        try:
            self._steps.publish(*self._sum.sum_words())
        except PeerViolation:
            self._steps.request_void()
        return phase_messages(memory, self._steps, greeted)

    def _ask_more(self, now_s: float) -> tuple[NodeId, ...]:
        """Ask the next nodes of S that signed and are there, lowest id first, until enough may come to one sum.

        Returns:
            Who was asked now.
        """
        fresh: list[NodeId] = []
        while len(self._sum.equal()) + len(self._awaited(now_s)) < DECRYPTIONS:
            memory = self._own.memory
            signed = [node for node in memory.survivors if node in memory.signatures and node not in memory.asked]
            ready = [node for node in signed if self._presence.is_connected(node)]
            if not ready:
                break
            self._sum.ask_also(ready[0])
            self._asked_s[self._key(ready[0])] = now_s
            fresh.append(ready[0])
        return tuple(fresh)

    def _is_hopeless(self, now_s: float, phase_s: float) -> bool:
        """Whether too few can still answer: the round is void then.

        Args:
            phase_s: when the phase began.
        """
        memory = self._own.memory
        hoped = self._presence.hoped_for(memory.survivors, now_s, phase_s)
        unasked = {node for node in hoped if node not in memory.asked and not self._presence.has_left(node)}
        may_come = unasked | self._in_time(now_s)
        return len(self._sum.equal()) + len(may_come) < DECRYPTIONS

    def _awaited(self, now_s: float) -> list[NodeId]:
        """Who was asked and is waited for before anybody else is asked."""
        return [node for node in self._in_time(now_s) if not self._presence.is_lost(node, now_s)]

    def _in_time(self, now_s: float) -> set[NodeId]:
        """Who was asked, has not answered or left, and has time to."""
        memory = self._own.memory
        return {
            node
            for node in memory.asked
            if node not in memory.decrypted
            and now_s - self._asked_s.setdefault(self._key(node), now_s) < self._deadline_s
            and not self._presence.has_left(node)
        }

    def _key(self, node: NodeId) -> tuple[bytes, NodeId]:
        return self._sum.ctx, node
