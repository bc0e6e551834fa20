"""Flower's SecAgg+ driven through its own stage functions. Runs in the peers' environment, never in ours.

    python benchmarks/peer_flower.py        # one JSON request a line on standard input, one JSON answer a line

A round is `secaggplus_mod`'s client stages (setup, share keys, collect masked vectors, unmask) and the server's
`SecAggPlusWorkflow` stages (collect masked vectors, unmask), unchanged. Only what would cross the network is handed
over in memory: the grid is a stand-in that returns the clients' prepared replies. Both ends' own (de)serialisation of
the vector is part of their stages and stays in the figures.
"""

# mypy: disable-error-code="import-not-found"
# (this file is run in another environment than the one that checks it)

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common import FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.typing import Code
from flwr.compat.common import recorddict_compat as compat
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.supercore.task_identity import TaskIdentity

client: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
"""The module; its package gives only the function of the same name."""

Answer = dict[str, Any]
ROUND = 1
UPDATE_DEVIATION = 0.03


def timed(act: Callable[[], Any]) -> tuple[Any, Answer]:
    """A call's result with its CPU time (all threads) and wall time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return result, {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def update_of(node: int, dimension: int) -> np.ndarray:
    """A node's update: float32 [d], seeded by its id."""
    drawn = np.random.Generator(np.random.PCG64(node)).standard_normal(dimension, dtype=np.float32)
    drawn *= np.float32(UPDATE_DEVIATION)
    return drawn


class Round:
    """One round of `nodes` clients of which the last `lost` never upload.

    Args:
        num_shares: a client's shares, itself included: `nodes` is the complete graph.
        threshold: shares that recover a secret.
    """

    def __init__(self, nodes: int, dimension: int, lost: int, num_shares: int, threshold: int) -> None:
        random.seed(1)  # Flower shuffles the ring of neighbours with it
        self.workflow = SecAggPlusWorkflow(num_shares, threshold)
        self.dimension, self.ids = dimension, list(range(1, nodes + 1))
        self.active = self.ids[: nodes - lost]
        self.server = WorkflowState(
            num_shares=num_shares,
            threshold=threshold,
            clipping_range=self.workflow.clipping_range,
            quantization_range=self.workflow.quantization_range,
            mod_range=self.workflow.modulus_range,
            max_weight=self.workflow.max_weight,
            sampled_node_ids=set(self.ids),
            active_node_ids=set(self.ids),
        )
        self.near = neighbours(self.ids, num_shares)
        self.clients = {nid: client.SecAggPlusState(nid=nid) for nid in self.ids}
        self.masked: dict[int, Answer] = {}
        self.true_sum = np.zeros(dimension)
        self._share_keys()

    def _share_keys(self) -> None:
        configured = {
            Key.SAMPLE_NUMBER: len(self.ids),
            Key.SHARE_NUMBER: self.server.num_shares,
            Key.THRESHOLD: self.server.threshold,
            Key.CLIPPING_RANGE: self.server.clipping_range,
            Key.TARGET_RANGE: self.server.quantization_range,
            Key.MOD_RANGE: self.server.mod_range,
            Key.MAX_WEIGHT: self.server.max_weight,
        }
        for nid, state in self.clients.items():
            keys = client._setup(state, ConfigRecord(dict(configured)))
            self.server.nid_to_publickeys[nid] = [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]
        sources: dict[int, list[int]] = {nid: [] for nid in self.ids}
        sealed: dict[int, list[bytes]] = {nid: [] for nid in self.ids}
        for nid, state in self.clients.items():
            public = {str(other): self.server.nid_to_publickeys[other] for other in self.near[nid]}
            dealt = client._share_keys(state, ConfigRecord(public))
            for holder, ciphertext in zip(dealt[Key.DESTINATION_LIST], dealt[Key.CIPHERTEXT_LIST], strict=True):
                sources[holder].append(nid)
                sealed[holder].append(ciphertext)
        self.forwarded: dict[int, Answer] = {
            nid: {Key.SOURCE_LIST: sources[nid], Key.CIPHERTEXT_LIST: sealed[nid]} for nid in self.ids
        }

    def node(self, which: int) -> Answer:
        """The client stage `collect masked vectors` of one survivor: encode, self mask, one mask per neighbour."""
        nid = self.active[which]
        update = update_of(nid, self.dimension)
        if nid not in self.masked:  # a repeat replaces what the node sent
            self.true_sum += update
        parameters = ndarrays_to_parameters([update])
        weight = round(self.server.max_weight)  # the largest, so that no precision is lost to it
        reply, cost = timed(
            lambda: client._collect_masked_vectors(self.clients[nid], self.forwarded[nid], weight, parameters)
        )
        self.masked[nid] = reply
        parts: list[bytes] = reply[Key.MASKED_PARAMETERS]
        size = sum(len(part) for part in parts)
        return {**cost, "masks": len(self.forwarded[nid][Key.SOURCE_LIST]), "bytes": size}

    def aggregate(self) -> Answer:
        """The server stages `collect masked vectors` and `unmask`: sum, recover, unmask, decode, divide."""
        decoded: list[Parameters] = []
        context = stand_in_context(decoded)
        self.server.active_node_ids = set(self.ids)
        self.server.nid_to_fitins = {nid: RecordDict() for nid in self.ids}
        self.server.nid_to_proxies = dict.fromkeys(self.ids)
        self.server.forward_srcs = {nid: self.forwarded[nid][Key.SOURCE_LIST] for nid in self.ids}
        self.server.forward_ciphertexts = {nid: self.forwarded[nid][Key.CIPHERTEXT_LIST] for nid in self.ids}
        uploads, shares = self._uploads(), self._shares()
        workflow = self.workflow
        state = replace(self.server, nid_to_neighbours={nid: set(near) for nid, near in self.near.items()})
        collected, first = timed(lambda: workflow.collect_masked_vectors_stage(grid(uploads), context, state))
        uploads.clear()
        state.legacy_results = state.legacy_results[:1]
        opened, second = timed(lambda: workflow.unmask_stage(grid(shares), context, state))
        if not (collected and opened):
            raise RuntimeError("the peer's workflow halted: not enough nodes for its threshold")
        mean = parameters_to_ndarrays(decoded[0])[0]
        error = float(np.abs(mean - self.true_sum / len(self.active)).max())
        step = 2 * state.clipping_range / state.quantization_range
        both = {key: first[key] + second[key] for key in first}
        return {**both, "collect": first, "unmask": second, "largest_error": error, "correct": error <= step}

    def _uploads(self) -> list[Any]:
        empty = FitRes(Status(Code.OK, ""), Parameters([], ""), round(self.server.max_weight), {})
        made = []
        for nid in self.active:
            content = compat.fitres_to_recorddict(empty, keep_input=False)
            content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(dict(self.masked[nid]), False)
            made.append(reply_of(nid, content))
        return made

    def _shares(self) -> list[Any]:
        dead = set(self.ids) - set(self.active)
        made = []
        for nid in self.active:
            near = self.near[nid]
            asked = {
                Key.ACTIVE_NODE_ID_LIST: sorted(near & set(self.active)),
                Key.DEAD_NODE_ID_LIST: sorted(near & dead),
            }
            record = ConfigRecord(client._unmask(self.clients[nid], asked), False)
            made.append(reply_of(nid, SimpleNamespace(config_records={RECORD_KEY_CONFIGS: record})))
        return made

    @property
    def configuration(self) -> Answer:
        workflow = self.workflow
        return {
            "num_shares": self.server.num_shares,
            "reconstruction_threshold": self.server.threshold,
            "max_weight": workflow.max_weight,
            "clipping_range": workflow.clipping_range,
            "quantization_range": workflow.quantization_range,
            "modulus_range": workflow.modulus_range,
        }


def neighbours(ids: list[int], num_shares: int) -> dict[int, set[int]]:
    """`SecAggPlusWorkflow.setup_stage`, its ring of neighbours: the one step that is not a function of its own."""
    shuffled = list(ids)
    random.shuffle(shuffled)
    half = num_shares >> 1
    around = range(-half, half + 1)
    return {nid: {shuffled[(at + step) % len(ids)] for step in around} for at, nid in enumerate(shuffled)}


def grid(replies: list[Any]) -> Any:
    """A stand-in for the network: whatever is asked, these replies have come."""
    return SimpleNamespace(send_and_receive=lambda messages, timeout: list(replies))


def reply_of(nid: int, content: Any) -> Any:
    """One client's reply as the grid would give it."""
    return SimpleNamespace(content=content, metadata=SimpleNamespace(src_node_id=nid), has_error=lambda: False)


def stand_in_context(decoded: list[Parameters]) -> Any:
    """What the workflow asks of a server app; the strategy keeps the decoded mean instead of averaging equal copies."""

    def aggregate_fit(round_number: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        decoded.append(results[0][1].parameters)
        return None, {}

    records = {MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: ROUND}}
    state = SimpleNamespace(config_records=records, array_records={})
    return SimpleNamespace(state=state, strategy=SimpleNamespace(aggregate_fit=aggregate_fit))


def shamir(holders: int, threshold: int, secrets: int) -> Answer:
    """Share and combine `secrets` random 32-byte secrets; seconds per secret."""
    drawn = [os.urandom(32) for _ in range(secrets)]
    shared, sharing = timed(lambda: [create_shares(secret, threshold, holders) for secret in drawn])
    back, combining = timed(lambda: [combine_shares(shares[:threshold]) for shares in shared])
    each = {"share": sharing, "combine": combining}
    seconds = {name: {key: value / secrets for key, value in cost.items()} for name, cost in each.items()}
    return {**seconds, "correct": back == drawn}


class Driver:
    """Answers requests; holds the round in progress."""

    def __init__(self) -> None:
        self.round: Round | None = None

    def answer(self, asked: Answer) -> Answer:
        match asked.pop("do"):
            case "versions":
                return {name: version(name) for name in ("flwr", "numpy", "cryptography", "pycryptodome")}
            case "open":
                self.round = None
                self.round = Round(**asked)
                return {"configuration": self.round.configuration, "active": len(self.round.active)}
            case "node":
                return self._opened().node(asked["which"])
            case "aggregate":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                return {**self._opened().aggregate(), "peak_before_bytes": peak}
            case "shamir":
                return shamir(**asked)
            case other:
                raise ValueError(f"no such request: {other}")

    def _opened(self) -> Round:
        if self.round is None:
            raise ValueError("open a round first")
        return self.round


def main() -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # its messages want to know who sends them
    driver = Driver()
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # the peer's own log lines stay out of the answers
        for line in sys.stdin:
            try:
                answer = driver.answer(json.loads(line))
            except (ValueError, RuntimeError, MemoryError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            out.write(json.dumps(answer) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
