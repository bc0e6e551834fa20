"""The policy's section `evaluation`: how often a hospital scores the model, and what of it leaves the hospital."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedvlm_secure.policy.section import Section

Release = Literal["totals", "none", "final", "each"]
NOISED: frozenset[Release] = frozenset({"final", "each"})

LARGEST_DEFAULT_EPSILON = 1.0
DEFAULT_SHARE = 0.25
"""Where a noised release has no noise of its own: a quarter of the run's epsilon, at most 1, for all releases."""


class EvaluationPolicy(Section):
    """What is scored and released.

    Attributes:
        every: rounds between scored states; the first and the last are always scored.
        release: `totals`: exact counts of right answers ride inside the protected sum (without a mechanism only).
            Under a mechanism: `final`, noised scores of the final model in a closing round of their own; `each`,
            noised scores of the model that enters each `every`-th round. `none`: nothing.
        limit: test questions a hospital and round, of what stays there; a noised release asks every test patient.
        noise_multiplier: of each noised release, standard deviation over the most that one patient changes.
        epsilon: instead of it: what all noised releases of the run cost together, without the training.
    """

    every: int = Field(default=1, ge=1)
    release: Release = "none"
    limit: int | None = Field(default=None, ge=1)
    noise_multiplier: float | None = Field(default=None, gt=0, le=256)
    epsilon: float | None = Field(default=None, gt=0, le=100)

    @property
    def is_noised(self) -> bool:
        return self.release in NOISED


def with_default_noise(scored: EvaluationPolicy, run_epsilon: float) -> EvaluationPolicy:
    """The section with an epsilon for its noised releases where it gives neither noise nor epsilon for them."""
    if not scored.is_noised or scored.noise_multiplier is not None or scored.epsilon is not None:
        return scored
    return scored.model_copy(update={"epsilon": min(LARGEST_DEFAULT_EPSILON, DEFAULT_SHARE * run_epsilon)})
