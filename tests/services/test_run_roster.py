"""A run goes on with the members that it has, whoever is admitted or removed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.epochs import run_roster
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.private_file import make_private_folder
from fedvlm_secure.policy.roster import AggregatorKeys, Member, Roster
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase
from fedvlm_secure.secagg.record import record_bytes
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, NodeId
from tests.support.cohort import Cohort
from tests.support.entropy import secret


def roster(names: str, renewed: str = "") -> Roster:
    def key(name: str) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        label = f"{name}+" if name in renewed else name
        return Ed25519PrivateKey.from_private_bytes(secret(label).reveal()).public_key().public_bytes_raw()

    members = tuple(Member(NodeId(name), key(name), Digest(secret(f"{name}/tls").reveal())) for name in names)
    return Roster("trial", AggregatorKeys(key("aggregator"), Digest(secret("tls").reveal())), members)


@pytest.fixture
def open_run() -> AggregatorMemory:
    cohort = Cohort(4, dimension=20)
    cohort.run(Phase.UPLOAD)
    opened = cohort.federation.aggregator_self.memory.opened
    assert opened is not None
    journal = MemoryJournal()
    journal.commit({"open": record_bytes(opened), "phase": b"upload"})
    return AggregatorMemory(journal)


def test_members_of_a_run_stay_until_another_epoch_is_asked_for(tmp_path: Path, open_run: AggregatorMemory) -> None:
    make_private_folder(tmp_path / "state")
    state, gathering = tmp_path / "state", AggregatorMemory(MemoryJournal())
    assert run_roster(state, roster("abcd"), gathering, new_epoch=False) == (roster("abcd"), None)
    assert run_roster(state, roster("abcd"), open_run, new_epoch=False) == (roster("abcd"), None)
    changed = roster("bcde", renewed="c")
    kept, change = run_roster(state, changed, open_run, new_epoch=False)
    assert kept == roster("abcd")
    assert change is not None
    assert (change.added, change.removed, change.replaced) == (("e",), ("a",), ("c",))
    assert run_roster(state, changed, open_run, new_epoch=True) == (changed, None)
    assert run_roster(state, changed, open_run, new_epoch=False) == (changed, None)


def test_roster_of_a_run_that_was_altered_is_refused(tmp_path: Path, open_run: AggregatorMemory) -> None:
    make_private_folder(tmp_path / "state")
    (tmp_path / "state" / "roster.toml").write_text("version = 2\n")
    with pytest.raises(PolicyError) as caught:
        run_roster(tmp_path / "state", roster("abcd"), open_run, new_epoch=False)
    assert caught.value.code == "ROSTER_INVALID"
