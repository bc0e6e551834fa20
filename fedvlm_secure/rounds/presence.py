"""Presence: who is connected, who has been silent too long. In memory only: a restart waits for everybody."""

from __future__ import annotations

from collections.abc import Container, Iterable

from fedvlm_secure.types import NodeId

RECONNECT_S = 10.0
"""A dead connection counts as lost after this long, unless the node resumes."""


class Presence:
    """Args:
    deadline_s: longest silence (no byte, step or heartbeat) before a connected node counts as lost.
    nodes: members that are waited for from the start, as if they had just gone.
    mute: who cannot answer in the epoch that is open, connected or not; see `Renewed`.
    """

    def __init__(
        self, deadline_s: float, nodes: Iterable[NodeId], now_s: float, mute: Container[NodeId] = frozenset()
    ) -> None:
        self._mute = mute
        self._deadline_s = deadline_s
        self._heard_s = dict.fromkeys(nodes, now_s)
        self._gone_s: dict[NodeId, float] = dict.fromkeys(self._heard_s, now_s)
        self._connected_s = dict(self._heard_s)

    def connected(self, node: NodeId, now_s: float) -> None:
        self._gone_s.pop(node, None)
        self._heard_s[node] = self._connected_s[node] = now_s

    def disconnected(self, node: NodeId, now_s: float) -> None:
        self._gone_s.setdefault(node, now_s)

    def heard(self, node: NodeId, now_s: float) -> None:
        self._heard_s[node] = now_s

    def is_connected(self, node: NodeId) -> bool:
        return node in self._heard_s and node not in self._gone_s

    def is_lost(self, node: NodeId, now_s: float) -> bool:
        """Not to be waited for any longer."""
        if node in self._mute:
            return True
        gone_s = self._gone_s.get(node)
        if gone_s is not None:
            return now_s - gone_s >= min(RECONNECT_S, self._deadline_s)
        heard_s = self._heard_s.get(node)
        return heard_s is None or now_s - heard_s >= self._deadline_s

    def connected_nodes(self) -> tuple[NodeId, ...]:
        return tuple(sorted(node for node in self._heard_s if node not in self._gone_s))

    def left(self, node: NodeId) -> None:
        """The node said that it leaves: lost at once."""
        self._gone_s[node] = float("-inf")

    def has_left(self, node: NodeId) -> bool:
        """Whether the node said that it leaves, and has not come back."""
        return self._gone_s.get(node) == float("-inf")

    def still_expected(self, nodes: Iterable[NodeId], answered: set[NodeId], now_s: float) -> set[NodeId]:
        """Who has not answered and is to be waited for."""
        return {node for node in nodes if node not in answered and not self.is_lost(node, now_s)}

    def hoped_for(self, nodes: Iterable[NodeId], now_s: float, phase_s: float) -> set[NodeId]:
        """Who may still answer in a phase: heard of within the deadline, which starts anew with each phase.

        Args:
            phase_s: when the phase began.
        """
        in_phase_s = now_s - phase_s
        may_answer = (node for node in nodes if node not in self._mute)
        return {node for node in may_answer if min(self.silence_s(node, now_s), in_phase_s) < self._deadline_s}

    def had_time(self, node: NodeId, now_s: float, phase_s: float) -> bool:
        """Whether a node was connected for the whole deadline since it was told what a phase asks of it."""
        since_s = max(phase_s, self._connected_s.get(node, phase_s))
        return self.is_connected(node) and now_s - since_s >= self._deadline_s

    def silence_s(self, node: NodeId, now_s: float) -> float:
        """Seconds since the node was last heard of."""
        if node in self._mute:
            return float("inf")
        return now_s - self._heard_s.get(node, float("-inf"))
