"""What signed audit records, the hospital's own and its peers', say was charged here: the ground of a restore.

An own record holds the purse after its round; every copy of it that a peer or the aggregator kept is as good as the
first, since it is signed. A peer's record shows that this hospital was in a round's sum, so that round was charged. A
round that no own record covers counts as charged, too, whoever's sum it was left out of: its upload may have begun.
Nothing here can lower what another record shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedvlm_secure.audit.agreement import disagreements
from fedvlm_secure.audit.chain import FILE_NAME, read_chain
from fedvlm_secure.audit.folder import ROSTER_NAME
from fedvlm_secure.audit.opening import salted_population
from fedvlm_secure.audit.planned import planned_event
from fedvlm_secure.audit.record import AuditRecord, End, PurseState, Round, Start
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.dp.delta import default_delta
from fedvlm_secure.dp.events import Composed, from_record
from fedvlm_secure.errors import PolicyError, StorageError
from fedvlm_secure.policy.private_file import read_private
from fedvlm_secure.policy.roster import Roster, load_roster
from fedvlm_secure.types import NodeId, Secret
from node.audit_log import SALT_FILE
from node.keystore import open_keystore
from node.ledger_entries import Floor, RestoredRound, RestoredRun

Chains = dict[str, tuple[AuditRecord, ...]]
_MOST_FILES = 10_000
_TELLING = {
    "run_hash",
    "policy_hash",
    "roster",
    "nodes",
    "rounds",
    "ctx",
    "survivors",
    "privacy.round_event",
    "privacy.scores",
}
"""Where parties may not differ if their records are to count."""


@dataclass(frozen=True)
class RunTestimony:
    """One run as the records show it.

    Attributes:
        charged: its charged rounds, from 0; None for a run without protection.
        uncovered: those of them that no own record covers.
        over: whether an own record ends it.
        purse: what the last own record shows of the population; without one no charge, and a limit of 0.
        sequence: number of the last ledger entry that an own record names; 0 without one.
    """

    run: bytes
    population: str
    charged: RestoredRun | None
    uncovered: frozenset[int]
    over: bool
    purse: Floor
    sequence: int = 0


@dataclass(frozen=True)
class Testimony:
    """All runs, the one with the latest own record first: its purse shows the latest limit."""

    runs: tuple[RunTestimony, ...]

    def in_words(self) -> tuple[str, ...]:
        """One line a run, for the operator to read before deciding."""
        return tuple(
            f"run {one.run.hex()[:16]}, population {one.population}: "
            + (
                "released without formal protection"
                if one.charged is None
                else f"{len(one.charged.rounds)} rounds charged, {len(one.uncovered)} of them not on own records"
            )
            for one in self.runs
        )


def testimony_of(
    state: Path,
    folders: Sequence[Path],
    names: Sequence[str],
    known_runs: Mapping[bytes, str],
    rosters: Sequence[Path],
) -> Testimony:
    """Read and verify every audit.jsonl below these folders and below the node's own runs.

    Args:
        state: the node's folder: its identity, pinned roster, salt and own records.
        folders: collected from other parties, any number of runs and parties deep.
        names: populations of this hospital, those whose names were lost with the ledger included.
        known_runs: the population of a run by its hash, as far as the ledger is left.
        rosters: earlier ones that the operator vouches for, beside the pinned one and the copies in own runs' folders.

    Raises:
        StorageError: RESTORE_WITNESS (a record does not verify, or contradicts another), RESTORE_FORKED (two different
            histories signed by this hospital), AUDIT_MALFORMED, AUDIT_UNREADABLE.
        PolicyError: RESTORE_POPULATION: a run whose population nobody names; ROSTER_INVALID.
    """
    keystore = open_keystore(state)
    salt = Secret(read_private(state / SALT_FILE, missing_hint="")) if (state / SALT_FILE).exists() else None
    found: dict[str, tuple[Path, Chains]] = {}
    for path in _files((*folders, state / "runs")):
        records = read_chain(path, torn_tail=True)
        if records:
            first = records[0]
            # by manifest, not by run: each membership of a run has its own records and its own charges
            run = found.setdefault(first.run_hash, (state / "runs" / first.run, {}))[1]
            party = first.party if first.role == "node" else "aggregator"
            run[party] = _longer(path, run.get(party, ()), records, own=party == keystore.node)
    told: list[tuple[str, RunTestimony]] = []
    for own_folder, chains in found.values():
        kept = sorted(own_folder.rglob(ROSTER_NAME))  # one for each membership
        _verify(chains, _roster_of(chains, (*kept, keystore.roster_path, *rosters)), keystore.node)
        if (one := _told(chains, keystore.node, names, known_runs, salt)) is not None:
            told.append((max((each.time for each in chains.get(keystore.node, ())), default=""), one))
    told.sort(key=lambda pair: (pair[0], pair[1].run), reverse=True)
    return Testimony(tuple(one for _, one in told))


def _files(folders: Iterable[Path]) -> list[Path]:
    found: set[Path] = set()
    for folder in folders:
        for path in folder.rglob(FILE_NAME):
            if path.is_file() and not path.is_symlink():
                found.add(path)
            if len(found) > _MOST_FILES:
                raise StorageError("AUDIT_SEVERAL_RUNS", f"{folder} holds too many files {FILE_NAME}", "name less")
    return sorted(found)


def _longer(
    path: Path, held: tuple[AuditRecord, ...], records: tuple[AuditRecord, ...], *, own: bool
) -> tuple[AuditRecord, ...]:
    """Of two copies of one chain the longer; each record stands behind those before it, so one must begin the other."""
    shorter, longer = sorted((held, records), key=len)
    if longer[: len(shorter)] != shorter:
        raise StorageError(
            "RESTORE_FORKED" if own else "RESTORE_WITNESS",
            f"{path}: two different histories of one party's run",
            "two copies of one hospital were at work: find out what both released before anything is restored"
            if own
            else "ask that party which of the two files is its own, and leave the other one out",
        )
    return longer


def _roster_of(chains: Chains, paths: Sequence[Path]) -> Roster:
    """The roster that a run names, if it is one of these; else the first, under which it will not verify."""
    known = [load_roster(path) for path in paths if path.exists()]
    if not known:
        raise PolicyError("ROSTER_INVALID", "no roster is pinned here", "give the one of these runs: --roster FILE")
    named = {record.body.roster for records in chains.values() for record in records if isinstance(record.body, Start)}
    return next((roster for roster in known if roster.digest.hex() in named), known[0])


def _verify(chains: Chains, roster: Roster, me: NodeId) -> None:
    """Refuse what does not verify, what contradicts another party, and rounds after the own last word."""
    findings = [finding for records in chains.values() for finding in verify_chain(records, roster, running=True)]
    findings += [finding for finding in disagreements(chains) if finding.field in _TELLING]
    if findings:
        first = min(findings)
        raise _unproven(str(first), f"leave the records of {first.party} out, and ask why they say so")
    own = chains.get(me, ())
    last = [record.body for record in own if isinstance(record.body, End) and record.body.outcome != "left"]
    closed = sum(isinstance(record.body, Round) for record in own)
    for party, records in chains.items():
        beyond = [each.round for each in _rounds(records) if each.round > closed and me in (each.survivors or ())]
        if last and beyond:
            cause = f"{party} has this hospital in round {beyond[0]}, which its own records end before"
            raise _unproven(cause, f"leave the records of {party} out, and ask why they say so")


def _told(
    chains: Chains, me: NodeId, names: Sequence[str], known_runs: Mapping[bytes, str], salt: Secret | None
) -> RunTestimony | None:
    """What one run's verified chains say; None for a run that this hospital is not part of."""
    start = next((record.body for records in chains.values() for record in records[:1]), None)
    if not isinstance(start, Start) or me not in start.nodes:
        return None
    run = bytes.fromhex(next(iter(chains.values()))[0].run_hash)
    own = chains.get(me, ())
    own_start = own[0].body if own and isinstance(own[0].body, Start) else None
    population = known_runs.get(run) or _population(own_start, names, salt, run)
    others = [each for party, records in chains.items() if party != me for each in _rounds(records)]
    over = any(isinstance(record.body, End) and record.body.outcome != "left" for record in own)
    if start.privacy is None:
        took_part = bool(own) or any(me in (each.survivors or ()) for each in others)
        marked = replace(_unknown(population, default_delta(1)), unprotected=True)
        return RunTestimony(run, population, None, frozenset(), over, marked) if took_part else None
    covered = {each.round - 1: each.spending is not None and each.spending.event is not None for each in _rounds(own)}
    in_sum = {each.round - 1 for each in others if me in (each.survivors or ())}
    seen = {each.round - 1 for each in others} | set(covered)
    under_way = set() if over else {max(seen, default=-1) + 1} & set(range(start.rounds))
    charged = {number for number, was in covered.items() if was} | in_sum | (seen - set(covered)) | under_way
    rounds = tuple(RestoredRound(number, planned_event(start.privacy, number + 1)) for number in sorted(charged))
    uncovered = frozenset(charged - set(covered))
    restored = RestoredRun(run, population, rounds)
    purses = [each.spending.purse for each in _rounds(own) if each.spending and each.spending.purse]
    floor = _floor(population, purses[-1]) if purses else _unknown(population, start.privacy.delta)
    sequence = max((purse.head.sequence for purse in purses if purse.head is not None), default=0)
    return RunTestimony(run, population, restored, uncovered, over, floor, sequence)


def _floor(population: str, purse: PurseState) -> Floor:
    return Floor(population, purse.delta, purse.limit, from_record(purse.event), unprotected=False)


def _unknown(population: str, delta: float) -> Floor:
    return Floor(population, delta, 0.0, Composed(()), unprotected=False)


def _population(start: Start | None, names: Sequence[str], salt: Secret | None, run: bytes) -> str:
    """The name behind a run's salted digest; without digest or salt the only name there is."""
    if start is not None and salt is not None:
        names = tuple(name for name in names if salted_population(salt, name) == start.population)
    if len(names) != 1:
        raise PolicyError(
            "RESTORE_POPULATION",
            f"run {run.hex()[:16]}: {len(names)} populations could be the one it was charged to",
            "name it as it stands in node.yaml: --population NAME",
        )
    return names[0]


def _rounds(records: Iterable[AuditRecord]) -> list[Round]:
    return [record.body for record in records if isinstance(record.body, Round)]


def _unproven(cause: str, hint: str) -> StorageError:
    return StorageError("RESTORE_WITNESS", cause, hint)
