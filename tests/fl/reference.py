"""The server algorithms once more, from the papers, one coordinate at a time: standard library alone.

Each operation is done exactly (fractions; square roots to 60 digits) and rounded once to float64, as IEEE 754 asks; so
the bits that come out are right on any machine. `python -m tests.fl.reference` writes tests/vectors/fl_algorithms.json.
"""

from __future__ import annotations

import hashlib
import json
import struct
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from tests.vectors.generate import HERE, digest

EXACT = Context(prec=60)
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavgm": {"server_lr": 0.7, "momentum": 0.9},
    "fedavgm reference_compat": {"server_lr": 1.0, "momentum": 0.9},
    "fedadagrad": {"server_lr": 0.03, "tau": 1e-3, "beta1": 0.0},
    "fedadagrad with momentum": {"server_lr": 0.03, "tau": 1e-2, "beta1": 0.5},
    "fedadam": {"server_lr": 0.01, "tau": 1e-3, "beta1": 0.9, "beta2": 0.99},
    "fedadam reference_compat": {"server_lr": 1e-3, "tau": 1e-3, "beta1": 0.9, "beta2": 0.99},
    "fedyogi": {"server_lr": 0.01, "tau": 1e-3, "beta1": 0.9, "beta2": 0.99},
    "fedyogi reference_compat": {"server_lr": 1e-3, "tau": 1e-3, "beta1": 0.9, "beta2": 0.99},
    "fedadagrad known noise": {"server_lr": 0.03, "tau": 1e-3, "beta1": 0.0},
    "fedadam known noise": {"server_lr": 0.01, "tau": 1e-3, "beta1": 0.9, "beta2": 0.9},
    "fedyogi known noise": {"server_lr": 0.01, "tau": 1e-3, "beta1": 0.9, "beta2": 0.9},
}
KNOWN_NOISE = 3e-6
"""Variance that FedAdam and FedYogi take off each squared mean: above some of the squares, below others."""


def plus(a: float, b: float) -> float:
    return float(Fraction(a) + Fraction(b))


def times(a: float, b: float) -> float:
    return float(Fraction(a) * Fraction(b))


def over(a: float, b: float) -> float:
    return float(Fraction(a) / Fraction(b))


def root(a: float) -> float:
    return float(Decimal(a).sqrt(EXACT))


def float32(a: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", a))[0])


def decayed(beta: float, old: float, new: float) -> float:
    """beta * old + (1 - beta) * new."""
    return plus(times(beta, old), times(plus(1.0, -beta), new))


def second(name: str, v: float, square: float, beta2: float) -> float:
    """v_t of Reddi et al. 2021, algorithm 2, in the order FedAdagrad, FedYogi, FedAdam."""
    if name == "fedadagrad":
        return plus(v, square)
    if name == "fedyogi":
        sign = (v > square) - (v < square)
        return plus(v, -times(times(plus(1.0, -beta2), square), float(sign)))
    return decayed(beta2, v, square)


class Coordinate:
    """One coordinate's model and memory under one of CASES."""

    def __init__(self, case: str) -> None:
        self.name, self.values, self.compat = case.split()[0], CASES[case], case.endswith("reference_compat")
        self.corrects = case.endswith("known noise") and self.name != "fedadagrad"
        self.model, self.m, self.rounds = 0.0, 0.0, 0
        self.v = times(self.values.get("tau", 0.0), self.values.get("tau", 0.0))

    def step(self, mean: float) -> None:
        p = self.values
        if self.name == "fedavg":
            move = mean
        elif self.name == "fedavgm":
            damped = mean if self.rounds == 0 else decayed(p["momentum"], self.m, mean)
            self.m = damped if self.compat else plus(times(p["momentum"], self.m), mean)
            move = times(p["server_lr"], self.m)
        else:
            first = self.compat and self.rounds == 0
            self.m = mean if first else decayed(p["beta1"], self.m, mean)
            squared = self.m if self.compat else mean
            square = times(squared, squared)
            if self.corrects:
                square = plus(square, -KNOWN_NOISE)
            self.v = second(self.name, self.v, square, p.get("beta2", 0.0))
            floor = times(p["tau"], p["tau"])
            below = root(max(self.v, floor)) if self.corrects else plus(root(self.v), p["tau"])
            move = over(times(p["server_lr"], self.m), below)
        self.model = float32(plus(self.model, move))
        self.rounds += 1


def state_digest(case: str, coordinates: list[Coordinate]) -> str:
    """Digest of the state, by the documented encoding."""
    name, count = case.split()[0], len(coordinates)
    slots = {}
    if name != "fedavg":
        slots["m"] = struct.pack(f"<{count}d", *(c.m + 0.0 for c in coordinates))
    if name in ("fedadagrad", "fedadam", "fedyogi"):
        slots["v"] = struct.pack(f"<{count}d", *(c.v for c in coordinates))
    model = struct.pack(f"<{count}f", *(c.model + 0.0 for c in coordinates))
    numbers = {"steps": float(coordinates[0].rounds)} if case.endswith("reference_compat") else {}
    hashed = {key: hashlib.sha256(raw).digest() for key, raw in slots.items()}
    return digest("state", hashlib.sha256(model).digest(), hashed, numbers).hex()


def means(rounds: int, count: int) -> list[list[float]]:
    """Updates of every size that occurs, some of them zero."""
    drawn = []
    for number in range(rounds):
        raw = hashlib.shake_256(b"mean %d" % number).digest(8 * count)
        exact = [value / 2**53 for (value,) in struct.iter_unpack("<q", raw)]
        drawn.append([0.0 if i % 7 == number else exact[i] / 2 ** (10 + i % 23) for i in range(count)])
    return drawn


def vectors(rounds: int = 6, count: int = 37) -> dict[str, Any]:
    expect: dict[str, Any] = {"means": [[mean.hex() for mean in row] for row in means(rounds, count)], "cases": {}}
    for case in CASES:
        coordinates, digests = [Coordinate(case) for _ in range(count)], list[str]()
        for row in means(rounds, count):
            for coordinate, mean in zip(coordinates, row, strict=True):
                coordinate.step(mean)
            digests.append(state_digest(case, coordinates))
        expect["cases"][case] = {"algorithm": CASES[case], "states": digests}
        if case.endswith("known noise"):
            expect["cases"][case]["noise_variance"] = KNOWN_NOISE.hex()
    return {
        "source": "McMahan et al. 2017, algorithm 1; Hsu et al. 2019, section 4.3; Reddi et al. 2021, algorithm 2; "
        "reference_compat: OpenFedLLM, federated_learning/fed_global.py, commit 9ee5d04; known noise: Tang, "
        "Shpilevskiy, Lecuyer 2024, algorithm 1",
        "generator": "tests/fl/reference.py: standard library, exact rationals rounded once per operation",
        "expect": expect,
    }


if __name__ == "__main__":
    (HERE / "fl_algorithms.json").write_text(json.dumps(vectors(), indent=1) + "\n")
