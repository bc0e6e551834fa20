"""Witness: sees every message of a federation and says, at any time, which promise of the protocol was broken."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from fedvlm_secure.rounds.he_terms import sum_context
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.messages import (
    AggregatorMessage,
    KeyAdvert,
    NodeMessage,
    Plan,
    Result,
    ResultAck,
    Reveal,
    SurvivorSet,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
)
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Digest, NodeId

CLEAN_ENDS = {"COHORT_TOO_SMALL", "NOT_CERTIFIED", "SETUP_INCOMPLETE"}
"""How a run may end early where too many hospitals were lost; anything else is a fault of ours."""


class Witness:
    """Use `tap` as the federation's tap. Every statement that a party ever makes is kept under what it may say once."""

    def __init__(self) -> None:
        self.said: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)
        self.rounds_of: dict[Digest, tuple[Digest, int]] = {}
        self.last_closed: dict[tuple[NodeId, Digest], int] = {}

    def tap(self, direction: str, node: NodeId, message: NodeMessage | AggregatorMessage) -> bool:
        match message:
            case Plan():
                manifest = self._federation.aggregator_self.memory.manifest
                ctx = context_of(message, manifest)
                self.rounds_of[ctx] = self.rounds_of[sum_context(ctx)] = (manifest.run_hash, message.round)
            case KeyAdvert():
                self._once("one key per epoch", node, message.run_hash, message.epoch, said=message.digest)
            case SurvivorSignature():
                self._once("one signature per attempt", node, message.ctx, said=message.survivors)
            case UploadBundle():
                self._once(
                    "one upload per attempt, byte for byte", node, message.header.ctx, said=message.header.digest
                )
            case Reveal():
                self._once("one reveal per attempt, byte for byte", node, message.ctx, said=message.digest)
                self._once("one reveal per round", node, *self.rounds_of[message.ctx], said=message.ctx)
            case ResultAck():
                closed = message.result_hash + message.state_hash
                self._once("one closing per round", node, message.run_hash, message.round, said=closed)
                self._forward(node)
            case VoidAck():
                self._once("one closing per round", node, message.run_hash, message.round, said=b"void")
                self._forward(node)
            case Result():
                self._once("one model per round", message.run_hash, message.round, said=message.state_hash)
            case SurvivorSet():
                survivors = ",".join(header.node for header in message.headers)
                self._once("one survivor set per attempt", message.ctx, said=survivors.encode())
        return True

    def watch(self, federation: Federation) -> None:
        """Read manifests there."""
        self._federation = federation

    def _once(self, promise: str, *key: Any, said: bytes) -> None:
        statements = self.said[(promise, *key)]
        statements.add(bytes(said))
        assert len(statements) == 1, f"{promise}: broken by {key}"

    def _forward(self, node: NodeId) -> None:
        """By its journal: of two acknowledgements the later one may arrive first."""
        memory = self._federation.nodes[node].own.memory
        closed = -1 if memory.closing is None else memory.closing.round
        key = (node, memory.manifest.run_hash)
        before = self.last_closed.get(key, -1)
        assert closed >= before, f"{node} went back from round {before} to {closed}"
        self.last_closed[key] = closed

    def check_end(self, federation: Federation) -> None:
        """What must hold when a run is over, well or cleanly aborted."""
        memory = federation.aggregator_self.memory
        if memory.abort is not None:
            assert memory.abort.code in CLEAN_ENDS, f"{memory.abort.code}: {memory.abort.cause}"
        if memory.opened is None:
            return
        run_hash = memory.manifest.run_hash
        for node, simulated in federation.nodes.items():
            closing = simulated.own.memory.closing
            if closing is None or simulated.own.memory.manifest.run_hash != run_hash:
                continue
            assert closing.round <= memory.closing.round + 1, f"{node} is ahead of the aggregator"
            if closing.round == memory.closing.round:
                assert closing.state_hash == memory.closing.state_hash, f"two models of round {closing.round}"
        self._check_charges(federation, run_hash)

    def _check_charges(self, federation: Federation, run_hash: Digest) -> None:
        """Whoever sent an upload of a round was charged for it."""
        for node, purse in federation.purses.items():
            sent = {self.rounds_of[key[2]] for key in self.said if key[0].startswith("one upload") and key[1] == node}
            if isinstance(purse, MemoryPurse) and federation.policy.privacy.mechanism != "none":
                charged = set(purse.charges)
                assert sent <= charged, f"{node} released rounds {sorted(r for _, r in sent - charged)} uncharged"


def sums_are_exact(federation: Federation, updates: dict[int, dict[NodeId, Any]], grid: float) -> None:
    """The model is the sum of the means over each round's survivors, to within the grid (plain federated averaging)."""
    expected = np.zeros(federation.state.model.shape, dtype=np.float64)
    for summary in federation.aggregator_self.memory.summaries:
        if not summary["void"]:
            rows = [updates[summary["round"]][NodeId(name)].astype(np.float64) for name in summary["survivors"]]
            expected += np.mean(rows, axis=0)
    closed = max(1, len(federation.aggregator_self.memory.summaries))
    assert np.abs(federation.state.model - expected).max() < grid * closed
