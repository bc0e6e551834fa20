"""Everything that is written durably, as one kind of thing: write numbers, read back those that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.audit.chain import AuditChain, read_chain
from fedvlm_secure.audit.record import End
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.policy.private_file import write_private
from fedvlm_secure.rounds.vectors import cut
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import Digest, NodeId
from node.approvals import approvals, approve, claim
from node.keystore import create_keystore, open_keystore
from node.ledger_chain import LedgerPaths
from node.ledger_entries import PopulationAdded
from node.ledger_file import LedgerFile, create_ledger_file
from node.metrics import MetricsFile
from tests.support.cohort import POLICIES

_NODE = NodeId("hospital-a")
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
BULK = 40_000
"""Bytes of one number where the writer takes any: more than a page, so that it needs room of its own."""


@dataclass(frozen=True)
class Writer:
    """Args:
    prepare: make it in a folder; done while there is room.
    write: one number, 1, 2, ..., durable on return or not there at all.
    read: the numbers that are there, in order, as a fresh process sees them.
    """

    prepare: Callable[[Path], None]
    write: Callable[[Path, int], None]
    read: Callable[[Path], list[int]]


def _journal_write(folder: Path, number: int) -> None:
    journal = SqliteJournal(folder / "journal")
    try:
        journal.commit({f"n/{number:03d}": bytes([number]) * BULK})
    finally:
        journal.close()


def _journal_read(folder: Path) -> list[int]:
    journal = SqliteJournal(folder / "journal")
    try:
        keys = journal.keys("n/")
        values = [journal.get(key) for key in keys]
        if any(value != bytes([int(key[2:])]) * BULK for key, value in zip(keys, values, strict=True)):
            raise AssertionError("a value is not what was committed")
        return [int(key[2:]) for key in keys]
    finally:
        journal.close()


def _ctx(number: int) -> Digest:
    return Digest(bytes([number]) * 32)


def _spool_write(folder: Path, number: int) -> None:
    spool = FileSpool(folder / "spool")
    spool.append(_ctx(number), _NODE, bytes([number]) * BULK)
    spool.finish(_ctx(number), _NODE)


def _spool_read(folder: Path) -> list[int]:
    spool = FileSpool(folder / "spool")
    found = [number for number in range(1, 10) if b"".join(spool.chunks(_ctx(number), _NODE)) == bytes([number]) * BULK]
    held = [number for number in range(1, 10) if spool.held_chunks(_ctx(number), _NODE)]
    if not set(held) <= set(found):
        raise AssertionError(f"{held} are said to be held, {found} are")
    return found


def _blob(number: int) -> bytes:
    return bytes([number]) * BULK


def _blob_write(folder: Path, number: int) -> None:
    FileBlobs(folder / "blobs").put(cut(_blob(number)))


def _blob_read(folder: Path) -> list[int]:
    blobs = FileBlobs(folder / "blobs")
    if any(name.endswith(".draft") for name in (path.name for path in (folder / "blobs").iterdir())):
        raise AssertionError("a draft was left")
    return [number for number in range(1, 10) if blobs.chunk(chunk_root(_blob(number)), 0) == _blob(number)]


def _ledger_paths(folder: Path) -> LedgerPaths:
    return LedgerPaths(folder / "ledger", folder / "beside" / "anchor.json", folder / "keys" / "ledger.key")


def _ledger(folder: Path) -> LedgerFile:
    return LedgerFile(_ledger_paths(folder), lambda: 1_800_000_000)


def _ledger_write(folder: Path, number: int) -> None:
    ledger = _ledger(folder)
    with ledger.current():
        ledger.write(PopulationAdded(f"p{number}-" + "x" * 6000, 1e-6, 8.0))


def _ledger_read(folder: Path) -> list[int]:
    with _ledger(folder).current() as book:
        return [int(name.partition("-")[0][1:]) for name in sorted(book.populations)]


def _chain(folder: Path) -> AuditChain:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    path = folder / "audit.jsonl"
    run_hash = "00" * 32
    return AuditChain(path, role="node", party="a", run="0", run_hash=run_hash, key=key, wall_s=lambda: 1_800_000_000.0)


def _audit_write(folder: Path, number: int) -> None:
    _chain(folder).append(End(outcome="left", code="X", rounds_closed=number, model=None, epsilon_two_hospitals=None))


def _audit_read(folder: Path) -> list[int]:
    records = read_chain(folder / "audit.jsonl") if (folder / "audit.jsonl").exists() else ()
    return [record.body.rounds_closed for record in records if isinstance(record.body, End)]


def _keystore_write(folder: Path, number: int) -> None:
    create_keystore(folder / f"node-{number}", _NODE)


def _keystore_read(folder: Path) -> list[int]:
    there = [number for number in range(1, 10) if (folder / f"node-{number}" / "keys" / "node.json").exists()]
    return [number for number in there if open_keystore(folder / f"node-{number}").node == _NODE]


def _approval_write(folder: Path, number: int) -> None:
    """Each approval is used up, so that the next call makes another one."""
    approval = approve(folder, read_policy(POLICIES / "fedavg.yaml"), _NOW)
    claim(folder, approval.policy_hash, Digest(bytes([number]) * 32))


def _approval_read(folder: Path) -> list[int]:
    return [approval.used_by[0] for approval in approvals(folder) if approval.used_by is not None]


def _metrics_write(folder: Path, number: int) -> None:
    MetricsFile(folder).append({"run": "x" * 6000, "round": number, "last": False})


def _metrics_read(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    if path.exists() and path.read_bytes():
        json.loads(path.read_bytes().splitlines()[-1])
    return [int(str(row["round"])) for row in MetricsFile(folder).rows()]


def _private_write(folder: Path, number: int) -> None:
    write_private(folder / "file", bytes([number]) * BULK)


def _private_read(folder: Path) -> list[int]:
    """A file that is replaced: the last number stands for all up to it."""
    path = folder / "file"
    if not path.exists():
        return []
    raw = path.read_bytes()
    if len(raw) != BULK or len(set(raw)) != 1:
        raise AssertionError("neither the old content nor the new")
    return list(range(1, raw[0] + 1))


def _nothing(folder: Path) -> None:
    return None


WRITERS: dict[str, Writer] = {
    "journal": Writer(lambda folder: SqliteJournal(folder / "journal").close(), _journal_write, _journal_read),
    "spool": Writer(_nothing, _spool_write, _spool_read),
    "blobs": Writer(_nothing, _blob_write, _blob_read),
    "ledger": Writer(
        lambda folder: create_ledger_file(_ledger_paths(folder), ShakeEntropy(0, "ledger"), lambda: 1_800_000_000),
        _ledger_write,
        _ledger_read,
    ),
    "audit": Writer(_nothing, _audit_write, _audit_read),
    "keystore": Writer(_nothing, _keystore_write, _keystore_read),
    "approvals": Writer(_nothing, _approval_write, _approval_read),
    "metrics": Writer(_nothing, _metrics_write, _metrics_read),
    "key file": Writer(_nothing, _private_write, _private_read),
}
