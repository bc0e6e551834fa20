"""What the rest of a policy may not say under differential privacy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.privacy import DP_MIN_PATIENTS, Distributed, PatientPrivacy
from fedvlm_secure.policy.section import contradiction
from fedvlm_secure.policy.shared_noise_rules import check_shared_noise

if TYPE_CHECKING:
    from fedvlm_secure.policy.schema import Policy

_UNUSED = {
    "steps": "each hospital makes privacy.steps_per_round steps",
    "epochs": "each hospital makes privacy.steps_per_round steps; passes over the rows would tell their number",
    "batch_size": "patients are drawn with chance privacy.sampling_rate; a fixed batch is not what is accounted for",
}


def check_private(policy: Policy) -> None:
    """Refuse what would release something un-noised, or what the accounting does not cover.

    Raises:
        PydanticCustomError: `contradiction` about one field, which the loader turns into file and line.
    """
    privacy, local = policy.privacy, policy.local
    if not isinstance(privacy, Distributed) and local.optimizer != "adamw":
        raise contradiction("local.optimizer", f"is {local.optimizer}, the one step of distributed", "use adamw")
    if not isinstance(privacy, PatientPrivacy):
        if local.steps is None and local.epochs is None:
            raise contradiction("local.steps", "and local.epochs: exactly one of them is needed")
        _check_unnoised(policy)
        return
    under = privacy.mechanism
    for field, reason in _UNUSED.items():
        if getattr(local, field) is not None:
            raise contradiction(f"local.{field}", f"is not used under {under}: {reason}", "remove the line")
    if local.augment != "none" or local.weight_decay:
        field = "augment" if local.augment != "none" else "weight_decay"
        raise contradiction(f"local.{field}", f"is not used under {under}", "remove the line")
    if isinstance(privacy, Distributed):
        check_shared_noise(policy)
    _check_releases(policy, privacy)
    _check_numbers(policy, privacy)


def _check_unnoised(policy: Policy) -> None:
    scored = policy.evaluation
    if scored.is_noised:
        raise contradiction(
            "evaluation.release",
            f"{scored.release} is a noised release, and privacy.mechanism none adds no noise",
            "use totals (inside the protected sum) or none",
        )
    _refuse_unused_noise(policy)


def _refuse_unused_noise(policy: Policy) -> None:
    for field in ("noise_multiplier", "epsilon"):
        if getattr(policy.evaluation, field) is not None:
            raise contradiction(
                f"evaluation.{field}",
                f"is not used with evaluation.release {policy.evaluation.release}",
                "remove the line, or use release: final or each under dp_sgd",
            )


def _check_releases(policy: Policy, privacy: PatientPrivacy) -> None:
    if getattr(policy.weights, "counted", None) is not None:
        raise contradiction(
            "weights",
            "counted tells a hospital's number of rows, un-noised",
            "use weights: equal, or declared sizes, under dp_sgd",
        )
    scored = policy.evaluation
    if scored.release == "totals":
        raise contradiction(
            "evaluation.release",
            "totals are exact counts over patients, un-noised",
            "use release: none (each hospital still sees its own accuracy), final or each under dp_sgd",
        )
    if not scored.is_noised:
        _refuse_unused_noise(policy)
        return
    if (scored.noise_multiplier is None) == (scored.epsilon is None):  # a file that names neither gets an epsilon
        raise contradiction("evaluation.noise_multiplier", "and evaluation.epsilon: at most one of them is given")
    if scored.epsilon is not None and scored.epsilon >= privacy.epsilon:
        raise contradiction(
            "evaluation.epsilon",
            f"is {scored.epsilon:g}; it is a part of privacy.epsilon {privacy.epsilon:g}",
            "leave most of it to the training, such as a quarter here",
        )


def _check_numbers(policy: Policy, privacy: PatientPrivacy) -> None:
    smallest = min(privacy.expected_patients.values())
    try:
        require_delta(privacy.delta, smallest)
    except PolicyError as refused:
        raise contradiction("privacy.delta", f"is {privacy.delta:g}: {refused.cause}", refused.hint) from refused
    if policy.limits.min_patients < DP_MIN_PATIENTS:
        raise contradiction(
            "limits.min_patients",
            f"is {policy.limits.min_patients}; a mechanism asks for {DP_MIN_PATIENTS} or more",
            "a hospital with fewer patients drowns in its own noise",
        )
    if smallest < policy.limits.min_patients:
        raise contradiction(
            "privacy.expected_patients",
            f"has {smallest} for one hospital, below limits.min_patients {policy.limits.min_patients}",
            "leave that hospital out, or correct the number",
        )
    if len(privacy.expected_patients) < policy.cohort.min_nodes:
        raise contradiction(
            "privacy.expected_patients",
            f"names {len(privacy.expected_patients)} hospitals; cohort.min_nodes is {policy.cohort.min_nodes}",
            "name every hospital of the roster",
        )
