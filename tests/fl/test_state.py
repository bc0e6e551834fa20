"""A state read and written piece by piece: the bytes and digests are those of the whole, and nothing else decodes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import BLOCK, ServerState, StoredState
from fedvlm_secure.fl.state_form import Reader, StateForm

SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]
SLOTS = [(), ("m",), ("v", "m"), ("m", "é", "mm")]


def state_of(dimension: int, names: tuple[str, ...] = ("v", "m"), **numbers: float) -> ServerState:
    rng = np.random.default_rng(dimension)
    slots = {name: rng.standard_normal(dimension) for name in names}
    return ServerState(rng.standard_normal(dimension, dtype=np.float32), slots, numbers)


def whole(state: ServerState) -> bytes:
    """The encoding as its definition has it, from whole arrays."""
    return canonical.encode(
        {
            "model": state.model.astype("<f4").tobytes(),
            "slots": {name: slot.astype("<f8").tobytes() for name, slot in state.slots.items()},
            "numbers": dict(state.numbers),
        }
    )


def stored(raw: bytes, spans: list[tuple[int, int]] | None = None) -> StoredState:
    def reader() -> Reader:
        def read(start: int, size: int) -> bytes:
            if spans is not None:
                spans.append((start, size))
            return raw[start : start + size]

        return read

    return StoredState.read(reader, len(raw))


@pytest.mark.parametrize("names", SLOTS, ids=str)
@pytest.mark.parametrize("dimension", SIZES)
def test_state_in_pieces_has_the_bytes_and_the_digest_of_the_whole(dimension: int, names: tuple[str, ...]) -> None:
    state = state_of(dimension, names, steps=3.0, stage=0.0)
    raw = whole(state)
    hashes = {name: hashlib.sha256(slot.astype("<f8").tobytes()).digest() for name, slot in state.slots.items()}
    model = hashlib.sha256(state.model.astype("<f4").tobytes()).digest()
    assert state.to_bytes() == raw == b"".join(stored(raw).encoded(1000))
    assert state.digest == stored(raw).digest == canonical.digest("state", model, hashes, {"steps": 3.0, "stage": 0.0})
    again = stored(raw).load()
    assert np.array_equal(again.model, state.model) and again.numbers == state.numbers
    assert set(again.slots) == set(names)
    assert all(np.array_equal(again.slots[name], state.slots[name]) for name in names)
    assert np.array_equal(stored(raw).model, state.model)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 12, 1 << 20])
def test_every_chunk_of_the_encoding_is_full_but_the_last(chunk_bytes: int) -> None:
    state = state_of(500)
    chunks = list(state.encoded(chunk_bytes))
    assert b"".join(chunks) == whole(state)
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_bytes} and 0 < len(chunks[-1]) <= chunk_bytes


def test_parts_of_a_state_join_to_it_and_to_no_other_size() -> None:
    state = state_of(2 * BLOCK + 5, beta=0.5)
    parts = list(state.parts())
    assert [len(part.model) for part in parts] == [BLOCK, BLOCK, 5]
    assert ServerState.joined(2 * BLOCK + 5, parts).digest == state.digest
    for missing in (parts[1:], []):
        with pytest.raises(ValueError, match="parts of"):
            ServerState.joined(2 * BLOCK + 5, missing)


def test_minus_zero_is_written_as_zero_wherever_it_stands() -> None:
    minus = ServerState(np.full(BLOCK + 1, -0.0, dtype=np.float32), {"m": np.full(BLOCK + 1, -0.0)})
    zero = ServerState(np.zeros(BLOCK + 1, dtype=np.float32), {"m": np.zeros(BLOCK + 1)})
    assert minus.to_bytes() == zero.to_bytes() and minus.digest == zero.digest


def test_who_needs_the_model_alone_does_not_read_the_memory_beside_it() -> None:
    spans: list[tuple[int, int]] = []
    raw = whole(state_of(4 * BLOCK))
    held = stored(raw, spans)
    spans.clear()
    assert len(held.model) == 4 * BLOCK
    assert max(start + size for start, size in spans) <= 31 + 4 * 4 * BLOCK  # 31 bytes stand before the model


def test_no_pass_over_a_stored_state_reads_more_than_a_block_at_once() -> None:
    spans: list[tuple[int, int]] = []
    held = stored(whole(state_of(4 * BLOCK)), spans)
    for use in (
        lambda: held.digest,
        lambda: list(held.encoded(1 << 20)),
        lambda: [part.digest for part in held.parts()],
    ):
        use()
    assert max(size for _, size in spans) <= 8 * BLOCK


def test_state_whose_bytes_are_gone_is_an_error_and_no_shorter_state() -> None:
    raw = whole(state_of(2 * BLOCK))
    held = [raw]
    state = StoredState.read(lambda: lambda start, size: held[0][start : start + size], len(raw))
    held[0] = raw[: len(raw) // 2]
    with pytest.raises(ValueError):
        _ = state.digest


FAULTS: Mapping[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[:-1],
    "cut in the middle": lambda raw: raw[: len(raw) // 2],
    "one byte more": lambda raw: raw + b"\x00",
    "slots not in order": lambda raw: raw.replace(b"\x01m" + b"b", b"\x01z" + b"b"),
    "one slot twice": lambda raw: raw.replace(b"\x01v" + b"b", b"\x01m" + b"b"),
    "name that is no text": lambda raw: raw.replace(b"\x01v" + b"b", b"\x01\xff" + b"b"),
    "slot that is a text": lambda raw: raw.replace(b"\x01v" + b"b", b"\x01v" + b"s"),
    "slot of another length": lambda raw: raw.replace((80).to_bytes(8, "big"), (72).to_bytes(8, "big"), 1),
    "model without an end": lambda raw: raw.replace((40).to_bytes(8, "big"), b"\xff" * 8, 1),
    "number that is minus zero": lambda raw: raw.replace(b"d" + bytes(8), b"d\x80" + bytes(7)),
    "more slots than named": lambda raw: raw.replace(b"m" + (2).to_bytes(8, "big"), b"m" + (3).to_bytes(8, "big")),
    "slots without an end": lambda raw: raw.replace(b"m" + (2).to_bytes(8, "big"), b"m" + b"\xff" * 8),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bytes_that_are_not_the_one_encoding_of_a_state_are_refused(fault: str) -> None:
    raw = whole(state_of(10, steps=0.0))
    assert stored(raw).form == StateForm(10, ("m", "v"), {"steps": 0.0})
    spoilt = FAULTS[fault](raw)
    assert spoilt != raw
    with pytest.raises(ValueError):
        stored(spoilt)


def test_more_slots_than_any_algorithm_has_are_refused_before_they_are_read() -> None:
    spans: list[tuple[int, int]] = []
    many = {f"{at:05d}": b"" for at in range(10_000)}
    with pytest.raises(ValueError, match="slots"):
        stored(canonical.encode({"model": b"", "numbers": {}, "slots": many}), spans)
    assert len(spans) < 10


@given(raw=st.binary(max_size=80), at=st.integers(0, 400), flip=st.integers(1, 255))
def test_what_is_taken_for_a_state_is_what_decodes_as_one_whole(raw: bytes, at: int, flip: int) -> None:
    """One byte of a sound encoding changed, or any bytes at all: the piecewise reader accepts no other language."""
    sound = bytearray(whole(state_of(9, steps=0.5)))
    sound[at % len(sound)] ^= flip
    for candidate in (raw, bytes(sound)):
        try:
            state = stored(candidate)
        except ValueError:
            continue
        values = canonical.decode(candidate)
        assert set(values) == {"model", "numbers", "slots"}
        assert len(values["model"]) == 4 * state.form.dimension and dict(state.form.numbers) == values["numbers"]
        assert {name: len(slot) for name, slot in values["slots"].items()} == dict.fromkeys(
            state.form.slots, 8 * state.form.dimension
        )


def test_state_of_no_coordinates_comes_back() -> None:
    empty = ServerState(np.zeros(0, dtype=np.float32), {"m": np.zeros(0)})
    assert ServerState.from_bytes(empty.to_bytes()).digest == empty.digest
