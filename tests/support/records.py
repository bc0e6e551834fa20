"""Hypothesis strategies: any record of the protocol, from the declared types of its fields."""

from __future__ import annotations

import types as pytypes
import typing
from typing import Any

from hypothesis import strategies as st

from fedvlm_secure.secagg.messages import Abort, Certificate, Refusal, ResultAck, VoidAck
from fedvlm_secure.secagg.record import Record, field_types
from fedvlm_secure.types import Digest, NodeId, Signature
from fedvlm_secure.wire.envelopes import AggregatorEnvelope, Chunk, DownloadRequest, OneOf

_ATOMS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=40),
    bytes: st.binary(max_size=80),
    Digest: st.binary(min_size=32, max_size=32),
    Signature: st.binary(min_size=64, max_size=64),
    NodeId: st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True),
}


def records(cls: type[Record]) -> st.SearchStrategy[Any]:
    """Any `cls` that its own checks accept."""
    if cls is Certificate:
        return st.one_of(_certificates(ResultAck, "result_acks"), _certificates(VoidAck, "void_acks"))
    if issubclass(cls, OneOf):
        return _envelopes(cls)
    fields = {name: _values(declared) for name, declared in field_types(cls).items()}
    if cls in (Abort, Refusal):
        fields["code"] = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)
    if cls in (Chunk, DownloadRequest):
        name = "index" if cls is Chunk else "first_chunk"
        fields[name] = st.integers(0, (1 << 63) - 1)
    return st.builds(cls, **fields)


def _values(declared: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(declared) is tuple:
        return st.lists(_values(typing.get_args(declared)[0]), max_size=3).map(tuple)
    if typing.get_origin(declared) in (pytypes.UnionType, typing.Union):
        return st.none() | _values(next(arg for arg in typing.get_args(declared) if arg is not type(None)))
    if isinstance(declared, type) and issubclass(declared, Record):
        return records(declared)
    return _ATOMS[declared]


def _certificates(ack: type[Record], name: str) -> st.SearchStrategy[Any]:
    nodes = st.lists(_ATOMS[NodeId], min_size=1, max_size=3, unique=True)
    one = {field: _values(declared) for field, declared in field_types(ack).items()}

    def build(drawn: tuple[list[str], dict[str, Any]]) -> Certificate:
        return Certificate(**{name: tuple(ack(**{**drawn[1], "node": node}) for node in drawn[0])})

    return st.tuples(nodes, st.fixed_dictionaries(one)).map(build)


def _envelopes(cls: type[OneOf]) -> st.SearchStrategy[Any]:
    bodies = {}
    for name, declared in field_types(cls).items():
        if typing.get_origin(declared) in (pytypes.UnionType, typing.Union):
            bodies[name] = records(next(arg for arg in typing.get_args(declared) if arg is not type(None)))
    extra = {"attachment": st.just(b"") | _ATOMS[Digest]} if cls is AggregatorEnvelope else {}
    return st.one_of(
        [st.fixed_dictionaries({name: body, **extra}).map(lambda given: cls(**given)) for name, body in bodies.items()]
    )
