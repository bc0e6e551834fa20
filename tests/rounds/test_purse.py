"""The budget in the protocol: asked before training, charged before the first byte, once, never given back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import NonPrivate
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.purse import Charge
from fedvlm_secure.secagg.messages import Abort, NodeMessage, UploadBundle
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Float32Vector, NodeId
from fedvlm_secure.wire.codec import to_wire
from tests.support.cohort import Cohort, NumericWork, layout_of
from tests.support.private_cohort import private_policy

VICTIM = NodeId("a")


class Killed(Exception):
    """The process is gone at this point."""


class WatchedPurse(MemoryPurse):
    """Notes what is asked; `when` may kill the process before or after a charge."""

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__(limit)
        self.asked: list[tuple[str, int]] = []
        self.closed = 0
        self.after_spend: Callable[[], None] = lambda: None

    def reserve(self, charge: Charge) -> None:
        self.asked.append(("reserve", charge.round))
        super().reserve(charge)

    def spend(self, charge: Charge) -> bool:
        self.asked.append(("spend", charge.round))
        fresh = super().spend(charge)
        self.after_spend()
        return fresh

    def close(self, run_hash: object) -> None:
        self.closed += 1


class PrivateCohort:
    """n hospitals under dp_sgd."""

    def __init__(self, n: int = 4, *, rounds: int = 2, victim: WatchedPurse | None = None, **privacy: object) -> None:
        names = [NodeId(chr(ord("a") + i)) for i in range(n)]
        self.works = {name: NumericWork(layout_of(100), seed=i) for i, name in enumerate(names)}
        self.purses = {name: WatchedPurse() for name in names}
        if victim is not None:
            self.purses[VICTIM] = victim
        self.sent: list[tuple[NodeId, NodeMessage]] = []
        self.policy = private_policy(names, rounds, **privacy)
        self.federation = Federation(self.policy, self.works, tap=self._note, purses=self.purses)

    def _note(self, direction: str, node: NodeId, message: object) -> bool:
        if direction == "up":
            self.sent.append((node, message))  # type: ignore[arg-type]
        return True

    @property
    def purse(self) -> WatchedPurse:
        return self.purses[VICTIM]

    def uploads(self, node: NodeId = VICTIM) -> list[UploadBundle]:
        return [message for sender, message in self.sent if sender == node and isinstance(message, UploadBundle)]

    def aborts(self, node: NodeId = VICTIM) -> list[str]:
        return [message.code for sender, message in self.sent if sender == node and isinstance(message, Abort)]

    def run(self, until: Callable[[Federation], bool] | Phase | None = None) -> None:
        if isinstance(until, Phase):
            phase = until
            self.federation.run(lambda federation: federation.aggregator.phase is phase)
        else:
            self.federation.run(until)


def test_every_round_is_asked_for_then_charged_once_and_the_rest_is_freed_at_the_end() -> None:
    cohort = PrivateCohort(rounds=3)
    cohort.run()
    asked = [(kind, number) for number in range(3) for kind in ("reserve", "spend")]
    assert cohort.purse.asked == asked
    assert len(cohort.purse.charges) == 3 and cohort.purse.closed == 1


def test_what_all_rounds_cost_together_is_within_the_policys_epsilon_and_not_far_below() -> None:
    cohort = PrivateCohort(rounds=2)
    cohort.run()
    assert 7.9 < cohort.purse.spent() <= 8.0


def test_a_node_whose_budget_ends_leaves_before_it_trains_and_the_others_go_on() -> None:
    # of two rounds that cost 8 together the first costs above 5: the second does not fit into 7
    cohort = PrivateCohort(rounds=2, victim=WatchedPurse(limit=7.0))
    cohort.run()
    assert set(cohort.aborts()) == {"BUDGET_EXHAUSTED"}
    assert len(cohort.works[VICTIM].updates) == len(cohort.uploads()) == len(cohort.purse.charges) == 1
    survivors = [summary["survivors"] for summary in cohort.federation.aggregator_self.memory.summaries]
    assert survivors == [["a", "b", "c", "d"], ["b", "c", "d"]]
    assert cohort.federation.nodes[VICTIM].stopped


def test_the_message_that_a_budget_is_exhausted_has_no_balance_in_it() -> None:
    cohort = PrivateCohort(rounds=1, victim=WatchedPurse(limit=0.5))
    cohort.run()
    abort = next(message for node, message in cohort.sent if node == VICTIM and isinstance(message, Abort))
    assert not any(character.isdigit() for character in abort.cause + abort.hint)
    assert cohort.works[VICTIM].updates == [] and cohort.purse.charges == {}


def test_limit_lowered_while_the_hospital_trains_keeps_the_update_at_home() -> None:
    cohort = PrivateCohort(rounds=1)
    train = cohort.works[VICTIM].train

    def lowered(round_number: int, state: Float32Vector) -> object:
        cohort.purse.limit = 0.1
        return train(round_number, state)

    cohort.works[VICTIM].train = lowered  # type: ignore[method-assign,assignment]
    cohort.run()
    assert cohort.aborts() == ["BUDGET_EXHAUSTED"]
    assert cohort.uploads() == [] and cohort.purse.charges == {}
    assert cohort.federation.nodes[VICTIM].own.memory.journal.get("round/integers") is None


def test_a9_crash_between_charge_and_first_byte_is_charged_once_and_sent_once() -> None:
    cohort = PrivateCohort(rounds=1)

    def die() -> None:
        cohort.purse.after_spend = lambda: None
        raise Killed

    cohort.purse.after_spend = die
    with pytest.raises(Killed):
        cohort.run()
    assert len(cohort.purse.charges) == 1 and cohort.uploads() == []
    cohort.federation.drop(VICTIM)
    cohort.federation.connect(VICTIM)
    cohort.run()
    assert len(cohort.purse.charges) == 1 and len(cohort.uploads()) == 1
    assert cohort.federation.aggregator_self.memory.summaries[0]["survivors"] == ["a", "b", "c", "d"]


def test_a9_the_charge_is_durable_before_the_journal_holds_anything_that_could_be_sent() -> None:
    cohort = PrivateCohort(rounds=1)
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        journal = cohort.federation.nodes[VICTIM].own.memory.journal
        seen.append((journal.get("round/content") is not None, journal.get("run/charge") is not None))

    cohort.purse.after_spend = look
    cohort.run()
    assert seen == [(False, True)]


@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.SIGN, Phase.REVEAL])
def test_a9_victim_that_is_killed_after_its_upload_stays_charged(phase: Phase) -> None:
    """Whether it is never shown the survivors, or killed before it signs: others may have opened its update."""
    cohort = PrivateCohort(rounds=1)
    cohort.run(lambda f: VICTIM in f.aggregator_self.memory.bundles and f.aggregator.phase is phase)
    cohort.federation.drop(VICTIM)
    cohort.run()
    assert len(cohort.purse.charges) == 1
    cohort.federation.connect(VICTIM)
    assert len(cohort.purse.charges) == 1


def test_a_second_attempt_of_a_round_shares_the_charge_and_the_integers() -> None:
    cohort = PrivateCohort(4, rounds=1)
    cohort.run(Phase.SIGN)
    before = cohort.federation.nodes[VICTIM].own.memory.journal.get("round/integers")
    cohort.federation.drop(NodeId("b"))  # with c and d gone no set gathers enough signatures
    cohort.federation.drop(NodeId("c"))
    cohort.run(lambda f: f.aggregator_self.memory.plan.attempt == 1)
    for node in (NodeId("b"), NodeId("c")):
        cohort.federation.connect(node)
    cohort.run()
    assert len(cohort.uploads()) == 2 and len(cohort.purse.charges) == 1
    assert before is not None and len(cohort.works[VICTIM].updates) == 1


def test_a9_journal_that_was_wiped_does_not_release_a_charged_round_again() -> None:
    cohort = PrivateCohort(rounds=1)
    cohort.run(lambda f: len(cohort.uploads()) == 1)
    own = cohort.federation.nodes[VICTIM].own
    run = own.memory.manifest.run_hash
    wiped = PrivateCohort(rounds=1, victim=cohort.purse)
    wiped.run()
    assert wiped.federation.nodes[VICTIM].own.memory.manifest.run_hash == run  # the same run, an empty journal
    assert wiped.aborts() == ["ROUND_CHARGED"] and wiped.uploads() == []
    assert len(wiped.purse.charges) == 1


def test_a9_new_epoch_inside_a_round_does_not_release_it_again() -> None:
    cohort = PrivateCohort(rounds=1)
    cohort.run(lambda f: len(cohort.uploads()) == 1)
    memory = cohort.federation.nodes[VICTIM].own.memory
    plan = memory.plan
    assert plan is not None and memory.charged == (0, True)
    memory.commit({}, ["round/plan", "round/integers", "round/scalars", "round/bundle", "round/content"])
    cohort.federation.connect(VICTIM)
    node = cohort.federation.nodes[VICTIM]
    assert node.run.receive(plan) == ()
    assert len(cohort.works[VICTIM].updates) == 1


def test_a_run_without_mechanism_marks_the_population_and_charges_nothing() -> None:
    cohort = Cohort(3, rounds=1)
    cohort.run()
    purse = cohort.federation.purses[VICTIM]
    assert len(purse.unprotected) == 1 and purse.charges == {}
    assert math.isinf(epsilon(NonPrivate(), 1e-5))


def test_a15_ten_times_the_data_sends_the_same_bytes_and_no_number_but_the_public_weight() -> None:
    cohort = PrivateCohort(4, rounds=1)
    cohort.works[VICTIM].rows = 1000
    cohort.run()
    sizes: dict[str, set[int]] = {}
    for _, message in cohort.sent:
        sizes.setdefault(type(message).__name__, set()).add(len(to_wire(message)))
    assert {"UploadBundle", "SurvivorSignature", "Reveal", "ResultAck"} <= sizes.keys()
    assert all(len(lengths) == 1 for lengths in sizes.values())
    vectors = {bundle.header.words for node in cohort.works for bundle in cohort.uploads(node)}
    assert len(vectors) == 1
    assert cohort.federation.aggregator_self.memory.manifest.scalars == ("weight",)
    journal = cohort.federation.nodes[VICTIM].own.memory.journal
    assert isinstance(journal, MemoryJournal)
    total = cohort.federation.aggregator_self.memory.summaries[0]
    assert (total["weight"], total["loss"], total["tasks"]) == (4.0, None, {})
    mean = np.mean([work.updates[0] for work in cohort.works.values()], axis=0)
    assert mean.shape == (100,)


def test_every_party_resolves_the_same_noise_and_it_stands_in_the_manifest() -> None:
    cohort = PrivateCohort(rounds=2)
    cohort.run()
    manifests = {simulated.own.memory.manifest for simulated in cohort.federation.nodes.values()}
    assert len(manifests) == 1
    assert manifests.pop().noise_multiplier > 0.5
