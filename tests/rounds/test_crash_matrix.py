"""The crash matrix: a process killed at each instant at which something becomes durable, at either side and at both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.simulate.crashes import AGGREGATOR, CrashAt
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort
from tests.support.private_cohort import private_sections
from tests.support.witness import Witness, sums_are_exact

NODES = "abcd"
VICTIM = NodeId("b")
GRID = 2.0**-15


class Roll:
    """Strikes nobody; counts how often a run comes to each crash point."""

    def __init__(self) -> None:
        self.met: dict[str, Counter[str]] = {}

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        depth = 1 if party == AGGREGATOR else 2  # `bundle/a` and `bundle/b` are one point, `round/plan` is another
        names = {"/".join(point.split("/")[:depth]) for point in points}
        self.met.setdefault(party, Counter()).update(names)
        return None


class Both:
    """The two parties of a double crash."""

    def __init__(self, *crashes: CrashAt) -> None:
        self.crashes = crashes

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        named = tuple(points)
        struck = [one.strikes(party, named) for one in self.crashes]
        return next((point for point in struck if point is not None), None)


def cohort_with(crashes: object, witness: Witness) -> Cohort:
    cohort = Cohort(
        len(NODES),
        rounds=2,
        dimension=20,
        tap=witness.tap,
        crashes=crashes,  # type: ignore[arg-type]
        cohort={"epoch_rounds": 1, "deadline": 60},
        **private_sections(NODES),
    )
    witness.watch(cohort.federation)
    return cohort


def crash_points(party: str) -> list[CrashAt]:
    """The first and the last visit to every instant of a run of two rounds and two epochs at which something becomes
    durable at `party`."""
    roll = Roll()
    cohort_with(roll, Witness()).run()
    return [
        CrashAt(party, point, nth) for point, count in sorted(roll.met[party].items()) for nth in sorted({1, count})
    ]


def survive(*crashes: CrashAt) -> Cohort:
    """Run with these crashes; all promises hold and both rounds close over all four hospitals, with the exact sum."""
    witness = Witness()
    cohort = cohort_with(Both(*crashes), witness)
    try:
        cohort.run()
    except RunAborted as abort:
        abort.add_note(f"killed at {crashes}")
        raise
    assert all(crash.struck for crash in crashes), f"never came to {crashes}"
    witness.check_end(cohort.federation)
    sums_are_exact(cohort.federation, {number: cohort.updates_of(number) for number in range(2)}, GRID)
    assert [summary["survivors"] for summary in cohort.summaries()] == [list(NODES)] * 2
    return cohort


def test_hospital_killed_at_any_instant_comes_back_and_is_in_both_sums() -> None:
    points = crash_points(VICTIM)
    assert len(points) > 40
    for point in points:
        cohort = survive(point)
        assert {number for _, number in cohort.federation.purses[VICTIM].charges} == {0, 1}, point


def test_aggregator_killed_at_any_instant_goes_on_with_the_same_model() -> None:
    points = crash_points(AGGREGATOR)
    assert len(points) > 40
    for point in points:
        survive(point)


def test_both_killed_in_one_run_go_on() -> None:
    nodes, aggregators = crash_points(VICTIM), crash_points(AGGREGATOR)
    for at, node in enumerate(nodes):
        other = aggregators[at * len(aggregators) // len(nodes)]
        survive(replace(node), replace(other))
