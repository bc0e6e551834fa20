"""The converter: nothing is lost, and nothing that a peer sends raises anything but one error."""

from __future__ import annotations

import dataclasses
import math
import struct
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg import messages, setup_messages
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import (
    AggregatorMessage,
    CatchUp,
    Certificate,
    DealtShares,
    NodeMessage,
    Refusal,
    SurvivorSet,
    UploadBundle,
    UploadHeader,
)
from fedvlm_secure.secagg.record import Record, Statement, field_types, record_bytes
from fedvlm_secure.types import Digest, NodeId, Signature
from fedvlm_secure.wire import envelopes
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.fields import MAX_ENVELOPE_BYTES, MAX_LIST
from fedvlm_secure.wire.generated import fedvlm_pb2
from tests.support.records import records


def _records_of(module: object) -> list[type[Record]]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__  # type: ignore[attr-defined]
    ]
    return [cls for cls in found if cls not in (Statement, envelopes.OneOf)]


PROTOCOL = _records_of(setup_messages) + _records_of(messages)
TRAVELLING = PROTOCOL + _records_of(envelopes)


@pytest.mark.parametrize("cls", TRAVELLING, ids=lambda cls: cls.__name__)
def test_a_record_comes_back_as_it_was_sent(cls: type[Record]) -> None:
    @settings(max_examples=15, deadline=None)
    @given(record=records(cls))
    def round_trip(record: Record) -> None:
        again = from_wire(cls, to_wire(record))
        assert again == record
        assert record_bytes(again) == record_bytes(record)

    round_trip()


def test_every_record_has_a_message_with_the_same_fields_in_the_same_order() -> None:
    in_proto = {
        name: [(field.number, field.name) for field in message.fields]
        for name, message in fedvlm_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    in_code = {cls.__name__: list(enumerate(field_types(cls), 1)) for cls in TRAVELLING}
    assert in_proto == in_code


def test_every_message_of_either_side_has_an_envelope() -> None:
    for cls in typing.get_args(NodeMessage):
        envelope = envelopes.UploadPart if cls is UploadBundle else envelopes.NodeEnvelope
        assert cls.__name__ in str(list(field_types(envelope).values()))
    for cls in typing.get_args(AggregatorMessage):
        assert envelopes.field_for(cls) in field_types(envelopes.AggregatorEnvelope)


@settings(max_examples=300, deadline=None)
@given(cls=st.sampled_from(TRAVELLING), raw=st.binary(max_size=400))
def test_random_bytes_end_in_one_kind_of_error(cls: type[Record], raw: bytes) -> None:
    record, code = _attempt(cls, raw)
    if record is None:
        assert code == "MALFORMED_MESSAGE"
    else:
        assert from_wire(cls, to_wire(record)) == record


def _attempt(cls: type[Record], raw: bytes) -> tuple[Record | None, str]:
    """The record, or the code of the one error there is; any other error fails the test."""
    try:
        return from_wire(cls, raw), ""
    except PeerViolation as error:
        return None, error.code


@settings(max_examples=200, deadline=None)
@given(data=st.data(), cls=st.sampled_from(TRAVELLING))
def test_damaged_messages_end_in_one_kind_of_error(data: st.DataObject, cls: type[Record]) -> None:
    raw = bytearray(to_wire(data.draw(records(cls))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        match data.draw(st.integers(0, 2)):
            case 0 if raw:
                raw[at] = data.draw(st.integers(0, 255))
            case 1:
                del raw[at : at + data.draw(st.integers(1, 8))]
            case _:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    assert _attempt(cls, bytes(raw))[1] in ("", "MALFORMED_MESSAGE")


REFUSAL = Refusal(
    signature=Signature(bytes(64)), node=NodeId("a"), ctx=Digest(bytes(32)), code="X", nodes=(NodeId("b"),)
)
BAD = {
    "unknown field": to_wire(REFUSAL) + b"\xfa\x01\x01z",
    "singular field twice": to_wire(REFUSAL) + b"\x12\x01b",
    "wrong wire type": to_wire(REFUSAL).replace(b"\x12\x01a", b"\x10\x01"),
    "digest of 31 bytes": to_wire(REFUSAL).replace(b"\x1a\x20" + bytes(32), b"\x1a\x1f" + bytes(31)),
    "digest missing": to_wire(REFUSAL).replace(b"\x1a\x20" + bytes(32), b""),
    "length beyond the end": to_wire(REFUSAL)[:-1],
    "length of 2^63": b"\x0a" + b"\xff" * 8 + b"\x7f",
    "varint that never ends": b"\xff" * 40,
    "id with a slash": to_wire(REFUSAL).replace(b"\x12\x01a", b"\x12\x01/"),
    "text that is not UTF-8": to_wire(REFUSAL).replace(b"\x22\x01X", b"\x22\x01\xff"),
    "group tag": b"\x0b\x0c",
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_bytes_are_refused(fault: str) -> None:
    assert BAD[fault] != to_wire(REFUSAL)
    with pytest.raises(PeerViolation) as caught:
        from_wire(Refusal, BAD[fault])
    assert caught.value.code == "MALFORMED_MESSAGE"


def test_a_bomb_of_empty_messages_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"\x12\x00" * (MAX_ENVELOPE_BYTES // 2)

    def parse(raw: bytes) -> None:
        raise AssertionError("protobuf saw the bomb")

    monkeypatch.setattr("fedvlm_secure.wire.codec._message_class", lambda cls: type("Spy", (), {"FromString": parse}))
    with pytest.raises(PeerViolation, match=f"more than {MAX_LIST}"):
        from_wire(SurvivorSet, bomb)
    with pytest.raises(PeerViolation, match="at most"):
        from_wire(SurvivorSet, bomb + b"\x12\x00")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_a_finite_number_is_refused(value: float) -> None:
    tag = b"\x51"  # Manifest.max_update, a double
    sound = to_wire(_manifest())
    assert sound.count(tag + struct.pack("<d", 0.25)) == 1
    assert from_wire(messages.Manifest, sound) == _manifest()
    with pytest.raises(PeerViolation):
        from_wire(messages.Manifest, sound.replace(tag + struct.pack("<d", 0.25), tag + struct.pack("<d", value)))


def _manifest() -> messages.Manifest:
    values: dict[typing.Any, object] = {int: 3, str: "x", bytes: b"y", float: 0.25, Digest: bytes(32)}
    fields = field_types(messages.Manifest).items()
    return messages.Manifest(**{name: values.get(declared, ()) for name, declared in fields})  # type: ignore[arg-type]


def test_a_chunk_is_at_most_one_mebibyte() -> None:
    whole = envelopes.UploadPart(chunk=envelopes.Chunk(index=0, content=bytes(CHUNK_BYTES)))
    assert from_wire(envelopes.UploadPart, to_wire(whole)) == whole
    over = fedvlm_pb2.UploadPart(chunk=fedvlm_pb2.Chunk(index=0, content=bytes(CHUNK_BYTES + 1)))
    with pytest.raises(PeerViolation):
        from_wire(envelopes.UploadPart, over.SerializeToString())


def test_an_envelope_without_a_message_or_an_unsigned_certificate_is_refused() -> None:
    with pytest.raises(PeerViolation):
        from_wire(envelopes.NodeEnvelope, b"")
    with pytest.raises(PeerViolation):
        from_wire(CatchUp, b"\x0a\x00")
    with pytest.raises(ValueError):
        Certificate()


def test_the_largest_messages_of_a_hundred_hospitals_fit_an_envelope() -> None:
    n, digest = 100, Digest(bytes(32))
    nodes = tuple(NodeId(f"hospital-{k:055d}") for k in range(n))
    header = UploadHeader(
        signature=Signature(bytes(64)),
        node=nodes[0],
        ctx=digest,
        words=1 << 40,
        tree_root=digest,
        self_commitment=digest,
        pair_commitments=(digest,) * (n - 1),
        share_root=digest,
        sealed_hashes=(digest,) * (n - 1),
    )
    dealt = DealtShares(sealed=bytes(33 * n + 28), path=(digest,) * 7)
    survivors = SurvivorSet(
        ctx=digest,
        headers=tuple(dataclasses.replace(header, node=node) for node in nodes),
        dealt=(dealt,) * n,
    )
    assert from_wire(SurvivorSet, to_wire(survivors)) == survivors
    reveal = messages.Reveal(
        signature=Signature(bytes(64)),
        node=nodes[0],
        ctx=digest,
        self_shares=(bytes(33),) * 67,
        pair_shares=(bytes(33),) * (67 * 33),
        leaves=(digest,) * (n * n),
    )
    assert from_wire(messages.Reveal, to_wire(reveal)) == reveal
