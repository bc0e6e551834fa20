"""A process dies before or after each commit of a change of members: the run goes on, under one manifest an epoch."""

from __future__ import annotations

import pytest

from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.secagg.messages import KeyAdvert, OpenEpoch, Result
from fedvlm_secure.simulate.crashes import AGGREGATOR
from fedvlm_secure.types import NodeId
from tests.support.epochs import ChangingRun, CrashInChange

MOST = 60


class Watched(ChangingRun):
    """Notes what may be stated once only."""

    def __init__(self, crash: CrashInChange) -> None:
        self.manifests: dict[int, set[bytes]] = {}
        self.keys: dict[tuple[str, bytes, int], set[bytes]] = {}
        self.results: dict[int, set[bytes]] = {}
        super().__init__("abcde", "abcd", rounds=2, tap=self._note, crashes=crash)

    def _note(self, way: str, node: NodeId, message: object) -> bool:
        match message:
            case OpenEpoch():
                self.manifests.setdefault(message.epoch, set()).add(bytes(message.manifest.run_hash))
            case KeyAdvert():
                self.keys.setdefault((node, message.run_hash, message.epoch), set()).add(message.public)
            case Result():
                self.results.setdefault(message.round, set()).add(bytes(message.state_hash))
        return True


@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.CERTIFY])
@pytest.mark.parametrize("party", [AGGREGATOR, "a", "e"])
def test_change_of_members_survives_a_crash_at_each_of_its_commits(party: str, phase: Phase) -> None:
    struck = 0
    step = 2 if party == AGGREGATOR else 1  # what is durable after one commit is what is durable before the next
    for nth in range(1, MOST, step):
        crash = CrashInChange(party, nth)
        run = Watched(crash)
        run.run_to(0, phase)
        crash.armed = True
        ask_for_new_epoch(run)
        run.change("abcde")
        run.run(lambda federation: ready(run))  # noqa: B023
        crash.armed = False
        run.run()
        run.run(lambda federation: run.agreed("abcde"))  # noqa: B023
        assert run.cohort.summaries()[-1]["survivors"] == list("abcde"), crash.struck
        for stated in (run.manifests, run.keys, run.results):
            assert all(len(values) == 1 for values in stated.values()), crash.struck
        if not crash.struck:
            break
        struck += 1
    assert 4 < struck < MOST - 1


def ask_for_new_epoch(run: Watched) -> None:
    """Until the wish is on record: an aggregator that died before is asked again."""
    while run.phase is not Phase.GATHER:
        run.federation._living(lambda: run.federation._deliver(run.federation.aggregator.new_epoch()))
        run.run(lambda federation: settled(run))


def settled(run: Watched) -> bool:
    """The aggregator is there, and either gathers or knows of no wish that it could still carry out."""
    wished = run.federation.aggregator_self.memory.epoch_wanted
    return run.federation._aggregator_up and (not wished or run.phase is Phase.GATHER)


def ready(run: Watched) -> bool:
    """Everybody is in the new epoch."""
    memories = [run.node(name).own.memory for name in "abcde"]
    return all(memory.epoch_ready and memory.manifest.start_epoch > 0 for memory in memories)
