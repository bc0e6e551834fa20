"""States in journals: written ahead in chunks, read where they lie, the same bytes as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.fl.state import ServerState, State
from fedvlm_secure.rounds.journal_records import JournalRecords
from fedvlm_secure.rounds.states import enter_state, state_in
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.rounds.vectors import Drafted, HeldVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.store.journal import SqliteJournal

JOURNALS: dict[str, Callable[[Path], Journal]] = {"sqlite": SqliteJournal, "memory": lambda _: MemoryJournal()}


def state_of(dimension: int) -> ServerState:
    rng = np.random.default_rng(dimension)
    return ServerState(rng.standard_normal(dimension, dtype=np.float32), {"m": rng.standard_normal(dimension)}, {})


SMALL, LARGE = state_of(1000), state_of(300_000)  # 12 kB, and 3.4 chunks


@pytest.mark.parametrize("state", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", JOURNALS)
def test_state_is_committed_and_read_as_its_one_encoding(tmp_path: Path, kind: str, state: ServerState) -> None:
    records = JournalRecords(JOURNALS[kind](tmp_path))
    records.commit({"run/state": state, "beside": b"x"})
    assert records.journal.get("run/state") == state.to_bytes() and records.journal.get("beside") == b"x"
    vector, held = records.journal.vector("run/state"), records.state_at("run/state")
    assert vector is not None and vector.root == chunk_root(state.to_bytes())
    assert held.digest == state.digest
    assert np.array_equal(held.model, state.model) and np.array_equal(held.load().slots["m"], state.slots["m"])


@pytest.mark.parametrize("state", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", JOURNALS)
def test_state_committed_as_bytes_by_an_earlier_version_is_read_alike(
    tmp_path: Path, kind: str, state: ServerState
) -> None:
    records = JournalRecords(JOURNALS[kind](tmp_path))
    records.commit({"run/state": state.to_bytes()})
    assert records.state_at("run/state").digest == state.digest


@pytest.mark.parametrize("kind", JOURNALS)
def test_state_moves_from_key_to_key_and_outlives_the_first(tmp_path: Path, kind: str) -> None:
    records = JournalRecords(JOURNALS[kind](tmp_path))
    records.commit({"next-state": LARGE, "state": SMALL})
    records.commit({"state": records.state_at("next-state")})
    records.commit({}, ["next-state"])
    assert records.journal.get("state") == LARGE.to_bytes() and records.journal.get("next-state") is None
    with pytest.raises(ValueError, match="no state"):
        records.state_at("next-state")


def test_state_of_a_key_that_was_overwritten_is_gone_and_no_other_state(tmp_path: Path) -> None:
    records = JournalRecords(SqliteJournal(tmp_path))
    records.commit({"state": LARGE})
    before = records.state_at("state")
    records.commit({"state": state_of(300_001)})
    with pytest.raises(ValueError, match="erased"):
        _ = before.digest


def test_small_state_is_a_row_and_a_large_one_a_draft(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    assert enter_state(journal, SMALL) == SMALL.to_bytes()
    drafted = enter_state(journal, LARGE)
    assert isinstance(drafted, Drafted) and drafted.root == chunk_root(LARGE.to_bytes())


def test_nothing_is_kept_of_a_state_that_could_not_be_read_to_its_end(tmp_path: Path) -> None:
    class Lost(HeldVector):
        def chunk(self, index: int) -> bytes | None:
            return None if index == 2 else super().chunk(index)

    journal = SqliteJournal(tmp_path)
    records = JournalRecords(journal)
    records.commit({"state": LARGE})
    before = sorted(path.name for path in tmp_path.iterdir())
    broken: State = state_in(Lost(state_of(300_001).to_bytes()))
    with pytest.raises(ValueError, match="erased"):
        records.commit({"state": broken})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert records.state_at("state").digest == LARGE.digest


def test_flipped_bit_in_a_stored_state_is_found_when_its_block_is_read(tmp_path: Path) -> None:
    records = JournalRecords(SqliteJournal(tmp_path))
    records.commit({"state": LARGE})
    held = records.state_at("state")
    (file,) = tmp_path.glob("value-*.large")
    content = bytearray(file.read_bytes())
    content[2 * CHUNK_BYTES] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        held.load()
    assert caught.value.code == "STATE_CORRUPT"


def test_each_chunk_is_read_once_per_array_that_has_a_part_in_it() -> None:
    reads: list[int] = []

    class Counted(HeldVector):
        def chunk(self, index: int) -> bytes | None:
            reads.append(index)
            return super().chunk(index)

    held = state_in(Counted(LARGE.to_bytes()))
    reads.clear()
    held.load()
    assert sorted(reads) == [0, 1, 1, 2, 3]  # model: 0 and 1; moments: 1 to 3
