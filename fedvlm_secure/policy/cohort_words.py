"""What a policy's rules about who takes part mean, in the words that an operator reads before approving."""

from __future__ import annotations

import fedvlm_secure
from fedvlm_secure.policy.schema import Policy

LOOKED_BACK = "more than 2 times in 16 rounds"
"""`rounds.participation` has the numbers; a test compares."""


def participation(policy: Policy) -> tuple[str, ...]:
    """What a hospital does about a pattern of absences; nothing where no hospital signs who is in the sum."""
    if policy.protection.method == "none":
        return ()
    pattern = (
        f"a hospital that goes out of the sum or comes in {LOOKED_BACK}, alone or almost alone, could be shown by the "
        "differences of the sums"
    )
    if policy.cohort.participation == "strict":
        return (
            f"{pattern}: the others refuse to sign such a sum (participation: strict); the round then waits for that "
            "hospital, or goes on without it where it had just come back, and the run ends if too few are left",
        )
    return (
        f"{pattern}: such a sum is signed all the same, with a warning in this hospital's log, in its audit record of "
        "the round and in the audit report (participation: warn); `strict` refuses it",
    )


def versions(policy: Policy) -> tuple[str, ...]:
    """Which versions of this package may take part together."""
    named, installed = policy.cohort.versions, fedvlm_secure.__version__
    if not named:
        return (
            f"every party must run one and the same version of this package, here {installed} (versions: not named); a "
            "hospital with another is turned away, also when it updates in the middle of the run",
        )
    lines = [
        f"parties with version {' or '.join(named)} of this package may take part together (versions); any other is "
        "turned away"
    ]
    if installed not in named:
        lines.append(f"WARNING: version {installed} is installed here, which this policy does not name")
    return tuple(lines)
