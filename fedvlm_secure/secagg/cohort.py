"""Cohort: the constants of an epoch and the context of one attempt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedvlm_secure.canonical import digest
from fedvlm_secure.types import Digest, NodeId


@dataclass(frozen=True)
class Cohort:
    """The epoch's roster and thresholds.

    Args:
        nodes: ids, sorted.
        colluding: c, nodes that may collude with the aggregator, be cloned or restored.
        threshold: t = (n + c) // 2 + 1.
        min_survivors: a sum over fewer is never signed.
    """

    nodes: tuple[NodeId, ...]
    colluding: int
    threshold: int
    min_survivors: int

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if list(self.nodes) != sorted(set(self.nodes)):
            raise ValueError("a cohort's nodes are distinct and sorted")
        if n < 3:
            raise ValueError("fewer than three nodes: each would learn the other's update")
        if self.threshold != (n + self.colluding) // 2 + 1 or self.threshold > n:
            raise ValueError("the threshold is not (n + c) // 2 + 1")
        if not max(self.threshold, self.colluding + 2, 3) <= self.min_survivors <= n:
            raise ValueError("min_survivors outside its bounds")

    @cached_property
    def index(self) -> dict[NodeId, int]:
        return {node: i for i, node in enumerate(self.nodes)}

    def peers(self, node: NodeId) -> tuple[NodeId, ...]:
        """Everybody else, in roster order."""
        return tuple(other for other in self.nodes if other != node)

    def dropped(self, survivors: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """D = roster less S."""
        kept = set(survivors)
        return tuple(node for node in self.nodes if node not in kept)


def context(
    *,
    roster_hash: Digest,
    round_number: int,
    attempt: int,
    state_hash: Digest,
    previous_result: Digest,
    protection: str,
    lanes_per_word: int,
    cohort: Cohort,
) -> Digest:
    """`ctx`: everything an attempt depends on; it goes into every key, AAD and signature of the attempt."""
    return digest(
        "ctx",
        roster_hash,
        round_number,
        attempt,
        state_hash,
        previous_result,
        protection,
        lanes_per_word,
        len(cohort.nodes),
        cohort.threshold,
        cohort.colluding,
        cohort.min_survivors,
    )
