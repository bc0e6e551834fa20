"""Row 4: Shamir sharing and combining over the 256-bit prime field beside Flower's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.case import Case
from benchmarks.masked_round import cohort_of
from benchmarks.measure import Cost, cost_of, median
from benchmarks.peers import FLOWER, PeerProcess
from benchmarks.row import Row, Target, at_least
from fedvlm_secure.secagg import shamir
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Secret

SHARE_RATIO, COMBINE_RATIO = at_least(30), at_least(100)
SAMPLES = 3
LEAST_SECRETS = 1000
"""In one sample, so that small cohorts are not measured with cold caches."""

_PEER_SECRETS = 4


def cases(quick: bool) -> list[Case]:
    """By cohort size: each dealer shares as many secrets as there are hospitals."""
    return [Case(f"shamir/n{nodes}", partial(measure, nodes)) for nodes in ((20,) if quick else (5, 20, 100))]


def measure(nodes: int) -> list[Row]:
    """Sharing and combining, per secret.

    Raises:
        RuntimeError: our combined secrets are not the shared ones.
    """
    threshold = cohort_of(nodes).threshold
    secrets = [Secret(ShakeEntropy(1, f"secret/{number}").bytes(32)) for number in range(nodes)]
    dealt: list[tuple[Secret, ...]] = []
    opened: list[Secret | None] = []

    def share() -> None:
        drawn = shamir.draw_coefficients(Secret(bytes(range(32))), secrets=nodes, threshold=threshold)
        dealt[:] = [shamir.share(s, c, holders=nodes) for s, c in zip(secrets, drawn, strict=True)]

    def combine() -> None:
        weights = dict(enumerate(shamir.lagrange_at_zero(range(threshold))))
        opened[:] = [
            shamir.combine({holder: shares[holder].reveal() for holder in weights}, weights) for shares in dealt
        ]

    costs: dict[str, list[Cost]] = {"share": [], "combine": []}
    theirs: dict[str, list[Cost]] = {"share": [], "combine": []}
    with PeerProcess(FLOWER) as process:
        versions = process.ask("versions")
        for _ in range(SAMPLES):
            answer = process.ask("shamir", holders=nodes, threshold=threshold, secrets=_PEER_SECRETS)
            if not answer["correct"]:
                raise RuntimeError("the peer's combined secrets are not the shared ones: the figure does not count")
            for name, act in (("share", share), ("combine", combine)):
                repeats = max(1, LEAST_SECRETS // nodes)
                costs[name].append(cost_of(partial(_repeat, act, repeats)).per(nodes * repeats))
                theirs[name].append(Cost(**answer[name]))
    if [None if s is None else s.reveal() for s in opened] != [s.reveal() for s in secrets]:
        raise RuntimeError("our combined secrets are not the shared ones: the figure does not count")
    facts = {"holders": nodes, "threshold": threshold, "secret_bytes": 32, "peer": {"versions": versions}}
    return [
        _row("share", nodes, SHARE_RATIO, median(costs["share"]), median(theirs["share"]), facts),
        _row("combine", nodes, COMBINE_RATIO, median(costs["combine"]), median(theirs["combine"]), facts),
    ]


def _repeat(act: Callable[[], None], times: int) -> None:
    for _ in range(times):
        act()


def _row(what: str, nodes: int, target: Target, ours: Cost, peer: Cost, facts: dict[str, Any]) -> Row:
    return Row(
        name=f"shamir-{what}/n{nodes}",
        value=ours.cpu_s * 1e6,
        unit="us per secret",
        against="Flower (pycryptodome, three 128-bit blocks per secret)",
        against_value=peer.cpu_s * 1e6,
        ratio=peer.cpu_s / ours.cpu_s,
        ratio_is="the peer's CPU time over ours",
        target=target,
        facts={**facts, "ours_wall_us": ours.wall_s * 1e6, "peer_wall_us": peer.wall_s * 1e6},
    )
