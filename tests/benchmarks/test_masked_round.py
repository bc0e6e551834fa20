"""What the benchmarks measure is the protocol's own sum, and their figures say what they hold."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import mask_rate, peers, row, run, stages
from benchmarks.masked_round import MaskedRound, in_chunks, update_of
from benchmarks.measure import Cost, in_turn, peak_beyond
from benchmarks.peers import Peer, PeerFailed, PeerMissing
from benchmarks.row import Row, at_least, at_most
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import NodeId

NODES, DIMENSION, LOST = 5, 3000, 1


def uploads(made: MaskedRound) -> dict[NodeId, bytes]:
    return {
        node: made.upload(node, made.encode(update_of(at, made.dimension))) for at, node in enumerate(made.survivors)
    }


def sent(chunks: Iterator[memoryview]) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks)


def test_the_measured_aggregator_stage_decodes_the_survivors_mean() -> None:
    made = MaskedRound(NODES, DIMENSION, LOST)
    unmasking, reveals = made.unmasking()
    vectors = {node: in_chunks(content) for node, content in uploads(made).items()}
    mean = made.aggregator_stage(unmasking, reveals, vectors)
    true = np.mean([update_of(at, DIMENSION).astype(np.float64) for at in range(NODES - LOST)], axis=0)
    assert float(np.abs(mean - true).max()) <= 2.0 ** -made.vector.lanes.scale_bits(0.25)


def test_the_shortened_uploads_add_up_to_what_the_real_ones_do() -> None:
    made = MaskedRound(NODES, DIMENSION, LOST)
    short = sum(np.frombuffer(content, dtype="<u8") for content in uploads(made).values())
    real = np.zeros(made.vector.words, dtype=np.uint64)
    for at, node in enumerate(made.survivors):
        stream = made.masks(made.keys(node)).stream()
        real += np.frombuffer(sent(made.node_stage(update_of(at, DIMENSION), stream)), dtype="<u8")
    assert np.array_equal(short, real)


def test_masks_expanded_ahead_give_the_same_bytes() -> None:
    made = MaskedRound(NODES, DIMENSION)
    masks = made.masks(made.keys(made.cohort.nodes[2]))
    update = update_of(2, DIMENSION)
    streamed, ahead = (sent(made.node_stage(update, mask)) for mask in (masks.stream(), masks.expand()))
    assert streamed == ahead


def test_a_wrong_share_does_not_pass_the_measured_stage() -> None:
    made = MaskedRound(NODES, DIMENSION, LOST)
    unmasking, reveals = made.unmasking()
    shares = (bytes(33), *reveals[0].self_shares[1:])
    with pytest.raises(PeerViolation):
        made.aggregator_stage(unmasking, (replace(reveals[0], self_shares=shares), *reveals[1:]), {})


@pytest.mark.parametrize(
    ("target", "ratio", "holds"),
    [(at_least(8), 8.0, True), (at_least(8), 7.9, False), (at_most(1.1), 1.2, False), (None, 1.0, None)],
)
def test_a_row_says_whether_it_holds(target: row.Target | None, ratio: float, holds: bool | None) -> None:
    assert Row(name="x", value=1.0, unit="s", ratio=ratio, target=target).as_json()["holds"] is holds


def test_a_target_without_a_figure_does_not_hold() -> None:
    assert Row(name="x", value=1.0, unit="s", target=at_least(1)).holds is False


def test_a_case_replaces_its_own_rows_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    row.merge(out, "a", [Row(name="a/1", value=1.0, unit="s"), Row(name="a/2", value=2.0, unit="s")])
    row.merge(out, "b", [Row(name="b/1", value=3.0, unit="s")])
    row.merge(out, "a", [Row(name="a/1", value=4.0, unit="s")])
    assert [(found["name"], found["value"]) for found in row.read(out)] == [("a/1", 4.0), ("b/1", 3.0)]


def test_a_file_that_holds_no_rows_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    out.write_text("[1, 2]")
    with pytest.raises(ValueError, match="no file of benchmark rows"):
        row.merge(out, "a", [])
    assert out.read_text() == "[1, 2]"


def test_a_tiny_run_writes_rows_that_name_the_machine_but_not_the_host_or_its_paths(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    assert run.main(["--quick", "--only", "bytes/upload", "--out", str(out)]) == 0
    rows = row.read(out)
    assert {found["name"]: found["holds"] for found in rows}["upload-bytes/three-lanes"] is True
    assert all(found["provenance"]["cores"] >= 1 and found["provenance"]["versions"]["numpy"] for found in rows)
    written = json.dumps(rows)
    assert str(Path(__file__).parents[2]) not in written and str(tmp_path) not in written
    assert not platform.node() or f'"{platform.node()}"' not in written


def test_what_has_a_row_is_not_measured_again_when_only_the_missing_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    row.merge(out, "bytes/upload", [Row(name="kept", value=1.0, unit="s")])
    assert run.main(["--quick", "--only", "bytes/upload", "--missing", "--out", str(out)]) == 0
    assert [found["name"] for found in row.read(out)] == ["kept"]
    assert "missing" in capsys.readouterr().out


def test_a_mask_is_measured_against_as_many_bytes_of_bare_keystream() -> None:
    (found,) = mask_rate.node(30_000)
    assert found.facts["masks"] == mask_rate.NODES and found.facts["bytes_per_mask"] == 8 * (10_000 + 1 + 1)
    assert found.ratio is not None and 0.0 < found.ratio < 10.0


def test_peak_memory_sees_what_numpy_takes_and_gives_back() -> None:
    size = 32 << 20
    result, peak = peak_beyond(lambda: float(np.ones(size // 8).sum()))
    assert result == size // 8 and 0.98 * size <= peak < 2 * size  # the kernel counts pages in batches


def test_measurements_in_turn_alternate_and_give_medians() -> None:
    order: list[str] = []

    def act(name: str, seconds: float) -> Cost:
        order.append(name)
        return Cost(seconds * len(order), seconds)

    one, other = in_turn(3, lambda: act("a", 1.0), lambda: act("b", 10.0))
    assert order == ["a", "b"] * 3
    assert (one, other) == (Cost(3.0, 1.0), Cost(40.0, 10.0))


class _Exhausted:
    """A peer that cannot come to an end within its limits."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def __enter__(self) -> _Exhausted:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ask(self, do: str, **request: object) -> dict[str, object]:
        raise PeerFailed(f"{self.peer.name} was not done with `{do}` within 180 s")


def test_a_peer_past_its_limits_leaves_our_figures_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PeerProcess", _Exhausted)
    rows = {found.name.split("/")[0]: found for found in stages.measure(stages.Shape(NODES, DIMENSION, 0))}
    assert set(rows) == {"node-stage", "node-stage-ahead", "aggregator-stage"}
    for found in rows.values():
        assert found.value > 0 and found.ratio is None and found.against_value is None
        assert "within 180 s" in found.facts["peer"]["not_measured"]


def test_a_peer_whose_environment_was_not_made_is_no_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    with pytest.raises(PeerMissing, match="bench-peers"):
        stages.measure(stages.Shape(NODES, DIMENSION, 0))
