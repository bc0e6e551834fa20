"""Recomputes the derived known answers from first principles: standard library and `openssl enc`, none of our code.

Run it by hand (`python tests/vectors/generate.py`) to see where a number comes from; the tests read the JSON alone.
Published vectors (rfc-*.json, nist-*.json) and canonical.json are typed in by hand and not written here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PRIME = 2**256 + 297
LABEL = "fedvlm/v1/"


def encode(value: Any) -> bytes:
    """The canonical encoding, as proto/PROTOCOL.md puts it, for what is needed here."""
    if isinstance(value, bytes):
        return b"b" + struct.pack(">Q", len(value)) + value
    if isinstance(value, str):
        return b"s" + struct.pack(">Q", len(value.encode())) + value.encode()
    if isinstance(value, int):
        return (b"u" if value >= 0 else b"i") + (value % 2**64).to_bytes(8, "big")
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, dict):
        entries = b"".join(struct.pack(">Q", len(k)) + k.encode() + encode(value[k]) for k in sorted(value))
        return b"m" + struct.pack(">Q", len(value)) + entries
    return b"l" + struct.pack(">Q", len(value)) + b"".join(encode(item) for item in value)


def digest(label: str, *values: Any) -> bytes:
    return hashlib.sha256(encode([LABEL + label, *values])).digest()


def hkdf(salt: bytes | None, key: bytes, info: bytes) -> bytes:
    """One block of RFC 5869: extract if there is a salt, then expand to 32 bytes."""
    pseudo_random = key if salt is None else hmac.digest(salt, key, "sha256")
    return hmac.digest(pseudo_random, info + b"\x01", "sha256")


def keystream(key: bytes, count: int) -> bytes:
    command = ["openssl", "enc", "-aes-256-ctr", "-K", key.hex(), "-iv", "00" * 16]
    return subprocess.run(command, input=bytes(count), capture_output=True, check=True).stdout


def polynomial(coefficients: list[int], x: int) -> int:
    return int(sum(coefficient * x**power for power, coefficient in enumerate(coefficients)) % PRIME)


def interpolate(points: dict[int, int]) -> int:
    """Lagrange at zero over the rationals, reduced modulo p at the end."""
    total = Fraction(0)
    for x, y in points.items():
        weight = Fraction(1)
        for other in points:
            if other != x:
                weight *= Fraction(-other, x - other)
        total += y * weight
    return int(total.numerator * pow(total.denominator, -1, PRIME) % PRIME)


def shamir() -> dict[str, Any]:
    seed = hashlib.sha256(b"coefficients").digest()
    stream, drawn = keystream(seed, 33 * 64), list[int]()
    for at in range(0, len(stream), 33):
        candidate = int.from_bytes(stream[at : at + 33], "big") % 2**257
        if candidate < PRIME:
            drawn.append(candidate)
    cases = []
    for secret in (bytes(32), b"\xff" * 32, hashlib.sha256(b"secret").digest()):
        coefficients = drawn[: 3 - 1]
        row = [polynomial([int.from_bytes(secret, "big"), *coefficients], x) for x in range(1, 6)]
        recovered = interpolate({1: row[0], 3: row[2], 5: row[4]})
        if recovered != int.from_bytes(secret, "big"):
            raise SystemExit("interpolation does not give the secret back")
        cases.append({"secret": secret.hex(), "shares": [y.to_bytes(33, "big").hex() for y in row]})
    above = [polynomial([2**256 + 5, *drawn[:2]], x).to_bytes(33, "big").hex() for x in range(1, 6)]
    expect = {
        "coefficient_seed": seed.hex(),
        "coefficients": [str(value) for value in drawn[:6]],
        "threshold": 3,
        "cases": cases,
        "lagrange_at_zero_of_holders_0_2_4": [str(_weight(x, (1, 3, 5))) for x in (1, 3, 5)],
        "bad": {"interpolates above 32 bytes": above},
    }
    return _vector("Shamir 1979 over p = 2^256 + 297, shares at x = 1..5", expect)


def _weight(x: int, points: tuple[int, ...]) -> int:
    weight = Fraction(1)
    for other in points:
        if other != x:
            weight *= Fraction(-other, x - other)
    return int(weight.numerator * pow(weight.denominator, -1, PRIME) % PRIME)


def keys() -> dict[str, Any]:
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    roster_hash, ctx = hashlib.sha256(b"roster").digest(), hashlib.sha256(b"ctx").digest()
    root = hkdf(roster_hash, shared, encode([LABEL + "pair-root"]))
    arguments = [roster_hash, 3, 1, b"\x01" * 32, b"\x02" * 32, "masking", 3, 4, 3, 1, 3]
    expect = {
        "roster_hash": roster_hash.hex(),
        "ctx": ctx.hex(),
        "pair_root": root.hex(),
        "ratchet": hkdf(None, root, encode([LABEL + "ratchet"])).hex(),
        "pair_seed_a_b": hkdf(None, root, encode([LABEL + "pair", ctx, "a", "b"])).hex(),
        "share_key_a_to_b": hkdf(None, root, encode([LABEL + "share", ctx, "a", "b"])).hex(),
        "share_key_b_to_a": hkdf(None, root, encode([LABEL + "share", ctx, "b", "a"])).hex(),
        "context_of_round_3_attempt_1": digest("ctx", *arguments).hex(),
        "self_commitment": digest("self-seed", ctx, "a", b"\x03" * 32).hex(),
        "pair_commitment": digest("pair-seed", ctx, "a", "b", b"\x03" * 32).hex(),
        "share_leaf": digest("share", ctx, "a", "b", 2, b"\x04" * 33).hex(),
    }
    return _vector("HKDF-SHA256 (RFC 5869) of the shared value of RFC 7748 section 6.1; SHA-256", expect)


def ring() -> dict[str, Any]:
    """integers 1, -1, 2, -2 in three lanes of 21 bits with offset 2^15; planar, so word 0 holds coordinates 0 and 2."""
    offset = 2**15
    payload = [(1 + offset) + ((2 + offset) << 21), (-1 + offset) + ((-2 + offset) << 21), 7]
    stream = keystream(digest("check-coefficients"), 8 * 3)
    odd = [word | 1 for (word,) in struct.iter_unpack("<Q", stream)]
    check = sum(word * coefficient for word, coefficient in zip(payload, odd, strict=True)) % 2**64
    expect = {
        "integers": [1, -1, 2, -2],
        "scalars": {"weight": 7},
        "words": [str(word) for word in [*payload, check]],
        "sum_of_three": {"integers": [3, -3, 6, -6], "words": [str(3 * word % 2**64) for word in [*payload, check]]},
        "scale_bits": {"0.25": 16, "1.0": 14, "0.5": 15, "1000.0": 5},
        "quantised": {
            "max_update": 0.25,
            "update": [0.125, -0.125, 0.3, -7.0],
            "integers": [8192, -8192, 16384, -16384],
        },
    }
    return _vector("document `protocol`, section Ring: lanes of 3 x 21 bits, offset added, odd linear form", expect)


def server_step() -> dict[str, Any]:
    """fedavg over three rounds in exact rationals, rounded once where IEEE 754 rounds once."""
    model, expect = [Fraction(0)] * 6, list[dict[str, Any]]()
    weight_bits = scale_bits = 16
    for step in range(3):
        seed = hashlib.sha256(b"sum %d" % step).digest()
        total = [struct.unpack_from(">i", seed, 4 * i)[0] % 200_001 - 100_000 for i in range(6)]
        weights = 1601 * (step + 3)
        for i, value in enumerate(total):
            mean = Fraction(float(Fraction(value, 2**scale_bits) / Fraction(weights, 2**weight_bits)))
            stepped = float(model[i] + mean)
            model[i] = Fraction(struct.unpack("<f", struct.pack("<f", stepped))[0])
        content = struct.pack("<6f", *map(float, model))
        state = digest("state", hashlib.sha256(content).digest(), {}, {})
        expect.append({"total": total, "weight_total": weights, "model": content.hex(), "state": state.hex()})
    return _vector("McMahan et al. 2017, algorithm 1, as a step; IEEE 754 round to nearest even", expect)


def _vector(source: str, expect: Any) -> dict[str, Any]:
    return {"source": source, "generator": "tests/vectors/generate.py: standard library, openssl enc", "expect": expect}


if __name__ == "__main__":
    for name, made in {"shamir": shamir, "keys": keys, "ring": ring, "server-step": server_step}.items():
        (HERE / f"{name}.json").write_text(json.dumps(made(), indent=1) + "\n")
