"""Offline verification of one party's chain: form, hashes, signatures, order, and every epsilon from its events.

1. each record follows the one before: index, previous hash, time, run and party
2. its signature holds under the pinned roster
3. the start record is consistent in itself and with the roster
4. rounds follow one another, each from the model the last one ended with
5. every epsilon is computed again from the logged events; a purse forgets nothing and stays under its limit
6. the chain ends with the party's last word: a dropped tail shows
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedvlm_secure.audit.chain import signature_holds
from fedvlm_secure.audit.claims import TOLERANCE, Faults, claim_faults, maker_faults
from fedvlm_secure.audit.planned import planned_event, released_faults
from fedvlm_secure.audit.record import (
    GENESIS,
    NO_PROTECTION,
    AuditRecord,
    End,
    LedgerEntry,
    PrivacyTerms,
    PurseState,
    Round,
    Spending,
    Start,
    survivors_hash,
)
from fedvlm_secure.audit.spending import (
    NOTHING,
    add,
    at_two_hospitals,
    contains,
    purse_state,
    round_spending,
)
from fedvlm_secure.dp.accounting import computable
from fedvlm_secure.dp.events import Event, compose, flatten, from_record
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.roster import Roster

_TOO_WIDE = "spans a privacy loss that no sensible run has; its epsilon was not computed"


@dataclass(frozen=True, order=True)
class Finding:
    """What is wrong, and where. `index` counts records from 0; one past the last stands for what is missing there."""

    index: int
    party: str
    field: str
    cause: str

    def __str__(self) -> str:
        return f"{self.party}: record {self.index}, field {self.field}: {self.cause}"


@dataclass
class _Course:
    """What the records before this one amount to."""

    start: Start | None = None
    rounds: int = 0
    model: str | None = None
    charged: Event = NOTHING
    purse: PurseState | None = None


def verify_chain(records: Sequence[AuditRecord], roster: Roster, *, running: bool = False) -> list[Finding]:
    """Check one party's records against themselves and the roster.

    Args:
        records: as `read_chain` gives them.
        roster: the pinned one of this run.
        running: the run may still be going on, so the last word may be missing.

    Returns:
        Every finding, by record; none is the good case.
    """
    if not records:
        return [Finding(0, "?", "record", "the file holds no record")]
    first = records[0]
    found: list[Finding] = []
    course = _Course()
    for at, record in enumerate(records):
        last = records[at - 1] if at else None
        faults = [
            *_content(record, course, roster),
            *_place(record, at, first, last),
            *_identity(record, roster),
        ]
        found += [Finding(at, first.party, name, cause) for name, cause in faults]
    tail = records[-1].body
    if not isinstance(tail, End) and not running:
        cause = "the party's last word is missing: the run goes on, or the tail was dropped"
        found.append(Finding(len(records), first.party, "record", cause))
    return found


def _place(record: AuditRecord, at: int, first: AuditRecord, last: AuditRecord | None) -> Faults:
    if record.index != at:
        yield "index", f"says {record.index}, stands at {at}"
    for name in ("role", "party", "run", "run_hash"):
        if getattr(record, name) != getattr(first, name):
            yield name, "differs from the first record's"
    if record.previous != (GENESIS if last is None else last.digest.hex()):
        yield "previous", "is not the hash of the record before: one of the two was altered, moved or removed"
    if last is not None and record.time < last.time:
        yield "time", "goes back"
    if isinstance(record.body, Start) != (at == 0):
        yield "kind", "a chain begins with its start record and has only that one"
    if last is not None and isinstance(last.body, End) and last.body.outcome != "left":
        yield "kind", "a record stands after the party's last word"


def _identity(record: AuditRecord, roster: Roster) -> Faults:
    if record.role == "aggregator":
        identity = roster.aggregator.identity
        if record.party != "aggregator":
            yield "party", "the aggregator's records are named aggregator"
    else:
        member = next((member for member in roster.members if member.node == record.party), None)
        if member is None:
            yield "party", "is not in the roster"
            return
        identity = member.identity
    if not signature_holds(record, identity):
        yield "signature", "does not hold under the pinned identity: some field of this record was altered"


def _content(record: AuditRecord, course: _Course, roster: Roster) -> Faults:
    try:
        match record.body:
            case Start() as start:
                course.start, course.model = start, start.model
                yield from _start(start, record, roster)
            case Round() as closed if course.start is not None:
                yield from _round(closed, record, course, course.start)
                yield from _isolated(closed, record)
            case End() as end if course.start is not None:
                yield from _end(end, course, course.start)
    except PolicyError as error:  # the accountant refuses, such as a delta below what it can resolve
        yield "delta", error.cause


def _start(start: Start, record: AuditRecord, roster: Roster) -> Faults:
    n = len(start.nodes)
    if start.roster != roster.digest.hex():
        yield "roster", "is not the digest of the given roster"
    if list(start.nodes) != sorted(set(start.nodes)) or not set(start.nodes) <= set(roster.node_ids):
        yield "nodes", "are not distinct, ordered members of the roster"
    if record.role == "node" and record.party not in start.nodes:
        yield "nodes", "do not include this hospital"
    if start.threshold != (n + start.colluding) // 2 + 1:
        yield "threshold", f"is not (n + c) // 2 + 1 of {n} hospitals"
    if not start.threshold <= start.min_survivors <= n:
        yield "min_survivors", "lies outside threshold and cohort"
    if (start.population is None) != (record.role == "aggregator"):
        yield "population", "belongs to hospitals, and to each of them"
    if (start.privacy is None) != (start.statement == NO_PROTECTION):
        yield "statement", "does not fit the mechanism"
    if start.privacy is not None:
        yield from claim_faults(start.privacy)
        yield from maker_faults(start, start.privacy)


def _round(closed: Round, record: AuditRecord, course: _Course, start: Start) -> Faults:
    course.rounds += 1
    if closed.round != course.rounds:
        yield "round", f"is {closed.round} where {course.rounds} follows"
    if closed.round > start.rounds:
        yield "round", f"is beyond the {start.rounds} agreed"
    yield from _outcome(closed, start)
    if closed.model_before is not None and closed.model_before != course.model:
        yield "model_before", "is not the model the round before ended with"
    course.model = closed.model_after
    if (closed.spending is None) != (start.privacy is None):
        yield "spending", "stands in every round of a private run and in none of another"
    elif closed.spending is not None and start.privacy is not None:
        yield from _spending(closed, closed.spending, record, course, start.privacy)


def _outcome(closed: Round, start: Start) -> Faults:
    joint = {"ctx": closed.ctx, "survivors": closed.survivors, "survivors_hash": closed.survivors_hash}
    for name, value in joint.items():
        if (value is None) != (closed.outcome != "result"):
            yield name, f"does not fit the outcome {closed.outcome}"
    if closed.outcome != "missed":
        for name in ("model_before", "model_after", "result"):
            if getattr(closed, name) is None:
                yield name, f"is missing although the outcome is {closed.outcome}"
    if closed.outcome == "void" and closed.model_before != closed.model_after:
        yield "model_after", "a void round leaves the model as it was"
    yield from released_faults(closed, start)
    if closed.outcome != "result" and closed.totals:
        yield "totals", f"are released by a result, not by the outcome {closed.outcome}"
    if any(entry.correct > entry.total for entry in closed.totals):
        yield "totals", "count more right answers than questions"
    if closed.survivors is None or closed.ctx is None:
        return
    if list(closed.survivors) != [node for node in start.nodes if node in set(closed.survivors)]:
        yield "survivors", "are not an ordered part of the cohort"
    if len(closed.survivors) < start.min_survivors:
        yield "survivors", f"are {len(closed.survivors)}, fewer than min_survivors {start.min_survivors}"
    if closed.survivors_hash != survivors_hash(closed.ctx, closed.survivors):
        yield "survivors_hash", "is not the hash of the survivors in this attempt"


def _isolated(closed: Round, record: AuditRecord) -> Faults:
    if closed.isolated is None:
        return
    if record.role == "aggregator":
        yield "isolated", "is noted by hospitals: the aggregator signs no set of survivors"
    if list(closed.isolated) != sorted(set(closed.isolated)):  # not all in `nodes`: who left the roster went out, too
        yield "isolated", "are not distinct and in order"


def _spending(closed: Round, spending: Spending, record: AuditRecord, course: _Course, terms: PrivacyTerms) -> Faults:
    charged = None if spending.event is None else from_record(spending.event)
    if charged is not None and flatten(charged) != flatten(planned_event(terms, closed.round)):
        yield "event", "is not what this round was agreed to release"
    if charged is None and record.party in (closed.survivors or ()):
        yield "event", "this hospital is in the sum, yet the round was charged with nothing"
    if not computable(add(course.charged, charged)):
        yield "event", _TOO_WIDE
        return
    survivors = None if closed.survivors is None else len(closed.survivors)
    expected = round_spending(terms, course.charged, charged, None, survivors)
    course.charged = add(course.charged, charged)
    for name in ("epsilon_round", "epsilon_run", "epsilon_coalition", "epsilon_worst_case", "epsilon_readers"):
        yield from _equal(name, getattr(spending, name), getattr(expected, name))
    if spending.noise_variance != expected.noise_variance:
        yield "noise_variance", "is not the agreed one"
    if record.role == "aggregator":
        if spending.purse is not None:
            yield "purse", "the aggregator holds none"
    elif spending.purse is None:
        yield "purse", "is missing"
    else:
        yield from _purse(spending.purse, course, charged=charged is not None)


def _purse(purse: PurseState, course: _Course, *, charged: bool) -> Faults:
    event = from_record(purse.event)
    if not computable(event):
        yield "purse.event", _TOO_WIDE
        return
    if not contains(event, course.charged):
        yield "purse.event", "lacks what this run was charged with"
    if course.purse is not None:
        if not contains(event, from_record(course.purse.event)):
            yield "purse.event", "lacks what was charged before"
        if purse.delta != course.purse.delta:
            yield "purse.delta", "changed within the run"
        yield from _head(purse.head, course.purse.head)
    course.purse = purse
    expected = purse_state(event, purse.delta, purse.limit)
    yield from _equal("purse.epsilon", purse.epsilon, expected.epsilon)
    yield from _equal("purse.remaining", purse.remaining, expected.remaining)
    if charged and expected.epsilon is not None and expected.epsilon > purse.limit * (1 + TOLERANCE):
        yield "purse.limit", f"{purse.limit:g} is below epsilon {expected.epsilon:.6g}: a round was charged above it"


def _head(new: LedgerEntry | None, old: LedgerEntry | None) -> Faults:
    """A ledger only grows: its last entry never has a lower number, nor another hash under the same one."""
    if old is None:
        return
    if new is None:
        yield "purse.head", "is missing, where an earlier record has one"
    elif new.sequence < old.sequence:
        yield "purse.head", f"is entry {new.sequence}, after entry {old.sequence}: the ledger was set back"
    elif new.sequence == old.sequence and new.digest != old.digest:
        yield "purse.head", f"has another hash under the number {new.sequence}: two histories of one ledger"


def _end(end: End, course: _Course, start: Start) -> Faults:
    if end.rounds_closed != course.rounds:
        yield "rounds_closed", f"says {end.rounds_closed}, {course.rounds} are on record"
    if end.outcome == "finished" and course.rounds != start.rounds:
        yield "outcome", f"finished after {course.rounds} of {start.rounds} rounds"
    if end.outcome == "finished" and end.code:
        yield "code", "a finished run has none"
    if course.rounds and end.model != course.model:
        yield "model", "is not the one the last round ended with"
    if not computable(compose((course.charged, course.charged))):
        yield "epsilon_two_hospitals", _TOO_WIDE
        return
    doubled = None if start.privacy is None else at_two_hospitals(start.privacy, course.charged)
    yield from _equal("epsilon_two_hospitals", end.epsilon_two_hospitals, doubled)


def _equal(name: str, written: float | None, computed: float | None) -> Faults:
    if written is None or computed is None:
        if written is not computed:
            yield name, f"says {written}, computed {computed}"
    elif not math.isclose(written, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        yield name, f"says {written:.9g}, computed from the events {computed:.9g}"
