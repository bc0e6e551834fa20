"""delta: the chance that the promise fails outright, so it has to be small beside one patient in the population."""

from __future__ import annotations

from fractions import Fraction

from fedvlm_secure.errors import PolicyError

_LARGE_POPULATION = 10_000


def default_delta(patients: int) -> float:
    """1e-5 below 10,000 patients, 1e-6 from there on."""
    return 1e-5 if patients < _LARGE_POPULATION else 1e-6


def require_delta(delta: float, patients: int) -> str | None:
    """Check delta against the number of patients (declared, of the smallest hospital).

    Returns:
        A warning in plain words where delta > 1 / (10 N), else None.

    Raises:
        PolicyError: DELTA_MISSING (not in (0, 1)) or DELTA_TOO_LARGE (delta >= 1 / N).
        ValueError: patients below 1.
    """
    if patients < 1:
        raise ValueError("delta is judged against at least one patient")
    if not 0 < delta < 1:
        raise PolicyError("DELTA_MISSING", f"delta is {delta}", f"set delta, for example {default_delta(patients):g}")
    share = Fraction(delta) * patients
    if share >= 1:
        raise PolicyError(
            "DELTA_TOO_LARGE",
            f"delta {delta:g} is not below 1 / {patients} patients: one patient could be published outright",
            f"use {default_delta(patients):g}",
        )
    if share * 10 > 1:
        return f"delta {delta:g} is above 1 / (10 * {patients} patients)"
    return None
