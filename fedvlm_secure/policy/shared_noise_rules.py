"""What a policy must say for noise to be shared between hospitals: one masked sum, divided by public numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlm_secure.policy.algorithms import FedProx
from fedvlm_secure.policy.section import contradiction

if TYPE_CHECKING:
    from fedvlm_secure.policy.schema import Policy

LANES = 2
"""Lanes per word under `distributed`: 32 bits hold the sum of clipped integers and the noise of every hospital."""

_IN_CLEAR = "the aggregator would see each hospital's share of noise by itself, a fraction of what is accounted for"
_KEY_FOR_ALL = "each hospital could open another's update, with its share of noise alone in it"
_METHODS = {"none": _IN_CLEAR, "bfv": _KEY_FOR_ALL, "ckks": _KEY_FOR_ALL}


def check_shared_noise(policy: Policy) -> None:
    """Refuse what cannot be done on one noised sum, under the mechanism `distributed`.

    Raises:
        PydanticCustomError: `contradiction` about one field.
    """
    method = policy.protection.method
    if method != "masking":
        raise contradiction(
            "protection.method", f"is {method} under distributed: {_METHODS[method]}", "use protection.method: masking"
        )
    if policy.protection.lanes not in ("auto", LANES):
        raise contradiction(
            "protection.lanes",
            f"is {policy.protection.lanes} under distributed: the noise does not fit such lanes",
            f"use protection.lanes: auto, which is {LANES} here",
        )
    if policy.weights != "equal":
        raise contradiction(
            "weights",
            "are not used under distributed: every drawn patient counts alike, at whatever hospital",
            "use weights: equal",
        )
    _check_one_sum(policy)


def _check_one_sum(policy: Policy) -> None:
    algorithm, local = policy.algorithm, policy.local
    if isinstance(algorithm, FedProx):
        raise contradiction(
            "algorithm.name",
            "is fedprox under distributed: its term acts in local steps, and there is one sum of gradients a round",
            "use fedavg, fedavgm, fedadagrad, fedadam or fedyogi",
        )
    if getattr(algorithm, "reference_compat", False):
        raise contradiction(
            "algorithm.reference_compat",
            "is true under distributed: the variance of the noise in that form's second moment is not known",
            "remove the line",
        )
    if policy.model.stage_at(0) is not None:
        raise contradiction(
            "model.strategy",
            "is two-stage under distributed: half of every sum would be noise about tensors that rest",
            "use connector, lora or connector+lora, or privacy.mechanism: dp_sgd",
        )
    if local.optimizer != "sgd":
        raise contradiction(
            "local.optimizer",
            f"is {local.optimizer} under distributed: the sum of gradients itself is released, once a round",
            "use optimizer: sgd, or remove the line; choose fedadam for an adaptive step of the server",
        )
    if local.schedule != "constant":
        raise contradiction(
            "local.schedule",
            "is cosine under distributed: every hospital replays the step bit for bit, and cosines differ between CPUs",
            "use schedule: constant",
        )
