"""A schedule: one run of a numeric cohort in which a seed decides who dies when and what the network does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.crashes import CrashesByChance
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.network import RoughNetwork, Weather
from tests.support.cohort import Cohort
from tests.support.private_cohort import private_sections
from tests.support.witness import Witness, sums_are_exact

ROUNDS = 3
STORM_S = 400.0
CALM_S = 2_000.0
GRID = 4096 / 100 * 2.0**-15  # a grid step of the three-lane format, at a counted weight of 100/4096
GRID_EQUAL = 2.0**-15


@dataclass(frozen=True)
class Outcome:
    """How a schedule ended: "finished", "waiting" for approvals, or the code of a clean early end."""

    end: str
    closed: int
    crashes: int


def run_schedule(seed: int, protection: str = "masking") -> Outcome:
    """Run it: first a storm, then calm weather in which everybody is connected anew.

    Raises:
        AssertionError: a promise of the protocol was broken.
        RunAborted: SIMULATION_STUCK, the run did not end in calm weather.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 8))
    private = bool(rng.integers(2))
    weather = Weather(
        delay_s=float(rng.choice([0.02, 0.5, 3.0])),
        cut=float(rng.choice([0.0, 0.02, 0.08])),
        reconnect_s=float(rng.choice([1.0, 6.0, 20.0, 60.0])),
        overtake=bool(rng.random() < 0.3),
    )
    network = RoughNetwork(rng, weather)
    crashes = CrashesByChance(rng, float(rng.choice([0.01, 0.03, 0.1])), int(rng.integers(0, 12)))
    witness = Witness()
    cohort = Cohort(
        n,
        dimension=20,
        rounds=ROUNDS,
        seed=seed,
        tap=witness.tap,
        network=network,
        crashes=crashes,
        training_s=float(rng.choice([0.0, 5.0])),
        cohort={"epoch_rounds": int(rng.choice([2, 50])), "deadline": 60},
        protection={"method": protection},
        **(private_sections([chr(ord("a") + i) for i in range(n)]) if private else {}),
    )
    federation = cohort.federation
    witness.watch(federation)
    try:
        federation.run(lambda f: f.over or f.now_s > STORM_S)
        network.calm()
        for node, simulated in federation.nodes.items():
            if simulated.alive:
                federation.cut(node)
        federation.run(_nobody_goes_on, limit_s=federation.now_s + CALM_S)
    except RunAborted as abort:
        if abort.code == "SIMULATION_STUCK":
            raise
    witness.check_end(federation)
    updates = {number: cohort.updates_of(number) for number in range(ROUNDS)}
    if federation.aggregator_self.memory.opened is not None:
        sums_are_exact(federation, updates, GRID_EQUAL if private else GRID)
    abort = federation.aggregator_self.memory.abort
    end = "finished" if abort is None else abort.code
    if federation.aggregator.phase is Phase.GATHER:
        end = "waiting"  # an epoch's set-up failed: its members approve again and start, or the coordinator gives up
    return Outcome(end, len(cohort.summaries()), len(crashes.struck))


def _nobody_goes_on(federation: Federation) -> bool:
    return federation.over or all(simulated.stopped for simulated in federation.nodes.values())
