"""Nanoseconds per value of the secure integer noise, beside numpy's float normal, in one run.

    python benchmarks/noise.py [--values 4194304] [--json]

A figure counts only together with its distance from the exact law (`total_variation_bound`).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.exact_sampler import UniformIntegers, discrete_gaussian
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Secret

TARGET_NS = 13.0
TARGET_BITS = 90
SIGMAS = (4, 64, 512, 4096, 30_000, 1_000_000)
EXACT_VALUES = 3000
REPEATS = 5


def nanoseconds(draw: Callable[[], object], values: int) -> float:
    """Median CPU time per value after one call to warm up."""
    draw()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        draw()
        times.append(time.process_time() - start)
    return statistics.median(times) / values * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1 << 22)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    key = Secret(bytes(range(32)))
    into = np.zeros(options.values, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64(1))
    normal = nanoseconds(lambda: generator.standard_normal(options.values), options.values)
    exact = UniformIntegers(Keystream(key))
    reference = nanoseconds(
        lambda: [discrete_gaussian(Fraction(4096), exact) for _ in range(EXACT_VALUES)], EXACT_VALUES
    )
    rows = []
    for sigma in SIGMAS:
        start = time.process_time()
        noise = DiscreteGaussian(sigma * sigma)
        build_s = time.process_time() - start
        speed = nanoseconds(lambda noise=noise: noise.add_to(into, key), options.values)  # type: ignore[misc]
        rows.append(
            {
                "sigma": sigma,
                "ns_per_value": round(speed, 2),
                "to_float_normal": round(speed / normal, 2),
                "total_variation_bits": round(-math.log2(noise.total_variation_bound), 1),
                "table_s": round(build_s, 3),
            }
        )
    result = {"float_normal_ns": round(normal, 2), "exact_sampler_ns": round(reference), "rows": rows}
    if options.json:
        print(json.dumps(result))
        return
    print(f"numpy float normal (not secure)   {normal:8.2f} ns")
    print(f"exact sampler in Python           {reference:8.0f} ns")
    for row in rows:
        met = row["ns_per_value"] <= TARGET_NS and row["total_variation_bits"] >= TARGET_BITS
        print(
            f"integer noise, sigma {row['sigma']:>9,} {row['ns_per_value']:8.2f} ns  {row['to_float_normal']:.2f} of "
            f"normal  distance 2^-{row['total_variation_bits']}  table {row['table_s']} s  "
            f"target {TARGET_NS:.0f} ns at 2^-{TARGET_BITS}: {'met' if met else 'NOT MET'}"
        )


if __name__ == "__main__":
    main()
