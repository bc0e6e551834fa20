"""A ledger in a temporary folder, with a wall clock that the test moves and entropy from a counter."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from pathlib import Path

from fedvlm_secure.dp.events import Event, Gaussian, Perturbed, SelfComposed
from fedvlm_secure.types import Digest
from node.ledger import Ledger
from node.ledger_chain import LedgerPaths, ledger_paths

STEP = Perturbed(Gaussian(10.0), 1e-30, 1e-35)
ROUND = SelfComposed(STEP, 2)
PLAN = SelfComposed(STEP, 10)
DELTA = 1e-5


def run_id(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


class CountedEntropy:
    """SHAKE-256 of a counter."""

    def __init__(self) -> None:
        self._calls = 0

    def bytes(self, count: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(self._calls.to_bytes(8, "big")).digest(count)


class Purse:
    """Paths and clock of one hospital."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.paths: LedgerPaths = ledger_paths(self.state)
        self.now_s = 1_800_000_000
        self.entropy = CountedEntropy()

    def create(self, limit: float = 8.0) -> Ledger:
        ledger = Ledger.create(self.paths, self.entropy, self.wall_s)
        ledger.add_population("chest", delta=DELTA, epsilon_limit=limit)
        return ledger

    def open(self) -> Ledger:
        return Ledger(self.paths, self.wall_s)

    def wall_s(self) -> int:
        return self.now_s

    def keep_copy(self, name: str) -> Path:
        copy = self.state.parent / name
        shutil.copyfile(self.paths.ledger, copy)
        return copy

    def bring_back(self, copy: Path) -> None:
        shutil.copyfile(copy, self.paths.ledger)

    def edit(self, sql: str, *values: object) -> None:
        """Change rows behind the triggers' back, as somebody with the file could."""
        connection = sqlite3.connect(self.paths.ledger)
        connection.executescript("DROP TRIGGER entry_stays; DROP TRIGGER entry_remains;")
        connection.execute(sql, values)
        connection.commit()
        connection.close()


def times(count: int) -> Event:
    return SelfComposed(STEP, count)
