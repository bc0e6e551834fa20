"""The survivor history: no two sums from one state may differ by one hospital.

Kept per population and model (base fingerprint, layout, weights), across attempts, rounds, epochs and runs. What the
server's algorithm remembers is no part of it: hospitals train from the weights alone, so two runs from one model under
two algorithms have the same updates.
"""

from __future__ import annotations

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.participation import PATTERN_CODE, find_pattern, isolation_warning
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.secagg.survivors import RefusedSurvivors
from fedvlm_secure.types import Digest, Float32Vector, NodeId


def model_digest(manifest: Manifest, weights: Float32Vector) -> Digest:
    """What one model is known by here; `weights` is the state's model, float32 [d]."""
    stripped = ServerState(weights).digest
    return canonical.digest("model", manifest.base_fingerprint, manifest.layout_digest, stripped)


def history_key(population: str, model: Digest) -> str:
    """Journal key of the sets signed for one population from one model."""
    return f"history/{population}/{model.hex()}"


def cohorts_key(population: str, model: Digest) -> str:
    """Journal key of the cohorts that had this population's update from one model."""
    return f"cohorts/{population}/{model.hex()}"


def check_history(journal: Journal, key: str, survivors: tuple[NodeId, ...], colluding: int) -> bytes:
    """A new set must equal each earlier one, or one of the two holds the other and at least c + 2 nodes more.

    So all sets opened from one model form a chain, and whatever combination of their sums is constant on its layers,
    each of which has at least two honest nodes. A difference of c + 2 on each side alone is not enough from the third
    sum on: abc + ade - abcde is a's update (proto/model).

    Returns:
        The history with this set, to be committed together with the signature.

    Raises:
        RefusedSurvivors: SURVIVORS_TOO_CLOSE, naming the hospitals that are missing (or too many).
    """
    stored = journal.get(key)
    earlier = [] if stored is None else canonical.decode(stored)
    new = set(survivors)
    for signed in earlier:
        old = set(signed)
        gone, come = old - new, new - old
        if (gone and come) or 0 < len(gone | come) < colluding + 2:
            names = sorted(NodeId(name) for name in (gone or come))
            raise RefusedSurvivors(
                "SURVIVORS_TOO_CLOSE",
                f"this set and one signed before from the same model are told apart by {', '.join(names)}",
                names,
                "differences of the sums could show these hospitals' updates; wait for the same hospitals",
            )
    if list(survivors) not in earlier:
        earlier.append(list(survivors))
    return canonical.encode(earlier)


def check_participation(own: NodeSelf, round_number: int, survivors: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    """Whether a set continues a pattern of absences.

    Returns:
        The hospitals that it isolates once too often, for a warning; empty in the good case.

    Raises:
        RefusedSurvivors: PARTICIPATION_PATTERN, under `cohort.participation: strict`.
    """
    pattern = find_pattern(own.participation, round_number, survivors, own.memory.manifest.colluding)
    if pattern and own.policy.cohort.participation == "strict":
        raise RefusedSurvivors(
            PATTERN_CODE,
            isolation_warning(pattern),
            list(pattern),
            "keep these hospitals in, or out",
        )
    return pattern
