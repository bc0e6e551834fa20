"""The crash matrix of homomorphic mode: a process killed at each instant at which something becomes durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.simulate.crashes import AGGREGATOR, CrashAt
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort
from tests.support.private_cohort import private_sections
from tests.support.witness import Witness, sums_are_exact

NODES = "abcd"
GRID = 2.0**-15
MAKER, OTHER = "a", "c"
"""`a` makes the key and decrypts; `c` does neither."""


class Roll:
    """Strikes nobody; counts how often a party comes to each crash point."""

    def __init__(self, party: str) -> None:
        self.party, self.met = party, Counter[str]()

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        depth = 1 if party == AGGREGATOR else 2
        if party == self.party:
            self.met.update({"/".join(point.split("/")[:depth]) for point in points})
        return None


def cohort_with(crashes: object, witness: Witness, **changes: Any) -> Cohort:
    sections = {"cohort": {"deadline": 60}, **private_sections(NODES), **changes}
    cohort = Cohort(
        len(NODES),
        rounds=2,
        dimension=20,
        tap=witness.tap,
        crashes=crashes,  # type: ignore[arg-type]
        protection={"method": "bfv"},
        **sections,
    )
    witness.watch(cohort.federation)
    return cohort


def crash_points(party: str) -> list[CrashAt]:
    """The first visit of `party` to every instant of a run of two rounds."""
    roll = Roll(party)
    cohort_with(roll, Witness()).run()
    return [CrashAt(party, point) for point in sorted(roll.met)]


def survive(crash: CrashAt) -> Cohort:
    """Run with this crash; all promises hold, and each round closes with the exact sum of its survivors."""
    witness = Witness()
    cohort = cohort_with(crash, witness)
    try:
        cohort.run()
    except RunAborted as abort:
        abort.add_note(f"killed at {crash}")
        raise
    assert crash.struck, f"never came to {crash}"
    witness.check_end(cohort.federation)
    assert [summary["void"] for summary in cohort.summaries()] == [False, False], crash
    sums_are_exact(cohort.federation, {number: cohort.updates_of(number) for number in range(2)}, GRID)
    assert cohort.summaries()[0]["survivors"] == list(NODES), crash
    return cohort


@pytest.mark.parametrize("victim", [MAKER, OTHER])
def test_hospital_killed_at_any_instant_comes_back_unless_it_was_decrypting(victim: str) -> None:
    """Between spending the right to decrypt and its settling nobody can tell a crash from a failure: burnt."""
    points = crash_points(victim)
    assert len(points) > 25
    burnt = []
    for point in points:
        cohort = survive(point)
        last = cohort.summaries()[1]["survivors"]
        if last != list(NODES):
            burnt.append(point.point)
            assert last == [name for name in NODES if name != victim]
            assert cohort.federation.nodes[NodeId(victim)].run._he.burnt
    pending = ["after epoch/he-state", "after run/decrypted", "before round/sum", "before round/sum-bundle"]
    assert set(burnt) <= {*pending, "before round/sum-root"}
    assert bool(burnt) == (victim == MAKER)


def test_aggregator_killed_at_any_instant_goes_on_with_the_same_model() -> None:
    points = crash_points(AGGREGATOR)
    assert len(points) > 40
    for point in points:
        assert survive(point).summaries()[1]["survivors"] == list(NODES), point


def test_decryptor_that_died_decrypting_takes_part_again_with_the_next_epoch() -> None:
    crash = CrashAt(MAKER, "after run/decrypted")
    cohort = cohort_with(crash, Witness(), cohort={"deadline": 60, "epoch_rounds": 1})
    federation = cohort.federation
    cohort.run(until=lambda f: f.nodes[NodeId(MAKER)].stopped)
    assert crash.struck
    cohort.run(until=lambda f: f.aggregator_self.memory.opened_at == 1)
    federation.connect(NodeId(MAKER))
    cohort.run()
    assert cohort.summaries()[1]["survivors"] == list(NODES)
    assert not federation.nodes[NodeId(MAKER)].own.memory.key_state.burnt
