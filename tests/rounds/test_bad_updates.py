"""Local training that went wrong: one clear error, nothing leaves the hospital, the others go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from fedvlm_secure.errors import ModelError
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort, NumericWork

BROKEN = NodeId("a")


def spoilt(value: float) -> Callable[[LocalUpdate], LocalUpdate]:
    def spoil(good: LocalUpdate) -> LocalUpdate:
        update = good.update.copy()
        update[7] = value
        return dataclasses.replace(good, update=update)

    return spoil


UPDATES: list[tuple[str, Callable[[LocalUpdate], LocalUpdate], str]] = [
    ("NaN", spoilt(float("nan")), "NON_FINITE_UPDATE"),
    ("infinity", spoilt(float("inf")), "NON_FINITE_UPDATE"),
    ("zero", lambda good: dataclasses.replace(good, update=np.zeros_like(good.update)), "ZERO_UPDATE"),
    ("loss NaN", lambda good: dataclasses.replace(good, loss_sum=float("nan")), "NON_FINITE_LOSS"),
    ("loss infinite", lambda good: dataclasses.replace(good, loss_sum=float("inf")), "NON_FINITE_LOSS"),
    ("loss negative", lambda good: dataclasses.replace(good, loss_sum=-1.0), "NON_FINITE_LOSS"),
    ("loss past its word", lambda good: dataclasses.replace(good, loss_sum=2.0**32), "NON_FINITE_LOSS"),
]


@pytest.mark.parametrize(("spoil", "code"), [row[1:] for row in UPDATES], ids=[row[0] for row in UPDATES])
def test_update_that_cannot_be_sent_is_one_clear_error_and_nothing_leaves(
    spoil: Callable[[LocalUpdate], LocalUpdate], code: str
) -> None:
    cohort = Cohort(4, dimension=20)
    cohort.run(until=Phase.UPLOAD)
    simulated = cohort.federation.nodes[BROKEN]
    plan = cohort.federation.aggregator_self.memory.plan
    simulated.inbox.clear()
    for message in (cohort.federation.aggregator_self.memory.ready, plan):
        assert message is not None
        simulated.run.receive(message)
    journal = simulated.own.memory.journal
    assert isinstance(journal, MemoryJournal)
    before = dict(journal.content)
    with pytest.raises(ModelError) as caught:
        simulated.run.trained(0, spoil(simulated.work.train(0, simulated.own.memory.state.model)))
    assert caught.value.code == code
    assert caught.value.hint
    assert journal.content == before
    if code == "NON_FINITE_UPDATE":
        assert "connector.weight" in caught.value.cause
    assert NodeRun(simulated.own).receive(plan)  # and after a restart it may train again


def test_round_goes_on_without_the_node_whose_training_failed() -> None:
    cohort = Cohort(4, rounds=1)
    cohort.works[BROKEN].train = lambda round_number, state: spoilt(float("nan"))(  # type: ignore[method-assign]
        NumericWork(cohort.works[BROKEN].layout, 9).train(round_number, state)
    )
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == list("bcd")
    assert cohort.federation.nodes[BROKEN].own.memory.upload is None
