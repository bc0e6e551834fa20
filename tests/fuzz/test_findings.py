"""What fuzzing found, each told as the fault it was: a peer's or an operator's bytes that brought a service down."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedvlm_secure.console import report_error
from fedvlm_secure.dp.events import from_record
from fedvlm_secure.errors import IdentityError, PeerViolation, PolicyError
from fedvlm_secure.policy import join
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.policy.roster import parse_roster
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.aggregator_run import AggregatorRun
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import Abort, ResultAck
from fedvlm_secure.secagg.record import MAX_TEXT_BYTES
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.types import NodeId
from node.approvals import approvals, approve
from node.keystore import create_keystore, open_keystore
from node.ledger_entries import GENESIS, Entry, LimitSet, parse_entry
from tests.fuzz.targets import CORPUS
from tests.support.cohort import POLICIES, Cohort
from tests.support.liars import LyingAggregator, restate

NODE = NodeId("a")


def test_a_long_version_in_a_hello_does_not_end_the_aggregator() -> None:
    """The refusal quoted it and no longer fitted a message."""
    cohort = Cohort(3)
    hello = cohort.federation.nodes[NODE].run.hello()
    long = restate(hello, cohort.federation.nodes[NODE].own.signer, version="A" * MAX_TEXT_BYTES)
    (told,) = cohort.federation.aggregator.receive(NODE, long, 0.0)
    assert isinstance(told.message, Abort) and len(told.message.cause.encode()) <= MAX_TEXT_BYTES
    cohort.run()
    assert cohort.phase is Phase.DONE


@pytest.mark.parametrize("change", [{"round": 5}, {"run_hash": bytes(32)}], ids=["another round", "another run"])
def test_an_acknowledgement_of_something_else_is_refused_before_it_is_kept(change: dict[str, object]) -> None:
    """It was journalled with the others and made no certificate with them, after each restart again."""
    acks: list[ResultAck] = []

    def tap(direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, ResultAck):
            acks.append(message)
        return True

    cohort = Cohort(3, tap=tap)
    cohort.run(lambda federation: bool(acks))
    liar = cohort.federation.nodes[acks[0].node]
    lie = restate(acks[0], liar.own.signer, **change)
    with pytest.raises(PeerViolation) as caught:
        cohort.federation.aggregator.receive(acks[0].node, lie, 0.0)
    assert caught.value.code == "BAD_ACK"
    cohort.run()
    assert cohort.phase is Phase.DONE


def test_a_manifest_that_starts_before_all_numbers_is_the_aggregators_fault() -> None:
    """One less than the smallest number of 64 bits was ours."""
    liar = LyingAggregator(3)
    opened = liar.node("a").own.memory.opened_epoch
    assert opened is not None
    for change in ({"start_round": -(1 << 63)}, {"start_round": -1}, {"start_epoch": -1}):
        manifest = dataclasses.replace(opened.manifest, **change)  # type: ignore[arg-type]
        liar.refused("a", restate(opened, liar.signer, manifest=manifest), "MANIFEST_MISMATCH")


def test_a_hello_after_a_run_that_ended_before_it_began_is_answered() -> None:
    cohort = Cohort(3)
    federation = cohort.federation
    machine = AggregatorRun(federation.aggregator_self, 0.0)
    machine.abort()
    assert machine.phase is Phase.ABORTED and federation.aggregator_self.memory.opened is None
    machine.connected(NODE, 0.0)
    told = machine.receive(NODE, federation.nodes[NODE].run.hello(), 0.0)
    assert [type(one.message) for one in told] == [Abort]


def test_a_chunk_beyond_what_a_file_can_have_is_not_there(tmp_path: Path) -> None:
    """The offset did not fit the system's call."""
    blobs = FileBlobs(tmp_path)
    root = chunk_root(b"sum")
    blobs.put([b"sum"])
    assert [blobs.chunk(root, index) for index in (0, 1, 1 << 43, (1 << 63) - 1)] == [b"sum", None, None, None]


@pytest.mark.parametrize(
    "record",
    [
        {
            "kind": "MixtureOfGaussians",
            "noise_multiplier": 1.0,
            "sensitivities": [1.0, 1.0],
            "probabilities": [1e308, 1e308],
        },
        {
            "kind": "Perturbed",
            "event": {
                "kind": "Composed",
                "events": [
                    {
                        "kind": "Perturbed",
                        "event": {"kind": "Gaussian", "noise_multiplier": 1.0},
                        "log_ratio": 1e308,
                        "total_variation": 0.0,
                    }
                ]
                * 2,
            },
            "log_ratio": 0.0,
            "total_variation": 0.0,
        },
    ],
    ids=["probabilities", "log ratios"],
)
def test_numbers_that_overflow_when_added_make_no_event(record: dict[str, object]) -> None:
    with pytest.raises(PeerViolation) as caught:
        from_record(record)
    assert caught.value.code == "EVENT_MALFORMED"


def test_a_ledger_entry_of_wrong_types_is_no_entry() -> None:
    """Such an entry was taken into the book before the anchor was compared, and failed there in any way."""
    sound = Entry(2, GENESIS, 1, LimitSet("east", 8.0))
    assert parse_entry(sound.to_bytes()) == sound
    for fault in (
        dataclasses.replace(sound, body=LimitSet(b"east", 8.0)),  # type: ignore[arg-type]
        dataclasses.replace(sound, body=LimitSet("east", "8")),  # type: ignore[arg-type]
        dataclasses.replace(sound, body=LimitSet("east", True)),
        dataclasses.replace(sound, at_s="now"),  # type: ignore[arg-type]
        dataclasses.replace(sound, sequence=0),
    ):
        with pytest.raises(ValueError, match="not a ledger entry"):
            parse_entry(fault.to_bytes())


def test_a_join_file_with_a_request_of_another_version_is_one_error() -> None:
    """The library has an exception of its own for that, beside ValueError."""
    raw = (CORPUS / "join-file" / "request-version-4").read_bytes()
    with pytest.raises(IdentityError) as caught:
        join.parse(raw, "x.join")
    assert caught.value.code == "JOIN_UNREADABLE"


def test_a_roster_of_one_endless_dotted_key_is_refused_at_once() -> None:
    """The standard parser's time grows with the square of a key's parts: a file of 1 MiB took more than six minutes."""
    start_s = time.monotonic()
    with pytest.raises(PolicyError) as caught:
        parse_roster(b"a" + b".a" * (1 << 18) + b"=1", "roster.toml")
    assert caught.value.code == "ROSTER_INVALID"
    assert time.monotonic() - start_s < 2


def test_a_code_of_a_peer_is_a_code() -> None:
    """It is printed, logged and put on record as it stands; text with an escape sequence is no message at all."""
    for text in ("", "x", "BAD CODE", "\x1b[31mA", "A\nB", "=A", "A" * 65):
        with pytest.raises(ValueError):
            Abort(code=text, cause="", hint="")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        report_error("node", PolicyError("A\x1b[31m", "cause\r\x1b[2J", "hint\x00"))
    assert all(character.isprintable() or character == "\n" for character in said.getvalue())


def test_deeply_nested_brackets_in_a_keystore_or_approval_are_one_error(tmp_path: Path) -> None:
    """A megabyte of opening brackets exhausts the parser's stack."""
    brackets = b"[" * 200_000
    create_keystore(tmp_path / "state", NODE)
    (tmp_path / "state" / "keys" / "node.json").write_bytes(brackets)
    with pytest.raises(IdentityError) as caught:
        open_keystore(tmp_path / "state")
    assert caught.value.code == "KEYS_DAMAGED"
    approve(tmp_path, read_policy(POLICIES / "fedavg.yaml"), datetime(2026, 1, 1, tzinfo=UTC))
    (path,) = (tmp_path / "approved").glob("*/*.approval.json")
    path.write_bytes(brackets)
    with pytest.raises(PolicyError) as altered:
        approvals(tmp_path)
    assert altered.value.code == "APPROVAL_ALTERED"
