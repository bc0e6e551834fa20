"""A small consortium on disk: an authority, and hospitals whose keys were made at home."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator import admission
from aggregator.authority import Authority, create_authority
from fedvlm_secure.policy.roster import format_roster
from fedvlm_secure.types import node_id
from node.keystore import Keystore, create_keystore

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Consortium:
    """Where things lie, and the steps of a ceremony."""

    root: Path
    authority: Authority

    def hospital(self, name: str) -> Keystore:
        return create_keystore(self.root / name, node_id(name))

    def admit(self, keystore: Keystore) -> admission.Admission:
        return admission.admit(self.authority, keystore.join_request(), NOW)

    def roster(self) -> bytes:
        return format_roster(admission.roster(self.authority))


def make_authority(home: Path, name: str = "trial") -> Authority:
    return create_authority(home, consortium=name, hosts=["aggregator.example.org"], address="", now=NOW)[0]


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, make_authority(tmp_path / "home"))


@pytest.fixture
def now() -> datetime:
    return NOW
