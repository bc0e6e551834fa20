"""Where a manifest's members go on from, and what a node that was there before has to say about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.closing import NO_RESULT, Closing, initial_state
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.secagg.setup_messages import KeyAdvert, Manifest


@dataclass(frozen=True, kw_only=True)
class Standing(Record):
    """Where a node stood when it last took part in a run: its highest epoch there, and the round it closed last."""

    epoch: int
    closing: Closing | None


def new_start(policy: Policy, dimension: int) -> Closing:
    """The start of a new run: no round is closed, and every party makes the same state itself."""
    return Closing(round=-1, result_hash=NO_RESULT, state_hash=initial_state(policy, dimension).digest)


def start_of(manifest: Manifest) -> Closing:
    """The closing that a manifest goes on from."""
    return Closing(round=manifest.start_round - 1, result_hash=manifest.start_result, state_hash=manifest.start_state)


def is_continuation(manifest: Manifest) -> bool:
    """Whether the manifest changes the membership of a run that is under way."""
    return manifest.start_epoch > 0


def holds_start(manifest: Manifest, before: Closing | None, fresh: Closing) -> bool:
    """Compare a manifest's start with what this node knows for itself.

    Args:
        before: the last closing of this run that this node came to, None if it knows nothing of the run.
        fresh: `new_start` of this node's own policy and model.

    Returns:
        True where the node itself came to the start; False where it has to take the state over.

    Raises:
        PeerViolation: ROLLED_BACK, this node closed a later round; BAD_START, it closed the same round otherwise.
    """
    start = start_of(manifest)
    known = fresh if before is None else before
    if known.round > start.round:
        raise PeerViolation(
            "ROLLED_BACK",
            f"the epoch starts after round {start.round + 1}, this node closed round {known.round + 1} of the run",
            "the aggregator lost its state or lies; it must go on from the last certified round",
        )
    if known.round == start.round and known != start:
        raise PeerViolation(
            "BAD_START",
            f"the epoch starts from another closing of round {start.round + 1} than this node's own",
            "the aggregator lies, or shows the hospitals different models; compare the state hashes by telephone",
        )
    return known.round == start.round


def check_vouchers(manifest: Manifest, adverts: Iterable[KeyAdvert]) -> None:
    """At least c + 1 members came to the start themselves: one of them is honest, and replayed every step up to it.

    Without this rule a lying aggregator could name a later round than any hospital closed, and all of them would take
    over a state that nobody computed.

    Raises:
        PeerViolation: START_UNVOUCHED.
    """
    vouchers = sum(advert.holds_start for advert in adverts)
    if vouchers <= manifest.colluding:
        raise PeerViolation(
            "START_UNVOUCHED",
            f"{vouchers} of {manifest.colluding + 1} needed members came to the epoch's start themselves",
            "hospitals that closed the last round must be there when the membership changes",
        )
