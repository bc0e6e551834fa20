"""The survivor history: no two sums from one state may differ by one hospital.

Kept per population and model (base fingerprint, layout, weights), across attempts, rounds, epochs and runs. What the
server's algorithm remembers is no part of it: hospitals train from the weights alone, so two runs from one model under
two algorithms have the same updates.
"""

from __future__ import annotations

from fedvlm_secure import canonical
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.secagg.survivors import RefusedSurvivors
from fedvlm_secure.types import Float32Vector, NodeId


def history_key(population: str, manifest: Manifest, weights: Float32Vector) -> str:
    """Journal key of the sets signed for one population from one model; `weights` is the state's model, float32 [d]."""
    stripped = ServerState(weights).digest
    model = canonical.digest("model", manifest.base_fingerprint, manifest.layout_digest, stripped)
    return f"history/{population}/{model.hex()}"


def check_history(journal: Journal, key: str, survivors: tuple[NodeId, ...], colluding: int) -> bytes:
    """A new set must equal each earlier one, or differ from it by at least c + 2 nodes on each non-empty side.

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
        for side in (old - new, new - old):
            if 0 < len(side) < colluding + 2:
                names = [NodeId(name) for name in side]
                raise RefusedSurvivors(
                    "SURVIVORS_TOO_CLOSE",
                    f"this set and one signed before from the same model differ by {', '.join(sorted(names))} only",
                    names,
                    "the difference of the two sums would show these hospitals' updates; wait for the same hospitals",
                )
    if list(survivors) not in earlier:
        earlier.append(list(survivors))
    return canonical.encode(earlier)
