"""Row 7: each stage of homomorphic aggregation, beside NVFlare's own filters and bare TenSEAL, in one run.

python -m benchmarks.he_stages --make                       # the peer's environment under .bench-peers/
python -m benchmarks.he_stages [--dimension 2000000] [--nodes 8]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tenseal as ts

from benchmarks.case import Case, size_name
from benchmarks.measure import Cost, peak_beyond, timed
from benchmarks.peers import Peer, PeerFailed, PeerProcess, make
from benchmarks.row import Row, Target, at_least, at_most, lines, merge
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.cipher import Cipher
from fedvlm_secure.he.ciphertext_sum import sum_chunks
from fedvlm_secure.he.encryption import encrypt_words
from fedvlm_secure.he.epoch_key import EpochKey, KeyState
from fedvlm_secure.he.group_secrets import GroupSecrets
from fedvlm_secure.he.parameters import TAG_PRIME, Scheme, choose_parameters
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.he.verification import verify_sum
from fedvlm_secure.ring.lanes import lane_format
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Digest, NodeId, Words

NVFLARE = Peer(name="nvflare", script="he_peer_nvflare.py", bare=(), needs=("nvflare[HE]==2.9.0",))
FASTER, SMALL, LARGE = at_least(3.0), at_most(3.0), at_most(4.1)
FLAT_BYTES = at_most(64 << 20, of="value")
CTX = Digest(bytes(range(32)))
PEER_DIMENSION = 500_000
SCHEMES: tuple[Scheme, ...] = ("bfv", "ckks")


def cases(quick: bool) -> list[Case]:
    """Stages of both schemes, upload sizes, and the memory of a node that encrypts."""
    dimension = 100_000 if quick else 2_000_000
    large = 300_000 if quick else 10_000_000
    found = [Case(f"he/{s}-n8-d{size_name(dimension)}", partial(stages, s, 8, dimension)) for s in SCHEMES]
    return [*found, Case("he/upload", uploads), Case(f"he/memory-d{size_name(large)}", partial(memory, large))]


@dataclass
class HeRound:
    """One cohort; two nodes' uploads are made, and stand for all n."""

    scheme: Scheme
    nodes: int
    dimension: int

    def __post_init__(self) -> None:
        lanes = lane_format("auto", self.nodes)
        self.parameters = choose_parameters(self.scheme, nodes=self.nodes, value_bits=lanes.value_bits)
        self.carriage = Carriage(self.parameters, VectorFormat(self.dimension, lanes, ("weight",)))
        self.secrets = GroupSecrets.draw(ShakeEntropy(1, "benchmark"))
        self.cipher = Cipher(self.parameters, self.secrets.seed)
        self.ids = tuple(NodeId(f"h-{i:03}") for i in range(self.nodes))

    def words(self, seed: int) -> Words:
        """One node's plain packed words."""
        fmt = self.carriage.format
        drawn = np.random.default_rng(seed).integers(-fmt.lanes.largest, fmt.lanes.largest, fmt.dimension)
        return fmt.pack(drawn, {"weight": 1})

    def upload(self, words: Words, node: NodeId) -> Iterator[bytes]:
        """The ciphertexts of one node."""
        return encrypt_words(
            words, carriage=self.carriage, cipher=self.cipher, group_key=self.secrets.group_key, ctx=CTX, node=node
        )

    def tags(self, words: Words) -> None:
        """Reading the lanes and making the tags alone: a part of `upload`."""
        hashing = LaneHash(self.secrets.group_key, CTX, self.parameters)
        pads = TagPads(self.secrets.group_key, CTX, self.ids[:1])
        limbs = self.carriage.split_scalars(words)
        for batch in self.carriage.batches():
            _ = (hashing.of(self.carriage.read(words, limbs, batch)) + pads.take(len(batch))) % TAG_PRIME


def stages(scheme: Scheme, nodes: int, dimension: int) -> list[Row]:
    """Nanoseconds of CPU time per parameter; adding is per node, the rest once per node."""
    made = HeRound(scheme, nodes, dimension)
    survivors = made.ids[:3]
    plain = [made.words(seed) for seed in range(3)]
    cost: dict[str, Cost] = {}
    first, cost["encrypt, tag and serialise"] = timed(lambda: list(made.upload(plain[0], survivors[0])))
    _, cost["of that: tags"] = timed(lambda: made.tags(plain[0]))
    uploads = {survivors[0]: first, **{u: list(made.upload(w, u)) for u, w in zip(survivors, plain, strict=True)}}
    total, adding = timed(lambda: list(sum_chunks(made.carriage, uploads)))
    cost["check and add"] = adding.per(len(survivors))
    key = EpochKey(made.secrets, made.parameters, KeyState())
    _, cost["once per epoch: the library's context and key"] = timed(lambda: key.spend(0))
    opened, cost["decrypt and check tags"] = timed(
        lambda: key.decrypt(0, total, carriage=made.carriage, ctx=CTX, survivors=survivors)
    )
    if not np.array_equal(opened.words, sum(plain[1:], start=plain[0].copy())):
        raise RuntimeError("the encrypted sum is not the ring's sum")
    _, cost["verify without a ciphertext"] = timed(
        lambda: verify_sum(
            opened, carriage=made.carriage, group_key=made.secrets.group_key, ctx=CTX, survivors=survivors
        )
    )
    return _rows(made, cost, nvflare(nodes=2), bare_tenseal())


def nvflare(nodes: int) -> dict[str, float]:
    """The peer's nanoseconds per parameter by stage, and the bytes of its upload over plain float32."""
    with PeerProcess(NVFLARE) as peer:
        told = peer.ask("round", nodes=nodes, dimension=PEER_DIMENSION)
    if not told["correct"]:
        raise PeerFailed("nvflare: its own round does not give the mean")
    found = {stage: spent / PEER_DIMENSION * 1e9 for stage, spent in told["cpu_s"].items()}
    return {**found, "expansion": told["bytes"] / (4 * PEER_DIMENSION)}


def bare_tenseal(dimension: int = 200_000) -> dict[str, float]:
    """TenSEAL's own vectors at degree 4096, [50, 50], scale 2^30: no tags, no lanes, floats."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[50, 50], encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC
    )
    context.global_scale = 2**30
    values = np.random.default_rng(1).standard_normal(dimension).tolist()
    vector, encrypt = timed(lambda: ts.ckks_vector(context, values))
    raw, serialise = timed(vector.serialize)
    _, decrypt = timed(vector.decrypt)
    costs = {"encrypt": encrypt, "serialise": serialise, "decrypt": decrypt}
    return {
        **{stage: cost.cpu_s / dimension * 1e9 for stage, cost in costs.items()},
        "expansion": len(raw) / (4 * dimension),
    }


def _rows(made: HeRound, cost: dict[str, Cost], peer: dict[str, float], bare: dict[str, float]) -> list[Row]:
    beside = {
        "encrypt, tag and serialise": peer["encrypt"] + peer["serialise"],
        "check and add": peer["parse"] + peer["add"],
        "decrypt and check tags": peer["decrypt"],
    }
    facts = {"nodes": made.nodes, "d": made.dimension, "peer_d": PEER_DIMENSION, "bare TenSEAL": bare}
    name = f"he/{made.scheme}-n{made.nodes}"
    rows = []
    for stage, spent in cost.items():
        if stage.startswith("once per epoch"):
            rows.append(Row(name=f"{name}/{stage}", value=spent.cpu_s * 1e3, unit="ms", facts=facts))
            continue
        ours, theirs = spent.cpu_s / made.dimension * 1e9, beside.get(stage)
        ratio = None if theirs is None else theirs / ours
        rows.append(_row(f"{name}/{stage}", ours, theirs, ratio, None, facts))
    ends = ("encrypt, tag and serialise", "decrypt and check tags")
    ours = sum(cost[end].cpu_s for end in ends) / made.dimension * 1e9
    theirs = sum(beside[end] for end in ends)
    rows.append(_row(f"{name}/encrypt + serialise + decrypt", ours, theirs, theirs / ours, FASTER, facts))
    alone = sum(bare[stage] for stage in ("encrypt", "serialise", "decrypt"))
    rows.append(_row(f"{name}/the same by bare TenSEAL, floats", alone, theirs, theirs / alone, None, facts))
    return rows


def _row(
    name: str, ours: float, theirs: float | None, ratio: float | None, target: Target | None, facts: dict[str, object]
) -> Row:
    return Row(
        name=name,
        value=ours,
        unit="ns/param",
        against="" if theirs is None else "NVFlare",
        against_value=theirs,
        ratio=ratio,
        ratio_is="NVFlare over ours",
        target=target,
        facts=facts,
    )


def uploads() -> list[Row]:
    """Bytes of one upload over 4 d, exact arithmetic at d = 10M, beside the peer's measured one."""
    peer, rows = nvflare(nodes=1)["expansion"], []
    for scheme in SCHEMES:
        for nodes in (3, 8, 32, 100):
            made = HeRound(scheme, nodes, 10_000_000)
            ratio = made.carriage.words * 8 / (4 * made.dimension)
            target = {3: SMALL, 8: SMALL, 32: LARGE}.get(nodes) if scheme == "bfv" else {32: LARGE}.get(nodes)
            rows.append(
                Row(
                    name=f"he/upload-{scheme}-n{nodes}",
                    value=ratio,
                    unit="bytes / 4d",
                    against="NVFlare",
                    against_value=peer,
                    ratio=ratio,
                    ratio_is="upload over plain float32",
                    target=target,
                    facts={"lanes": made.parameters.lanes, "noise_margin": made.parameters.noise_margin},
                )
            )
    return rows


def memory(dimension: int) -> list[Row]:
    """What encrypting and what adding take beyond their input, at a size where one copy would be seen."""
    made = HeRound("bfv", 3, dimension)
    words = made.words(1)
    _, encrypting = peak_beyond(lambda: _drain(made.upload(words, made.ids[0])))
    per_chunk = next(made.upload(words, made.ids[1]))
    whole = [per_chunk] * (made.carriage.words // (len(per_chunk) // 8))
    last = made.carriage.words * 8 - sum(map(len, whole))
    tail = [bytes(last)] if last else []
    _, adding = peak_beyond(lambda: _drain(sum_chunks(made.carriage, {node: [*whole, *tail] for node in made.ids})))
    facts = {"d": dimension, "update_bytes": words.nbytes, "upload_bytes": made.carriage.words * 8}
    return [
        Row(name=f"he/memory-{what}", value=float(peak), unit="bytes", target=FLAT_BYTES, facts=facts)
        for what, peak in (("encrypt", encrypting), ("add", adding))
    ]


def _drain(chunks: Iterable[bytes]) -> None:
    for _ in chunks:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", action="store_true", help="make the peer's environment and stop")
    parser.add_argument("--dimension", type=int, default=2_000_000)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--memory", type=int, default=10_000_000, metavar="D")
    parser.add_argument("--out", type=Path, help="file of rows to add to")
    options = parser.parse_args()
    if options.make:
        make(NVFLARE)
        return
    measured = [row for scheme in SCHEMES for row in stages(scheme, options.nodes, options.dimension)]
    measured += [*uploads(), *memory(options.memory)]
    if options.out is not None:
        merge(options.out, "he", measured)
    print("\n".join(lines([row.as_json() for row in measured])))


if __name__ == "__main__":
    main()
