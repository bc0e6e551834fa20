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


class PatientPrivacy(Section):
    """What every mechanism states in public: the promise to one patient at one hospital, and what noise rests on.

    Attributes:
        epsilon, delta: what the whole run may cost one patient at one hospital.
        clip_norm: C, L2 norm to which a patient's gradient is cut.
        noise_multiplier: sigma / C; `auto` is the smallest that keeps `rounds` rounds within epsilon.
        sampling_rate: q, chance of a patient to be drawn in a step.
        steps_per_round: noised sums of a round.
        expected_patients: declared by each hospital's operator; q times it divides the noised sum.
        patient_cap: rows of one patient in a step; they are averaged before the clip.
    """

    TAG = "mechanism"

    mechanism: Literal["dp_sgd", "distributed"]
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


class DpSgd(PatientPrivacy):
    """Each hospital adds noise in every local step, so the promise holds against everybody, all other hospitals too."""

    mechanism: Literal["dp_sgd"]


class Distributed(PatientPrivacy):
    """Each hospital adds a share of the noise to its clipped sum of gradients, inside the mask: one sum a round.

    The promise holds as long as enough hospitals of the sum make their share and keep it to themselves; see
    `noise_shares`. `noise_multiplier` is that of the shares counted on, together. One neighbouring relation and one
    step a round: noise may be shared only where the release is one linear sum, and a patient of two hospitals, who
    enters one sum twice, is accounted for under add-or-remove alone.
    """

    mechanism: Literal["distributed"]
    adjacency: Literal["add_or_remove"] = "add_or_remove"
    steps_per_round: Literal[1] = 1


Privacy = NoPrivacy | DpSgd | Distributed
