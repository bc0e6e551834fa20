"""A folder of audit files, as an auditor has it: found, read, verified, compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.audit.agreement import disagreements
from fedvlm_secure.audit.chain import FILE_NAME, read_chain
from fedvlm_secure.audit.record import AuditRecord
from fedvlm_secure.audit.verify import Finding, verify_chain
from fedvlm_secure.errors import StorageError
from fedvlm_secure.policy.roster import MAX_NODES, Roster, load_roster

ROSTER_NAME = "roster.toml"
MAX_DEPTH = 6


@dataclass(frozen=True)
class AuditedRun:
    """One run's chains by party (the aggregator first, then by name), the files they came from, and the roster.

    `folder` holds all of it.
    """

    folder: Path
    run: str
    roster: Roster
    chains: dict[str, tuple[AuditRecord, ...]]
    files: dict[str, Path]
    findings: tuple[Finding, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Parties of the roster without a file here."""
        return tuple(name for name in ("aggregator", *self.roster.node_ids) if name not in self.chains)


def open_run(folder: Path, roster_path: Path | None, *, running: bool = False) -> AuditedRun:
    """Find every audit.jsonl below a folder, and verify all of it.

    Args:
        folder: of one run.
        roster_path: the pinned roster; without it the folder's own, which must be the only one there.
        running: see `verify_chain`.

    Raises:
        StorageError: AUDIT_EMPTY, AUDIT_SEVERAL_RUNS, AUDIT_TWICE, AUDIT_MALFORMED, AUDIT_UNREADABLE.
        PolicyError: ROSTER_INVALID.
    """
    found = _files(folder, FILE_NAME)
    if not found:
        raise StorageError(
            "AUDIT_EMPTY", f"{folder}: no {FILE_NAME} here", "name the folder of a run, as in STATE/runs/RUN"
        )
    roster = load_roster(roster_path or _roster_beside(folder))
    chains: dict[str, tuple[AuditRecord, ...]] = {}
    files: dict[str, Path] = {}
    for path in found:
        records = read_chain(path, torn_tail=running)
        if not records:
            raise StorageError("AUDIT_MALFORMED", f"{path}: record 0, field record: the file is empty", "")
        party = records[0].party if records[0].role == "node" else "aggregator"
        if party in chains:
            raise StorageError(
                "AUDIT_TWICE", f"{path} and {files[party]} are both {party}'s", "put one run into one folder"
            )
        chains[party], files[party] = records, path
    runs = sorted({record.run for records in chains.values() for record in records[:1]})
    if len(runs) > 1:
        raise StorageError(
            "AUDIT_SEVERAL_RUNS", f"{folder} holds {len(runs)} runs: {', '.join(runs)[:200]}", "put one run into it"
        )
    order = sorted(chains, key=lambda party: (party != "aggregator", party))
    chains = {party: chains[party] for party in order}
    findings = [finding for records in chains.values() for finding in verify_chain(records, roster, running=running)]
    findings += disagreements(chains)
    return AuditedRun(folder, runs[0], roster, chains, files, tuple(sorted(set(findings))))


def _files(folder: Path, name: str) -> list[Path]:
    """Files of that name, at most a few folders down; links are not followed."""
    if not folder.is_dir():
        return []
    found: list[Path] = []
    for depth in range(MAX_DEPTH + 1):
        found += [path for path in folder.glob("*/" * depth + name) if path.is_file() and not path.is_symlink()]
        if len(found) > MAX_NODES + 1:
            raise StorageError("AUDIT_SEVERAL_RUNS", f"{folder} holds too many files {name}", "name one run's folder")
    return sorted(found)


def _roster_beside(folder: Path) -> Path:
    paths = _files(folder, ROSTER_NAME)
    if len({path.read_bytes() for path in paths}) != 1:
        raise StorageError(
            "AUDIT_ROSTER",
            f"{folder}: {len(paths)} files {ROSTER_NAME} that differ" if paths else f"{folder}: no {ROSTER_NAME}",
            "name the roster that was compared by telephone: --roster FILE",
        )
    return paths[0]
