"""A cohort under shared noise whose local work is integers: what a hospital would have summed, known to the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, Result
from fedvlm_secure.simulate.crashes import Crashes
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.network import Network
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Digest, Float32Vector, Int64Vector, NodeId
from tests.support.cohort import BASE, layout_of, numeric_policy
from tests.support.private_cohort import private_sections

ADAM: dict[str, Any] = {"name": "fedadam", "server_lr": 0.012, "tau": 2e-3, "beta1": 0.9, "beta2": 0.99}


def shared_noise_policy(
    nodes: Sequence[str], rounds: int = 1, *, algorithm: dict[str, Any] | None = None, **changes: Any
) -> Policy:
    """policies/fedavg.yaml under `distributed` for these hospitals; a dict changes a section, `privacy` included."""
    sections = private_sections(nodes, mechanism="distributed", steps_per_round=1, noise_multiplier=1.25)
    sections["local"] |= {"optimizer": "sgd", "learning_rate": 1.0}
    sections["cohort"] = {"min_nodes": len(nodes)}
    sections |= {"protection": {"lanes": "auto"}, "algorithm": algorithm or ADAM}
    for name, fields in changes.items():
        sections[name] = {**sections.get(name, {}), **fields}
    return numeric_policy(rounds=rounds, **sections)  # type: ignore[arg-type]


@dataclass
class SummedWork:
    """Hands over the same kind of clipped sum in every round: `scale` 0 is a hospital where nobody is ever drawn."""

    layout: UpdateLayout
    seed: int
    scale: float = 300.0
    base_fingerprint: Digest = BASE
    sums: dict[int, Int64Vector] = field(default_factory=dict)
    trained: int = 0

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        self.trained += 1
        drawn = np.random.default_rng([self.seed, round_number]).normal(0, 1, self.layout.dimension) * self.scale
        self.sums[round_number] = np.rint(drawn).astype(np.int64)
        nothing = np.zeros(0, dtype=np.float32)
        return LocalUpdate(nothing, 0, 0.0, 0, {}, {}, integers=self.sums[round_number].copy())

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        pass


class SharedNoiseCohort:
    """n hospitals on the real machines, and every sum that the aggregator published."""

    def __init__(
        self,
        n: int = 3,
        *,
        dimension: int = 4000,
        rounds: int = 1,
        scale: float = 300.0,
        seed: int = 0,
        network: Network | None = None,
        crashes: Crashes | None = None,
        purses: dict[NodeId, MemoryPurse] | None = None,
        policy: Policy | None = None,
        **changes: Any,
    ) -> None:
        names = [NodeId(chr(ord("a") + at)) for at in range(n)]
        self.works = {name: SummedWork(layout_of(dimension), at, scale) for at, name in enumerate(names)}
        self.policy = policy if policy is not None else shared_noise_policy(names, rounds, **changes)
        self.results: dict[int, Result] = {}
        self.published: dict[int, bytes] = {}
        self.sent: list[tuple[NodeId, NodeMessage]] = []
        self.federation = Federation(
            self.policy, self.works, seed=seed, tap=self._tap, network=network, crashes=crashes, purses=purses
        )

    def _tap(self, direction: str, node: NodeId, message: NodeMessage | AggregatorMessage) -> bool:
        if isinstance(message, Result):
            self.results[message.round] = message
            content = self.federation.blobs.get(message.sum_root)
            assert content is not None
            self.published[message.round] = bytes(content)
        if direction == "up":
            self.sent.append((node, message))  # type: ignore[arg-type]
        return True

    def total(self, round_number: int = 0) -> Int64Vector:
        """The published integer sum of a round, int64 [d]."""
        result = self.results[round_number]
        words = np.frombuffer(self.published[round_number], dtype="<u8").astype(np.uint64)
        vector = vector_of(self.federation.aggregator_self.memory.manifest)
        return vector.unpack_sum(words, len(result.survivors))[0]

    def noise(self, round_number: int = 0) -> Int64Vector:
        """What of a published sum no hospital had summed."""
        survivors = self.results[round_number].survivors
        exact: Int64Vector = np.sum([self.works[node].sums[round_number] for node in survivors], axis=0)
        return self.total(round_number) - exact
