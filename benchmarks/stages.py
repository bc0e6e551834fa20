"""Rows 1 and 3: a node's stage and the aggregator's stage beside Flower's SecAgg+, taken in turn."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.case import Case, size_name
from benchmarks.masked_round import MaskedRound, in_chunks, run_through, update_of
from benchmarks.measure import Cost, cost_of, median, timed
from benchmarks.peers import FLOWER, LIMIT_S, PeerFailed, PeerMissing, PeerProcess
from benchmarks.row import Row, Target, at_least
from fedvlm_secure.types import NodeId

NODE_RATIO, AHEAD_RATIO = at_least(8), at_least(20)
AGGREGATOR_RATIO = at_least(8)
TARGET_DIMENSION = 10_000_000
NODE_SAMPLES = 5
AGGREGATOR_SAMPLES = 3
LONG_S = 15.0
"""An aggregator stage that takes longer is not repeated."""

_FLOWER_MOST = {100: 1_000_000}
"""Largest dimension at which Flower stays within time and memory, by cohort size."""

_GRAPH = "Flower SecAgg+, complete graph"
_NEIGHBOURS = "Flower SecAgg+, 8 neighbours"


@dataclass(frozen=True)
class Shape:
    """One size of a round. `num_shares` is Flower's: `nodes` for the complete graph."""

    nodes: int
    dimension: int
    lost: int
    num_shares: int | None = None

    @property
    def name(self) -> str:
        return f"n{self.nodes}-d{size_name(self.dimension)}-lost{self.lost}"

    @property
    def peer_fits(self) -> bool:
        return self.dimension <= _FLOWER_MOST.get(self.nodes, self.dimension)


SHAPES = tuple(Shape(n, d, lost) for n, d in ((5, 1), (5, 10), (5, 50), (20, 1), (20, 10)) for lost in (0, n // 5))
SHAPES = tuple(Shape(shape.nodes, shape.dimension * 1_000_000, shape.lost) for shape in SHAPES)
SHAPES += (
    Shape(20, 10_000_000, 4, num_shares=9),
    Shape(100, 1_000_000, 0),
    Shape(100, 1_000_000, 20),
    Shape(100, 10_000_000, 20),
)
QUICK = (Shape(5, 200_000, 0), Shape(5, 200_000, 1), Shape(20, 100_000, 4), Shape(20, 100_000, 4, num_shares=9))


def cases(quick: bool) -> list[Case]:
    """One case per shape."""
    return [
        Case(f"stages/{shape.name}{'-neighbours' if shape.num_shares else ''}", partial(measure, shape))
        for shape in (QUICK if quick else SHAPES)
    ]


class Ours:
    """Our side of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.round = MaskedRound(shape.nodes, shape.dimension, shape.lost)
        self.update = update_of(0, shape.dimension)
        self.keys = self.round.keys(self.round.cohort.nodes[0])
        self.largest_error = 0.0

    def node(self) -> Cost:
        """Encode and expand all masks in one pass."""
        masks = self.round.masks(self.keys)
        return cost_of(lambda: run_through(self.round.node_stage(self.update, masks.stream())))

    def node_ahead(self) -> tuple[Cost, Cost]:
        """Expanding all masks before there is an update; and what is then left to do."""
        mask, expanding = timed(self.round.masks(self.keys).expand)
        return expanding, cost_of(lambda: run_through(self.round.node_stage(self.update, mask)))

    def prepare(self) -> None:
        """Every survivor's upload, and what the reveal brings."""
        self.unmasking, self.reveals = self.round.unmasking()
        self.mean = np.zeros(self.round.dimension)
        self.uploads: dict[NodeId, Any] = {}
        for at, node in enumerate(self.round.survivors):
            update = update_of(at, self.round.dimension)
            self.mean += update
            self.uploads[node] = in_chunks(self.round.upload(node, self.round.encode(update)))
        self.mean /= len(self.round.survivors)

    def aggregate(self) -> Cost:
        """The whole stage; the decoded mean is compared with the true one.

        Raises:
            RuntimeError: it is further from it than one step of the grid.
        """
        mean, cost = timed(lambda: self.round.aggregator_stage(self.unmasking, self.reveals, self.uploads))
        self.largest_error = float(np.abs(mean - self.mean).max())
        if self.largest_error > 2.0 ** -self.round.vector.lanes.scale_bits(0.25):
            raise RuntimeError(f"our decoded mean is off by {self.largest_error:g}: the figure does not count")
        return cost


class Flower:
    """Flower's side, or why it is not there."""

    def __init__(self, shape: Shape, process: PeerProcess) -> None:
        self._process = process
        self.versions = process.ask("versions")
        threshold = MaskedRound(shape.nodes, shape.dimension, shape.lost).cohort.threshold
        opened = process.ask(
            "open",
            nodes=shape.nodes,
            dimension=shape.dimension,
            lost=shape.lost,
            num_shares=shape.num_shares or shape.nodes,
            threshold=5 if shape.num_shares else threshold,
        )
        self.active: int = opened["active"]
        self.configuration: dict[str, Any] = opened["configuration"]
        self.masks = self.bytes = 0
        self.checked: dict[str, Any] = {}
        self._until_s = time.monotonic() + LIMIT_S

    def node(self, which: int) -> Cost:
        answer = self._process.ask("node", which=which, until_s=self._until_s)
        self.masks, self.bytes = answer["masks"], answer["bytes"]
        return _cost(answer)

    def aggregate(self) -> Cost:
        answer = self._process.ask("aggregate", until_s=max(self._until_s, time.monotonic() + LIMIT_S))
        if not answer["correct"]:
            raise PeerFailed(f"its decoded mean is off by {answer['largest_error']:g}: the figure does not count")
        self.checked = {
            "largest_error": answer["largest_error"],
            "peak_bytes_of_all_parties": answer["peak_before_bytes"],
        }
        return _cost(answer)


def _cost(answer: dict[str, Any]) -> Cost:
    return Cost(answer["cpu_s"], answer["wall_s"])


def measure(shape: Shape) -> list[Row]:
    """Both stages of both sides; ours alone where the peer does not come to an end within its limits.

    Raises:
        PeerMissing: its environment was not made.
    """
    ours = Ours(shape)
    if not shape.peer_fits:
        return _alone(shape, ours, f"left out: past {LIMIT_S:g} s here; its largest size has a row of its own")
    try:
        with PeerProcess(FLOWER) as process:
            peer = Flower(shape, process)
            nodes = _nodes(ours, peer)
            ours.prepare()
            aggregate, peer_aggregate = _aggregates(ours, peer)
    except PeerMissing:
        raise
    except PeerFailed as failure:
        return _alone(shape, ours, str(failure))
    own = {"versions": peer.versions, "masks_at_a_node": peer.masks, **peer.configuration, **peer.checked}
    return _rows(shape, ours, {**own, "upload_bytes": peer.bytes}, nodes, aggregate, peer_aggregate)


def _alone(shape: Shape, ours: Ours, why: str) -> list[Row]:
    nodes = _nodes(ours, None)
    ours.prepare()
    return _rows(shape, ours, {"not_measured": why}, nodes, ours.aggregate(), None)


@dataclass(frozen=True)
class Nodes:
    """A node's medians: all in one pass, with masks expanded ahead, the expanding itself, and the peer's."""

    streamed: Cost
    ahead: Cost
    expanding: Cost
    peer: Cost | None


def _nodes(ours: Ours, peer: Flower | None) -> Nodes:
    """Medians after one call each to warm up; every survivor of the peer is run, since its sum needs them all."""
    ours.node()
    ours.node_ahead()
    if peer is not None:
        peer.node(0)
    streamed: list[Cost] = []
    ahead: list[tuple[Cost, Cost]] = []
    theirs: list[Cost] = []
    for which in range(NODE_SAMPLES if peer is None else peer.active):
        if peer is not None:
            theirs.append(peer.node(which))
        if len(streamed) < NODE_SAMPLES:
            streamed.append(ours.node())
            ahead.append(ours.node_ahead())
    expanding, left = (median(costs) for costs in zip(*ahead, strict=True))
    return Nodes(median(streamed), left, expanding, median(theirs) if theirs else None)


def _aggregates(ours: Ours, peer: Flower) -> tuple[Cost, Cost]:
    mine: list[Cost] = []
    theirs: list[Cost] = []
    while len(mine) < AGGREGATOR_SAMPLES:
        mine.append(ours.aggregate())
        if not theirs or median(theirs).wall_s < LONG_S:
            theirs.append(peer.aggregate())
        if median(mine).wall_s > LONG_S:
            break
    return median(mine), median(theirs)


def _rows(
    shape: Shape, ours: Ours, peer: dict[str, Any], nodes: Nodes, aggregate: Cost, peer_aggregate: Cost | None
) -> list[Row]:
    facts = {
        "nodes": shape.nodes,
        "dimension": shape.dimension,
        "lost": shape.lost,
        "masks_at_a_node": shape.nodes - 1,
        "masks_at_the_aggregator": len(ours.round.survivors) * (1 + shape.lost),
        "lanes": asdict(ours.round.vector.lanes),
        "threshold": ours.round.cohort.threshold,
        "largest_error_of_our_mean": ours.largest_error,
        "threads": 1,
        "includes": "both ends' own conversion of the vector to and from bytes; neither sending nor SHA-256",
        "peer": peer,
    }
    complete = not shape.num_shares
    kept = complete and shape.nodes == 20 and shape.lost == 4
    rows = [_row("aggregator-stage", shape, aggregate, peer_aggregate, AGGREGATOR_RATIO if kept else None, facts)]
    if shape.lost and complete and shape.peer_fits:  # a node does not notice who is lost: see the shape without a loss
        return rows
    large = complete and shape.peer_fits and shape.dimension >= TARGET_DIMENSION
    expanding = {"expanding_ahead_ns": nodes.expanding.cpu_s * 1e9 / shape.dimension}
    return [
        _row("node-stage", shape, nodes.streamed, nodes.peer, NODE_RATIO if large else None, facts),
        _row("node-stage-ahead", shape, nodes.ahead, nodes.peer, AHEAD_RATIO if large else None, facts | expanding),
        *rows,
    ]


def _row(stage: str, shape: Shape, ours: Cost, peer: Cost | None, target: Target | None, facts: dict[str, Any]) -> Row:
    suffix = "-beside-8-neighbours" if shape.num_shares else ""
    each = 1e9 / shape.dimension
    wall = {"ours_wall_ns": ours.wall_s * each, "peer_wall_ns": None if peer is None else peer.wall_s * each}
    return Row(
        name=f"{stage}/{shape.name}{suffix}",
        value=ours.cpu_s * each,
        unit="ns per parameter",
        against="" if peer is None else _NEIGHBOURS if shape.num_shares else _GRAPH,
        against_value=None if peer is None else peer.cpu_s * each,
        ratio=None if peer is None else peer.cpu_s / ours.cpu_s,
        ratio_is="" if peer is None else "the peer's CPU time over ours",
        target=None if peer is None else target,
        facts={**facts, **wall},
    )
