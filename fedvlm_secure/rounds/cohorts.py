"""The cohorts that had this population's update from one state: any two of them must share an honest signer.

The aggregator proposes who is in a run. Without this rule it could open one sum in a cohort and another, which differs
by one hospital, in a second cohort of its choice (another run, or a change of members) whose signers never saw the
first set. With t1 + t2 > |R1 u R2| + c every two quorums share an honest node, and that one keeps the survivor history.
"""

from __future__ import annotations

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.secagg.messages import Manifest


def check_cohort(journal: Journal, key: str, manifest: Manifest, *, accept: bool = False) -> bytes:
    """The cohort of a manifest beside every other that had an update under `key`.

    Args:
        key: `history.cohorts_key` of the population and the state's model.
        accept: the hospital takes the risk (`other_cohorts: accept` in its node.yaml); the cohort is kept all the same.

    Returns:
        The cohorts with this one, to be committed together with an upload.

    Raises:
        PeerViolation: COHORTS_APART.
    """
    stored = journal.get(key)
    earlier = [] if stored is None else canonical.decode(stored)
    new = [list(manifest.nodes), manifest.threshold, manifest.colluding]
    for nodes, threshold, colluding in earlier:
        everybody = set(nodes) | set(manifest.nodes)
        if not accept and threshold + manifest.threshold <= len(everybody) + max(colluding, manifest.colluding):
            raise PeerViolation(
                "COHORTS_APART",
                f"{len(nodes)} hospitals had an update from this model before; the {len(manifest.nodes)} of this "
                "manifest need share no honest hospital with them that would notice two sums too close to each other",
                "change members after a round with a result, or keep more of the earlier ones; `other_cohorts: accept` "
                "in node.yaml takes the risk that both sums together show a single hospital's update",
            )
    return canonical.encode(earlier if new in earlier else [*earlier, new])
