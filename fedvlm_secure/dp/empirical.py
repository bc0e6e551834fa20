"""What trials of a mechanism show: lower bounds on its privacy loss. They can refute a claim, never prove it."""

from __future__ import annotations

import math

_BISECTIONS = 60
_LARGEST_EPSILON = 64.0


def lower_rate(right: int, judged: int, confidence: float) -> float:
    """Clopper-Pearson: the true rate lies above this, except with probability 1 - confidence.

    Args:
        right: successes, 0..judged.
        judged: independent trials with one rate, at least 1.
        confidence: one-sided, in (0, 1).

    Raises:
        ValueError: out of range.

    Source: Clopper, Pearson 1934, as a quantile of the beta distribution.
    """
    from scipy.stats import beta  # type: ignore[import-untyped]

    if not (0 <= right <= judged and judged >= 1 and 0 < confidence < 1):
        raise ValueError("0 <= right <= judged, judged >= 1 and a confidence in (0, 1)")
    return 0.0 if right == 0 else float(beta.ppf(1 - confidence, right, judged - right + 1))


def lower_mu(right: int, judged: int, confidence: float) -> float:
    """Lower bound on mu of Gaussian differential privacy from guesses of which of two worlds made an output.

    In each trial the world is a fair coin, and the rule that guesses was fixed before. Every test against a mu-GDP
    mechanism has FPR + FNR >= 2 Phi(-mu / 2), so P[right] <= Phi(mu / 2), whatever the law of the output.

    Args:
        right: right guesses.
        judged: all guesses.
        confidence: one-sided.

    Returns:
        mu >= 0; at most `lower_mu(judged, judged, confidence)`, however broken the mechanism is.

    Raises:
        ValueError: as `lower_rate`.

    Source: Dong, Roth, Su 2022 (trade-off function of mu-GDP); Nasr et al. 2023, arXiv 2302.07956 (audits by it);
    docs/decisions/0107-empirical-audit.md (one interval instead of two).
    """
    from scipy.stats import norm

    return max(0.0, 2.0 * float(norm.ppf(lower_rate(right, judged, confidence))))


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Largest probability of so many right guesses under an (epsilon, delta)-private run.

    Args:
        canaries: m, each taken in by a fair coin of its own.
        guesses: r <= m, whose in or out was guessed from the run's output; the others are abstentions.
        right: v <= r.
        epsilon: >= 0, for one canary added or removed.
        delta: in [0, 1].

    Returns:
        min(1, P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i), W binomial with r trials of rate
        e^epsilon / (1 + e^epsilon).

    Raises:
        ValueError: out of range.

    Source: Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, main theorem for approximate DP as in appendix D.
    """
    import numpy as np
    from scipy.stats import binom

    if not (0 <= right <= guesses <= canaries and canaries >= 1 and epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError("0 <= right <= guesses <= canaries, epsilon >= 0 and delta in [0, 1]")
    rate = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, rate))
    below = np.arange(1, right + 1)
    slopes = (binom.sf(right - below - 1, guesses, rate) - tail) / below
    return min(1.0, tail + 2 * canaries * delta * float(np.max(slopes, initial=0.0)))


def one_run_epsilon(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Lower bound on epsilon at `delta` from canaries in one run; 0 where nothing is shown.

    Args:
        canaries, guesses, right, delta: see `one_run_p_value`.
        confidence: one-sided, in (0, 1).

    Raises:
        ValueError: out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError("a confidence in (0, 1)")
    low, high = 0.0, _LARGEST_EPSILON
    if one_run_p_value(canaries, guesses, right, low, delta) >= 1 - confidence:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        refuted = one_run_p_value(canaries, guesses, right, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low
