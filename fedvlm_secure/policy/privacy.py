"""The policy's section `privacy`: which mechanism, for whom, and how much. All of it is public and equal everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedvlm_secure.policy.section import Auto, Identifier, Section

DP_MIN_PATIENTS = 20
"""Smallest hospital under differential privacy; `limits.min_patients` may only be above it."""

ExpectedPatients = Annotated[int, Field(ge=1, le=1 << 31)]


class NoPrivacy(Section):
    """No formal protection of the released model."""

    TAG = "mechanism"

    mechanism: Literal["none"]


class DpSgd(Section):
    """Each hospital adds noise in every local step, so the promise holds against everybody, other hospitals included.

    Attributes:
        epsilon, delta: what the whole run may cost one patient at one hospital.
        clip_norm: C, L2 norm to which a patient's gradient is cut.
        noise_multiplier: sigma / C; `auto` is the smallest that keeps `rounds` rounds within epsilon.
        sampling_rate: q, chance of a patient to be drawn in a step.
        steps_per_round: local steps of a round.
        expected_patients: declared by each hospital's operator; q times it divides the noised sum.
        patient_cap: rows of one patient in a step; they are averaged before the clip.
    """

    TAG = "mechanism"

    mechanism: Literal["dp_sgd"]
    unit: Literal["patient"] = "patient"
    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(ge=1e-10, lt=1)
    adjacency: Literal["add_or_remove", "replace_one"] = "add_or_remove"
    clip_norm: float = Field(gt=0, le=1e6)
    noise_multiplier: Auto | Annotated[float, Field(gt=0, le=256)] = "auto"
    sampling_rate: float = Field(gt=0, le=1)
    steps_per_round: int = Field(ge=1, le=1_000_000)
    expected_patients: dict[Identifier, ExpectedPatients] = Field(min_length=1)
    patient_cap: int = Field(default=1, ge=1, le=1024)


Privacy = NoPrivacy | DpSgd
