"""Any bytes, at every decoder and handler: a value, or one error of ours. Random here; by coverage in `make fuzz`."""

from __future__ import annotations

import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.calls import CALLS
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import CORPUS, TARGETS

_EXAMPLES = {"aggregator-machine": 60, "node-machine": 60, "keystore-file": 60, "approval-file": 25}
_MOST_CALLS = 80
_CASE_S = 5.0
_CASE_BYTES = 64 << 20


@cache
def _seeds(name: str) -> list[bytes]:
    return seeds(name)


@st.composite
def cases(draw: st.DrawFn, name: str) -> bytes:
    """Noise, or a sound input with a piece cut out, put in, doubled or overwritten."""
    known = _seeds(name)
    if not known or draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=120))
    raw = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        size = draw(st.integers(0, 40))
        piece = draw(
            st.sampled_from((b"", raw[at : at + size] * 2, bytes(size), b"\xff" * size)) | st.binary(max_size=9)
        )
        raw = raw[:at] + piece + raw[at + size :]
    return raw


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_end_in_a_value_or_an_error_of_ours(name: str) -> None:
    most = _EXAMPLES.get(name, _MOST_CALLS if name in CALLS else 120)

    @settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))
    @given(raw=cases(name))
    def holds(raw: bytes) -> None:
        TARGETS[name](raw)

    holds()


KEPT = [path for name in TARGETS for path in sorted((CORPUS / name).glob("*"))]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_kept_case_stays_settled(path: Path) -> None:
    """What a fuzzer found once, and cases that reach far; each under a bound of time and memory."""
    target, raw = TARGETS[path.parent.name], path.read_bytes()
    target(b"")  # what is loaded once is not the case's
    tracemalloc.start()
    start_s = time.monotonic()
    try:
        target(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start_s < _CASE_S
    assert peak < _CASE_BYTES


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 256 << 10
