"""Whether a well-formed policy can be carried out by a cohort of a given size; nothing starts before this holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.he.parameters import HeParameters, choose_parameters
from fedvlm_secure.policy import thresholds
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.schema import DeclaredWeights, Policy
from fedvlm_secure.policy.shared_noise_rules import LANES
from fedvlm_secure.policy.thresholds import CohortTerms
from fedvlm_secure.ring.lanes import LaneFormat, lane_format


@dataclass(frozen=True)
class Feasible:
    """What a policy comes to for one cohort. `scale_bits` is log2 of the fixed-point scale.

    `encryption` is None unless updates are added under homomorphic encryption.
    """

    terms: CohortTerms
    lanes: LaneFormat
    scale_bits: int
    encryption: HeParameters | None

    def upload_words(self, coordinates: int) -> int:
        """64-bit words that carry `coordinates` values, masked or encrypted, without what rides behind them."""
        own = self.encryption
        if own is None:
            return self.lanes.words(coordinates)
        return -(-coordinates // own.values) * own.ciphertext_words


def check(policy: Policy, nodes: int, node_ids: frozenset[str] | None = None) -> Feasible:
    """Resolve every `auto` for a cohort of `nodes` hospitals.

    Args:
        policy: a loaded policy.
        nodes: cohort size, the roster's.
        node_ids: the roster's ids where known; declared weights are then compared with them.

    Raises:
        PolicyError: COHORT_TOO_SMALL, COHORT_INFEASIBLE, RING_HEADROOM, HE_HEADROOM, HE_UNSAFE, WEIGHTS_MISMATCH or
            PATIENTS_MISMATCH; the cause names the field.
    """
    method = policy.protection.method
    terms = thresholds.resolve(policy.cohort, nodes, shared_key=policy.protection.is_encrypted)
    shared = isinstance(policy.privacy, Distributed)
    lanes = lane_format(LANES if shared else policy.protection.lanes, nodes)
    if node_ids is not None and isinstance(policy.weights, DeclaredWeights):
        _check_declared(policy.weights, node_ids)
    if node_ids is not None and isinstance(policy.privacy, PatientPrivacy):
        _check_expected(policy.privacy, node_ids)
    encryption = None
    if method == "bfv" or method == "ckks":
        encryption = choose_parameters(method, nodes=nodes, value_bits=lanes.value_bits)
    return Feasible(terms, lanes, lanes.scale_bits(policy.protection.max_update), encryption)


def check_smallest(policy: Policy, place: Callable[[str], str]) -> Feasible:
    """`check` for the smallest cohort that the policy admits, with file and line in the cause.

    Args:
        policy: a policy just read.
        place: `file:line` of a key path.

    Raises:
        PolicyError: as `check`.
    """
    if policy.cohort.min_nodes < thresholds.SMALLEST_COHORT:
        raise PolicyError(
            "COHORT_TOO_SMALL",
            f"{place('cohort.min_nodes')}: cohort.min_nodes is {policy.cohort.min_nodes}, below "
            f"{thresholds.SMALLEST_COHORT}: each hospital would learn the others' update from the sum",
            f"use cohort.min_nodes: {thresholds.SMALLEST_COHORT} or more",
        )
    try:
        return check(policy, policy.cohort.min_nodes)
    except PolicyError as error:
        fields = {"RING_HEADROOM": "protection.lanes", "HE_HEADROOM": "protection", "HE_UNSAFE": "protection"}
        field = fields.get(error.code, "cohort")
        raise PolicyError(error.code, f"{place(field)}: {error.cause}", error.hint) from error


def _check_declared(weights: DeclaredWeights, node_ids: frozenset[str]) -> None:
    declared = frozenset(weights.declared)
    new, gone = sorted(node_ids - declared), sorted(declared - node_ids)
    wrong = [f"no size for {', '.join(new[:5])}"] if new else []
    wrong += [f"a size for {', '.join(gone[:5])}, not among those who take part"] if gone else []
    if wrong:
        raise PolicyError(
            "WEIGHTS_MISMATCH",
            f"weights.declared has {' and '.join(wrong)}",
            "a run keeps its policy: go on with exactly the hospitals that it declares, or write a new policy that "
            "declares a size for each who takes part, have every hospital approve it, and start a new run",
        )


def _check_expected(privacy: PatientPrivacy, node_ids: frozenset[str]) -> None:
    missing = sorted(node_ids - frozenset(privacy.expected_patients))
    if missing:
        raise PolicyError(
            "PATIENTS_MISMATCH",
            f"privacy.expected_patients does not name {', '.join(missing[:5])}",
            "declare a number of patients for each hospital of the roster",
        )
