"""What a change of members costs: spent stays spent, the old reservation is freed, the rest is reserved anew."""

from __future__ import annotations

import dataclasses

from fedvlm_secure.policy.private_release import run_event
from fedvlm_secure.rounds.purse import Charge
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Digest
from tests.support.epochs import ChangingRun
from tests.support.private_cohort import private_sections

ROUNDS = 3


class RecordingPurse(MemoryPurse):
    """Notes what was asked for and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved: list[Charge] = []
        self.closed: list[Digest] = []

    def reserve(self, charge: Charge) -> None:
        self.reserved.append(charge)
        super().reserve(charge)

    def close(self, run_hash: Digest) -> None:
        self.closed.append(run_hash)


def test_abandoned_round_is_charged_again_and_only_what_is_left_is_reserved() -> None:
    run = ChangingRun("abcde", "abcd", rounds=ROUNDS, **private_sections("abcde"))
    for name in "abcde":
        run.node(name).own = dataclasses.replace(run.node(name).own, purse=RecordingPurse())
    run.restart_with("abcd")
    run.connect("abcd")
    run.run_to(1)
    run.run(lambda federation: len(run.federation.nodes["a"].own.purse.charges) == 2)  # type: ignore[index, attr-defined]
    first = run.federation.aggregator_self.memory.manifest
    run.change("abcde")
    run.run()
    second = run.federation.aggregator_self.memory.manifest
    purse, joined = run.node("a").own.purse, run.node("e").own.purse
    assert isinstance(purse, RecordingPurse)
    assert isinstance(joined, RecordingPurse)
    assert sorted(number for run_hash, number in purse.charges if run_hash == first.run_hash) == [0, 1]
    assert sorted(number for run_hash, number in purse.charges if run_hash == second.run_hash) == [1, 2]
    assert sorted(number for _, number in joined.charges) == [1, 2]
    assert purse.closed[0] == first.run_hash
    policy, left = run.cohort.policy, [charge for charge in purse.reserved if charge.run_hash == second.run_hash]
    expected = run_event(policy, second.noise_multiplier, second.dimension, ROUNDS, first=1)
    assert {charge.whole for charge in left} == {expected}
