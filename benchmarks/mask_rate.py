"""Row 2: one mask at the node and at the aggregator beside the bare keystream of the same bytes."""

from __future__ import annotations

from functools import partial

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.case import Case, size_name
from benchmarks.masked_round import MaskedRound, in_chunks, run_through, update_of
from benchmarks.measure import Cost, cost_of, in_turn
from benchmarks.row import Row, Target, at_least, at_most

NODE_RATIO, AGGREGATOR_RATIO = at_least(0.70), at_least(0.80)
NODES, LOST, FEW = 20, 4, 5
SAMPLES = 5
PIECE_BYTES = 128 << 10
_ZEROS = bytes(PIECE_BYTES)


def cases(quick: bool) -> list[Case]:
    """At one size each."""
    dimension = 300_000 if quick else 10_000_000
    return [
        Case(f"mask-rate/node-d{size_name(dimension)}", partial(node, dimension)),
        Case(f"mask-rate/aggregator-d{size_name(dimension)}", partial(aggregator, dimension)),
        Case(f"mask-rate/ahead-d{size_name(dimension)}", partial(ahead, dimension)),
    ]


def bare_keystream(size_bytes: int, streams: int) -> None:
    """AES-256-CTR of `cryptography` into one buffer of 128 KiB: what expanding cannot be faster than."""
    buffer = bytearray(PIECE_BYTES)
    for number in range(streams):
        context = Cipher(algorithms.AES256(bytes(32)), modes.CTR(number.to_bytes(16, "big"))).encryptor()
        for at in range(0, size_bytes, PIECE_BYTES):
            context.update_into(memoryview(_ZEROS)[: size_bytes - at], buffer)


def node(dimension: int) -> list[Row]:
    """All masks of one upload, added in place."""
    made = MaskedRound(NODES, dimension)
    keys = made.keys(made.cohort.nodes[NODES // 2])
    words = made.encode(update_of(0, dimension))
    size_bytes = words.nbytes

    def ours() -> Cost:
        return cost_of(lambda: made.masks(keys).stream().add_to(words))

    ours()
    mask, bare = in_turn(SAMPLES, ours, lambda: cost_of(lambda: bare_keystream(size_bytes, NODES)))
    return [_row("node", NODE_RATIO, dimension, size_bytes, NODES, mask, bare)]


def aggregator(dimension: int) -> list[Row]:
    """All masks of one sum, removed in place; interpolating the seeds is part of it."""
    made = MaskedRound(NODES, dimension, LOST)
    unmasking, reveals = made.unmasking()
    update = update_of(0, dimension)
    vectors = {node: in_chunks(made.upload(node, made.encode(update))) for node in made.survivors}
    total = unmasking.sum_masked(vectors, made.vector.words)
    vectors.clear()
    size_bytes, masks = total.nbytes, len(made.survivors) * (1 + LOST)

    def ours() -> Cost:
        return cost_of(lambda: unmasking.remove_masks(total, reveals))

    ours()
    mask, bare = in_turn(SAMPLES, ours, lambda: cost_of(lambda: bare_keystream(size_bytes, masks)))
    return [_row("aggregator", AGGREGATOR_RATIO, dimension, size_bytes, masks, mask, bare)]


def ahead(dimension: int) -> list[Row]:
    """With masks expanded before, what a node has left to do must not grow with the cohort."""
    update = update_of(0, dimension)

    def left(nodes: int) -> Cost:
        made = MaskedRound(nodes, dimension)
        mask = made.masks(made.keys(made.cohort.nodes[0])).expand()
        return cost_of(lambda: run_through(made.node_stage(update, mask)))

    left(FEW)
    few, many = in_turn(SAMPLES, partial(left, FEW), partial(left, NODES))
    each = 1e9 / dimension
    return [
        Row(
            name=f"node-stage-ahead/independent-of-k-d{size_name(dimension)}",
            value=many.cpu_s * each,
            unit="ns per parameter",
            against=f"with {FEW - 1} masks in the place of {NODES - 1}",
            against_value=few.cpu_s * each,
            ratio=many.cpu_s / few.cpu_s,
            ratio_is="CPU time with many masks over few",
            target=at_most(1.1),
            facts={"ours_wall_ns": many.wall_s * each, "few_wall_ns": few.wall_s * each},
        )
    ]


def _row(where: str, target: Target, dimension: int, size_bytes: int, masks: int, mask: Cost, bare: Cost) -> Row:
    moved = masks * size_bytes / 1e9
    return Row(
        name=f"mask-rate/{where}-d{size_name(dimension)}",
        value=moved / mask.cpu_s,
        unit="GB/s of masks",
        against="GB/s bare AES-256-CTR",
        against_value=moved / bare.cpu_s,
        ratio=bare.cpu_s / mask.cpu_s,
        ratio_is="rate of the masks over the bare keystream's",
        target=target,
        facts={
            "nodes": NODES,
            "masks": masks,
            "bytes_per_mask": size_bytes,
            "piece_bytes": PIECE_BYTES,
            "ours_wall_gb_per_s": moved / mask.wall_s,
            "bare_wall_gb_per_s": moved / bare.wall_s,
        },
    )
