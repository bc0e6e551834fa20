"""Records: every message comes back from its bytes, none can contradict its types, no signature serves twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.closing import Closing
from fedvlm_secure.rounds.node_memory import SignedSet
from fedvlm_secure.secagg import messages, setup_messages
from fedvlm_secure.secagg.messages import EpochAck, KeyAdvert, Manifest, Refusal, ResultAck, SurvivorSignature, VoidAck
from fedvlm_secure.secagg.record import Record, Signer, Statement, record_bytes, record_from_bytes, verify
from fedvlm_secure.types import Digest, NodeId, Signature, node_id
from tests.support.entropy import secret
from tests.support.records import records

KINDS: list[type[Record]] = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type)
    and issubclass(kind, Record)
    and kind.__module__ in (messages.__name__, setup_messages.__name__)
]
KINDS += [Closing, SignedSet]
STATEMENTS: list[type[Statement]] = [kind for kind in KINDS if issubclass(kind, Statement)]
SIGNER, STRANGER = (Signer(Ed25519PrivateKey.from_private_bytes(secret(name).reveal())) for name in ("own", "stranger"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_record_comes_back_from_its_bytes(kind: type[Record]) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(records(kind))
    def comes_back(record: Record) -> None:
        raw = record_bytes(record)
        assert record_from_bytes(kind, raw) == record
        assert record_bytes(record_from_bytes(kind, raw)) == raw

    comes_back()


@pytest.mark.parametrize("kind", STATEMENTS, ids=lambda kind: kind.__name__)
def test_signature_holds_for_this_statement_of_this_signer_only(kind: type[Statement]) -> None:
    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(records(kind), records(kind))
    def holds(drawn: Statement, other: Statement) -> None:
        body = {f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn) if f.name != "signature"}
        signed = SIGNER.sign(kind, **body)
        verify(signed, SIGNER.public)
        with pytest.raises(PeerViolation) as caught:
            verify(signed, STRANGER.public)
        assert caught.value.code == "BAD_SIGNATURE"
        for name in body:
            changed = (
                dataclasses.replace(signed, **{name: getattr(other, name)}) if _fits(signed, name, other) else signed
            )
            if changed != signed:
                with pytest.raises(PeerViolation):
                    verify(changed, SIGNER.public)

    holds()


def _fits(record: Any, name: str, other: Any) -> bool:
    try:
        dataclasses.replace(record, **{name: getattr(other, name)})
    except ValueError:
        return False
    return True


def test_signature_of_one_kind_never_serves_as_another() -> None:
    assert len({kind.label for kind in STATEMENTS}) == len(STATEMENTS)
    ack = SIGNER.sign(EpochAck, node=NodeId("a"), roster_hash=Digest(bytes(32)))
    relabelled = type("Relabelled", (EpochAck,), {"label": "result-ack"})
    fields = {f.name: getattr(ack, f.name) for f in dataclasses.fields(ack)}
    with pytest.raises(PeerViolation):
        verify(relabelled(**fields), SIGNER.public)


GOOD: dict[str, Any] = {
    "signature": Signature(bytes(64)), "node": NodeId("a"), "run_hash": Digest(bytes(32)), "epoch": 0, "public": b"",
    "holds_start": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"node": NodeId("../x")},
        {"node": NodeId("")},
        {"node": NodeId("A")},
        {"node": NodeId("a\n")},
        {"node": NodeId("a" * 65)},
        {"node": 1},
        {"run_hash": Digest(bytes(31))},
        {"run_hash": Digest(bytes(33))},
        {"run_hash": "0" * 32},
        {"epoch": 1 << 63},
        {"epoch": -(1 << 63) - 1},
        {"epoch": True},
        {"epoch": 1.0},
        {"public": "text"},
        {"public": None},
        {"signature": Signature(bytes(63))},
    ],
    ids=repr,
)
def test_record_with_a_field_of_another_type_or_length_cannot_be_made(fault: dict[str, Any]) -> None:
    KeyAdvert(**GOOD)
    with pytest.raises(ValueError):
        KeyAdvert(**{**GOOD, **fault})


def test_tuple_fields_are_checked_item_by_item() -> None:
    good: dict[str, Any] = {
        "signature": Signature(bytes(64)),
        "node": NodeId("a"),
        "ctx": Digest(bytes(32)),
        "code": "BAD_DEALER",
    }
    for nodes in ((NodeId("../x"),), [NodeId("a")], ("a", 1), "a"):
        with pytest.raises(ValueError):
            Refusal(**{**good, "nodes": nodes})
    with pytest.raises(ValueError, match="4096"):
        Refusal(**{**good, "code": "x" * 4097}, nodes=())


def test_manifest_with_a_clip_bound_that_is_no_number_cannot_be_made() -> None:
    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(records(Manifest))
    def refused(manifest: Manifest) -> None:
        with pytest.raises(ValueError):
            dataclasses.replace(manifest, max_update=float("nan"))
        with pytest.raises(ValueError):
            dataclasses.replace(manifest, max_update=1)

    refused()


BODY = {"signature": bytes(64), "node": "a", "ctx": bytes(32), "survivors": bytes(32)}


@pytest.mark.parametrize(
    "value",
    [
        {},
        [BODY],
        {**BODY, "extra": 1},
        {name: value for name, value in BODY.items() if name != "ctx"},
        {**BODY, "ctx": None},
        {**BODY, "ctx": [1]},
        {**BODY, "node": b"a"},
    ],
    ids=["empty", "list", "extra field", "missing field", "none", "list for bytes", "bytes for text"],
)
def test_bytes_of_another_shape_are_no_record(value: object) -> None:
    assert record_from_bytes(SurvivorSignature, canonical.encode(BODY))
    with pytest.raises(ValueError):
        record_from_bytes(SurvivorSignature, canonical.encode(value))


def test_closing_of_a_void_round_has_its_own_place_in_the_chain() -> None:
    fields: dict[str, Any] = {"node": NodeId("a"), "run_hash": Digest(bytes(32)), "round": 1}
    void = SIGNER.sign(VoidAck, **fields, previous_result=Digest(bytes(32)), state_hash=Digest(bytes(32)))
    later = SIGNER.sign(
        VoidAck, **{**fields, "round": 2}, previous_result=Digest(bytes(32)), state_hash=Digest(bytes(32))
    )
    result = SIGNER.sign(ResultAck, **fields, result_hash=Digest(bytes(32)), state_hash=Digest(bytes(32)))
    assert len({void.result_hash, later.result_hash, result.result_hash}) == 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=70))
def test_node_id_is_a_plain_name_or_refused(text: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    if 1 <= len(text) <= 64 and set(text) <= allowed:
        assert node_id(text) == text
    else:
        with pytest.raises(ValueError, match="must match"):
            node_id(text)


@pytest.mark.parametrize("code", ["", "lower", "A B", "A\n", "A\x1b[2J", "=A1", "A" * 65, "1A"])
def test_a_peer_gets_nothing_but_a_code_into_a_code(code: str) -> None:
    with pytest.raises(ValueError):
        messages.Abort(code=code, cause="", hint="")
    with pytest.raises(ValueError):
        SIGNER.sign(Refusal, node=NodeId("a"), ctx=Digest(bytes(32)), code=code, nodes=())
