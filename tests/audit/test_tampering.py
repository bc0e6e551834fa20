"""Whoever changes a record, its order, its signature or the tail is found, and where is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.audit.folder import open_run
from fedvlm_secure.audit.record import AuditRecord
from fedvlm_secure.audit.verify import Finding, verify_chain
from fedvlm_secure.errors import StorageError
from tests.audit.chains import KEYS, digest, resign, roster, write_party, write_run

Leaf = tuple[str | int, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), rounds=3, void=(2,))


def leaves(value: Any, path: Leaf = ()) -> Iterator[Leaf]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from leaves(item, (*path, at))
    else:
        yield path


def altered(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.5 + 0.001
        case str() if value and set(value) <= set("0123456789abcdef"):
            return ("1" if value[0] == "0" else "0") + value[1:]
        case str():
            return value[:-1] + ("b" if value.endswith("a") else "a") if value else "A"
        case None:
            return 1
        case []:
            return ["new"]
        case _:
            raise TypeError(type(value))


def change(fields: dict[str, Any], path: Leaf) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(fields))
    at: Any = copied
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = altered(at[path[-1]])
    return copied


def indices(folder: Path) -> set[tuple[str, int]]:
    """(party, index) of what is found; a line that is no record any more counts too."""
    try:
        return {(finding.party, finding.index) for finding in open_run(folder, None).findings}
    except StorageError as error:
        if error.code != "AUDIT_MALFORMED":
            raise
        path, _, rest = error.cause.partition(": record ")
        return {(Path(path).parent.name, int(rest.partition(",")[0]))}


def test_an_honest_run_is_verified(folder: Path) -> None:
    audited = open_run(folder, None)
    assert audited.findings == ()
    assert list(audited.chains) == ["aggregator", "coast", "harbour", "valley"]
    assert audited.absent == ()


@pytest.mark.parametrize("party", ["coast", "aggregator"])
def test_every_single_field_is_guarded(folder: Path, party: str) -> None:
    path = folder / party / "audit.jsonl"
    before = path.read_bytes()
    lines = before.split(b"\n")[:-1]
    tried = 0
    try:
        for index, line in enumerate(lines):
            fields = json.loads(line)
            for leaf in leaves(fields):
                changed = json.dumps(change(fields, leaf), separators=(",", ":")).encode()
                path.write_bytes(b"\n".join([*lines[:index], changed, *lines[index + 1 :], b""]))
                assert (party, index) in indices(folder), (index, leaf)
                tried += 1
    finally:
        path.write_bytes(before)
    assert tried > 150
    assert open_run(folder, None).findings == ()


def forged(folder: Path, party: str, forge: Callable[[list[AuditRecord]], list[AuditRecord]]) -> list[Finding]:
    """The party itself rewrites its chain, with its own key; what its own records then show."""
    records = forge(list(read_chain(folder / party / "audit.jsonl")))
    return verify_chain(resign(records, KEYS[party]), roster())


def set_field(index: int, *path: str, value: object) -> Callable[[list[AuditRecord]], list[AuditRecord]]:
    def forge(records: list[AuditRecord]) -> list[AuditRecord]:
        fields = records[index].model_dump(mode="json")
        at = fields
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return [*records[:index], AuditRecord.model_validate_json(json.dumps(fields)), *records[index + 1 :]]

    return forge


NOTHING = {"kind": "Composed", "events": []}


@pytest.mark.parametrize(
    ("index", "path", "value", "field"),
    [
        (0, ("roster",), digest("another"), "roster"),
        (0, ("threshold",), 1, "threshold"),
        (0, ("min_survivors",), 1, "min_survivors"),
        (0, ("statement",), "no formal protection of the released model", "statement"),
        (0, ("privacy", "noise_multiplier"), 9.0, "noise_multiplier"),
        (0, ("privacy", "share_variance"), 16, "share_variance"),
        (0, ("privacy", "guaranteed_variance"), 1 << 50, "guaranteed_variance"),
        (0, ("privacy", "sampling_rate"), 0.01, "sampling_rate"),
        (0, ("privacy", "steps"), 1, "steps"),
        (0, ("privacy", "clip_norm"), 0.5, "clip_norm"),
        (0, ("privacy", "round_event"), NOTHING, "round_event"),
        (1, ("round",), 2, "round"),
        (1, ("survivors",), ["coast", "valley"], "survivors"),
        (1, ("survivors_hash",), digest("others"), "survivors_hash"),
        (1, ("model_before",), digest("else"), "model_before"),
        (2, ("model_after",), digest("else"), "model_after"),
        (1, ("spending", "event"), None, "event"),
        (1, ("spending", "epsilon_round"), 0.01, "epsilon_round"),
        (2, ("spending", "epsilon_run"), 0.01, "epsilon_run"),
        (2, ("spending", "epsilon_coalition"), 0.01, "epsilon_coalition"),
        (3, ("spending", "epsilon_worst_case"), 0.01, "epsilon_worst_case"),
        (3, ("spending", "noise_variance"), 16, "noise_variance"),
        (3, ("spending", "purse"), None, "purse"),
        (3, ("spending", "purse", "epsilon"), 0.01, "purse.epsilon"),
        (3, ("spending", "purse", "remaining"), 7.99, "purse.remaining"),
        (3, ("spending", "purse", "limit"), 0.05, "purse.limit"),
        (3, ("spending", "purse", "delta"), 1e-5, "purse.delta"),
        (3, ("spending", "purse", "event"), NOTHING, "purse.event"),
        (4, ("rounds_closed",), 2, "rounds_closed"),
        (4, ("model",), digest("else"), "model"),
        (4, ("epsilon_two_hospitals",), 0.05, "epsilon_two_hospitals"),
        (4, ("code",), "NONE", "code"),
    ],
)
def test_a_party_that_signs_its_own_lie_is_named_with_the_field(
    folder: Path, index: int, path: tuple[str, ...], value: object, field: str
) -> None:
    found = forged(folder, "coast", set_field(index, "body", *path, value=value))
    assert (index, field) in {(finding.index, finding.field) for finding in found}


def test_a_clock_set_back_shows(folder: Path) -> None:
    found = forged(folder, "coast", set_field(2, "time", value="2020-01-01T00:00:00Z"))
    assert [(one.index, one.field) for one in found] == [(2, "time")]


@pytest.mark.parametrize(
    "reorder",
    [
        lambda records: [*records[:1], records[2], records[1], *records[3:]],
        lambda records: [*records[:2], *records[3:]],
        lambda records: [*records[:2], records[1], *records[2:]],
        lambda records: records[1:],
    ],
    ids=["two swapped", "one left out", "one twice", "no start"],
)
def test_order_is_guarded_with_and_without_the_partys_key(
    folder: Path, reorder: Callable[[list[AuditRecord]], list[AuditRecord]]
) -> None:
    records = reorder(list(read_chain(folder / "coast" / "audit.jsonl")))
    assert verify_chain(records, roster())
    assert verify_chain(resign(records, KEYS["coast"]), roster())


def test_a_signature_of_somebody_else_does_not_pass(folder: Path) -> None:
    records = list(read_chain(folder / "coast" / "audit.jsonl"))
    found = verify_chain(resign(records, KEYS["valley"]), roster())
    assert {finding.field for finding in found} == {"signature"}
    assert [finding.index for finding in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_a_dropped_tail_shows_even_when_signed_anew(folder: Path, kept: int) -> None:
    found = forged(folder, "coast", lambda records: records[:kept])
    assert [(one.index, one.field) for one in found] == [(kept, "record")]


def test_a_half_line_at_the_end_is_no_record(folder: Path) -> None:
    path = folder / "coast" / "audit.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-40])
    try:
        with pytest.raises(StorageError, match="record 4, field record") as caught:
            open_run(folder, None)
    finally:
        path.write_bytes(before)
    assert caught.value.code == "AUDIT_MALFORMED"


def test_who_rewrites_history_stands_against_the_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=2)
    path = folder / "harbour" / "audit.jsonl"
    forge = set_field(1, "body", "result", value=digest("a result of its own"))
    records = resign(forge(list(read_chain(path))), KEYS["harbour"])
    assert verify_chain(records, roster()) == []
    path.write_bytes(b"".join(record.to_line() for record in records))
    assert [(one.party, one.index, one.field) for one in open_run(folder, None).findings] == [("harbour", 1, "result")]


def test_a_tail_hidden_behind_a_last_word_shows_beside_the_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=3, private=False)
    path = folder / "valley" / "audit.jsonl"
    path.unlink()
    path.parent.rmdir()
    shorter = write_party(tmp_path / "short", "valley", rounds=2, private=False)
    last = shorter.records[-1]
    left = last.model_copy(update={"body": last.body.model_copy(update={"outcome": "left"})})
    start = shorter.records[0]
    agreed = start.model_copy(update={"body": start.body.model_copy(update={"rounds": 3})})
    records = resign([agreed, *shorter.records[1:-1], left], KEYS["valley"])
    assert verify_chain(records, roster()) == []
    (tmp_path / "short" / "audit.jsonl").write_bytes(b"".join(record.to_line() for record in records))
    found = [(one.party, one.index, one.field) for one in open_run(folder, None).findings]
    assert found == [("valley", 4, "round")]
