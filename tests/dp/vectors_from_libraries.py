"""Writes tests/vectors/dp_epsilon.json from dp-accounting and Opacus alone: python tests/dp/vectors_from_libraries.py.

Nothing of this project is imported. Opacus comes with the `node` extra.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import dp_accounting
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from opacus.version import __version__ as opacus_version

SETTINGS = (
    (0.2, 1.15, 50, 1e-5),
    (0.01, 1.0, 1000, 1e-6),
    (0.5, 2.0, 100, 1e-5),
    (0.001, 0.8, 5000, 1e-6),
    (0.1, 4.0, 400, 1e-5),
)


def main() -> None:
    rows = []
    for rate, multiplier, steps, delta in SETTINGS:
        event = dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)), steps
        )
        prv = PRVAccountant()
        prv.history = [(multiplier, rate, steps)]
        rows.append(
            {
                "sampling_rate": rate,
                "noise_multiplier": multiplier,
                "steps": steps,
                "delta": delta,
                "pld": PLDAccountant().compose(event).get_epsilon(delta),
                "rdp": RdpAccountant().compose(event).get_epsilon(delta),
                "prv": float(prv.get_epsilon(delta)),
            }
        )
    mixture = dp_accounting.SelfComposedDpEvent(
        dp_event.MixtureOfGaussiansDpEvent(1.15, [0.0, 1.0, 2.0], [0.64, 0.32, 0.04]), 50
    )
    vectors = {
        "source": f"dp-accounting {version('dp-accounting')} (PLD at its default interval 1e-4, RDP at its default "
        f"orders), Opacus {opacus_version} (PRV, its default errors)",
        "generator": "python tests/dp/vectors_from_libraries.py",
        "expect": rows,
        "two_hospitals_mixture": {
            "noise_multiplier": 1.15,
            "sampling_rate": 0.2,
            "steps": 50,
            "delta": 1e-5,
            "pld": PLDAccountant().compose(mixture).get_epsilon(1e-5),
        },
    }
    path = Path(__file__).parents[1] / "vectors" / "dp_epsilon.json"
    path.write_text(json.dumps(vectors, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
