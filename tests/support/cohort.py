"""A cohort of hospitals whose local work is numbers: protocol tests need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.crashes import Crashes
from fedvlm_secure.simulate.federation import Federation, Tap
from fedvlm_secure.simulate.network import Network
from fedvlm_secure.types import Digest, Float32Vector, NodeId

POLICIES = Path(__file__).parents[2] / "policies"
BASE = Digest(bytes(range(32)))


def numeric_policy(**changes: dict[str, object]) -> Policy:
    """policies/fedavg.yaml with sections overridden, for numeric work on BASE."""
    policy = load_policy(POLICIES / "fedavg.yaml")
    values = policy.model_dump()
    values["model"]["base"]["sha256"] = BASE.hex()
    for section, fields in changes.items():
        if isinstance(fields, dict) and isinstance(values.get(section), dict) and section != "weights":
            values[section] |= fields  # `weights` is one of several kinds: never two mixed
        else:
            values[section] = fields
    return Policy.model_validate(values)


@dataclass
class NumericWork:
    """Local work that returns a known update each round."""

    layout: UpdateLayout
    seed: int
    rows: int = 100
    base_fingerprint: Digest = BASE
    evaluated: list[tuple[int, bool]] = field(default_factory=list)
    updates: list[Float32Vector] = field(default_factory=list)
    updates_by_round: dict[int, Float32Vector] = field(default_factory=dict)

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        rng = np.random.default_rng([self.seed, round_number])
        update = rng.normal(0, 0.05, self.layout.dimension).astype(np.float32)
        self.updates.append(update)
        self.updates_by_round[round_number] = update
        return LocalUpdate(update, self.rows, 2.0 * self.rows, self.rows, {"vqa": 3}, {"vqa": 4})

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        self.evaluated.append((closed_rounds, last))


def layout_of(dimension: int) -> UpdateLayout:
    return UpdateLayout((TensorSlot("connector.weight", (dimension,)),))


class Cohort:
    """n numeric hospitals, named a, b, c, ..., in one simulated federation."""

    def __init__(
        self,
        n: int,
        *,
        dimension: int = 100,
        rounds: int = 1,
        seed: int = 0,
        tap: Tap | None = None,
        network: Network | None = None,
        crashes: Crashes | None = None,
        training_s: float = 0.0,
        **changes: dict[str, object],
    ) -> None:
        names = [NodeId(chr(ord("a") + i) if n <= 26 else f"node-{i:03d}") for i in range(n)]
        layout = layout_of(dimension)
        self.works = {name: NumericWork(layout, seed=i) for i, name in enumerate(names)}
        self.policy = numeric_policy(**{"rounds": rounds, **changes})  # type: ignore[arg-type]
        self.federation = Federation(
            self.policy,
            self.works,
            seed=seed,
            tap=tap,
            network=network,
            crashes=crashes,
            training_s=training_s,
        )

    @property
    def phase(self) -> Phase:
        return self.federation.aggregator.phase

    def run(self, until: Phase | Callable[[Federation], bool] | None = None) -> None:
        """Until a phase is reached, a condition holds, or the run is over."""
        if isinstance(until, Phase):
            phase = until
            self.federation.run(lambda federation: federation.aggregator.phase is phase)
        else:
            self.federation.run(until)

    def summaries(self) -> Sequence[dict[str, object]]:
        return self.federation.aggregator_self.memory.summaries

    def mean_update(self, round_number: int, over: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
        """Plain float64 mean of the survivors' updates of a round (equal rows)."""
        return np.mean([self.works[NodeId(n)].updates[round_number].astype(np.float64) for n in over], axis=0)

    def updates_of(self, round_number: int) -> dict[NodeId, Float32Vector]:
        """Of every hospital that trained in a round, whether or not its update came into the sum."""
        made = {node: work.updates_by_round.get(round_number) for node, work in self.works.items()}
        return {node: update for node, update in made.items() if update is not None}
