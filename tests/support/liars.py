"""An aggregator that lies: it holds everything a real one holds, its signing key too, and says what a test says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.ring.quantise import WEIGHT_BITS
from fedvlm_secure.rounds.actions import NodeAction, Send, Train, Upload
from fedvlm_secure.rounds.closing import Closing, next_state
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.terms import cohort_of, context_of, vector_of
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.merkle import chunk_root, tree_path
from fedvlm_secure.secagg.messages import (
    AggregatorMessage,
    Certificate,
    DealtShares,
    EpochAck,
    EpochKeys,
    EpochReady,
    KeyAdvert,
    OpenEpoch,
    Plan,
    Refusal,
    Result,
    ResultAck,
    Reveal,
    RevealRequest,
    SurvivorSet,
    SurvivorSignature,
    UploadBundle,
    VoidAck,
    VoidRequest,
)
from fedvlm_secure.secagg.record import Signer, Statement
from fedvlm_secure.secagg.unmasking import Unmasking
from fedvlm_secure.simulate.federation import SimulatedNode
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Float64Vector, NodeId, Words
from tests.support.cohort import Cohort

T = TypeVar("T", bound=Statement)
M = TypeVar("M")
Bundles = dict[NodeId, UploadBundle]


def restate(statement: T, signer: Signer, **changes: Any) -> T:
    """The same statement with other fields, properly signed by `signer`."""
    fields = {f.name: getattr(statement, f.name) for f in dataclasses.fields(statement) if f.name != "signature"}
    return signer.sign(type(statement), **{**fields, **changes})


def held(content: bytes | None) -> HeldVector | None:
    """An attachment in memory."""
    return None if content is None else HeldVector(content)


def sent(actions: Sequence[NodeAction], cls: type[M]) -> M:
    """The one message of a kind among what a node does."""
    found = [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, cls)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} messages of {cls.__name__} in {actions}")
    return found[0]


class LyingAggregator:
    """Args:
    n: hospitals a, b, c, ... The epoch is set up honestly; from the first plan on only the test speaks.
    """

    def __init__(self, n: int, *, dimension: int = 20, rounds: int = 9, **changes: Any) -> None:
        self.cohort = Cohort(n, dimension=dimension, rounds=rounds, tap=self._tap, **changes)
        self.federation = self.cohort.federation
        self.told: list[AggregatorMessage] = []
        self.federation.run(lambda f: bool(self.told) and all(not node.inbox for node in f.nodes.values()))
        own = self.federation.aggregator_self
        self.signer, self.identities = own.signer, own.identities
        self.manifest, self.roster_hash = own.memory.manifest, own.memory.keys.roster_hash
        self.terms = cohort_of(self.manifest)
        self.names = self.manifest.nodes
        self.contents: dict[tuple[bytes, NodeId], bytes] = {}
        self.reveals: list[Reveal] = []
        self.refusals: list[Refusal] = []

    def _tap(self, direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Plan):
            self.told.append(message)
        return not isinstance(message, Plan)

    def node(self, name: str) -> SimulatedNode:
        return self.federation.nodes[NodeId(name)]

    def signer_of(self, name: str) -> Signer:
        """The key of a node that colludes."""
        return self.node(name).own.signer

    def journal(self, name: str) -> dict[str, bytes]:
        """What a node has journalled so far."""
        journal = self.node(name).own.memory.journal
        if not isinstance(journal, MemoryJournal):
            raise TypeError("a simulated node journals in memory")
        return dict(journal.content)

    def restart(self, name: str) -> None:
        """The node's process dies and comes back from its journal."""
        simulated = self.node(name)
        simulated.own = dataclasses.replace(simulated.own, memory=NodeMemory(simulated.own.memory.journal))
        simulated.run = NodeRun(simulated.own)

    def tell(self, name: str, message: AggregatorMessage, attachment: bytes | None = None) -> tuple[NodeAction, ...]:
        """Say something to a node; shares that leave it are noted."""
        actions = self.node(name).run.receive(message, held(attachment))
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, Reveal):
                self.reveals.append(action.message)
            if isinstance(action, Send) and isinstance(action.message, Refusal):
                self.refusals.append(action.message)
        return actions

    def refused(self, name: str, message: AggregatorMessage, code: str, attachment: bytes | None = None) -> None:
        """The node raises `code`; its journal is as before and no share left."""
        before, revealed = self.journal(name), len(self.reveals)
        with pytest.raises(PeerViolation) as caught:
            self.tell(name, message, attachment)
        assert caught.value.code == code
        assert self.journal(name) == before
        assert len(self.reveals) == revealed

    def refuses_to_sign(self, name: str, message: SurvivorSet, code: str) -> Refusal:
        """The node answers with a signed refusal; its journal is as before and no share left."""
        before, revealed = self.journal(name), len(self.reveals)
        refusal = sent(self.tell(name, message), Refusal)
        assert refusal.code == code
        assert self.journal(name) == before
        assert len(self.reveals) == revealed
        return refusal

    def plan(self, *, attempt: int = 0, certificate: Certificate | None = None, **changes: Any) -> Plan:
        """The plan that follows from where node a stands, with any field changed."""
        closing = self.closing("a")
        fields: dict[str, Any] = {
            "roster_hash": self.roster_hash,
            "round": closing.round + 1,
            "attempt": attempt,
            "state_hash": closing.state_hash,
            "previous_result": closing.result_hash,
            "certificate": certificate,
        }
        return self.signer.sign(Plan, **{**fields, **changes})

    def closing(self, name: str) -> Closing:
        closing = self.node(name).own.memory.closing
        if closing is None:
            raise LookupError("no run is open")
        return closing

    def collect(self, plan: Plan, names: Iterable[str]) -> Bundles:
        """R0 and R1: these nodes accept the plan and upload."""
        bundles: Bundles = {}
        for name in sorted(names):
            actions = self.tell(name, plan)
            if isinstance(actions[0], Train):
                actions = self.train(name, actions[0])
            upload = actions[0]
            if not isinstance(upload, Upload):
                raise LookupError(f"{name} does not upload but {actions}")
            bundles[NodeId(name)] = upload.bundle
            self.contents[upload.bundle.header.ctx, NodeId(name)] = upload.content
        return bundles

    def train(self, name: str, asked: Train) -> tuple[NodeAction, ...]:
        """The node's local work is done."""
        simulated = self.node(name)
        return simulated.run.trained(asked.round, simulated.work.train(asked.round, asked.state))

    def survivor_set(self, plan: Plan, bundles: Mapping[NodeId, UploadBundle], holder: str) -> SurvivorSet:
        """R2 over exactly these bundles, as `holder` gets it."""
        dealt = []
        for dealer, bundle in bundles.items():
            sealed = b""
            if dealer != holder:
                sealed = bundle.sealed[self.terms.peers(dealer).index(NodeId(holder))]
            path = tree_path(bundle.holder_digests, self.terms.index[NodeId(holder)])
            dealt.append(DealtShares(sealed=sealed, path=path))
        headers = tuple(bundle.header for bundle in bundles.values())
        return SurvivorSet(ctx=context_of(plan, self.manifest), headers=headers, dealt=tuple(dealt))

    def sign(self, plan: Plan, bundles: Bundles, names: Iterable[str]) -> tuple[SurvivorSignature, ...]:
        """R2: signatures of these nodes under the set of these bundles."""
        sets = [(name, self.survivor_set(plan, bundles, name)) for name in sorted(names)]
        return tuple(sent(self.tell(name, message), SurvivorSignature) for name, message in sets)

    def request(self, plan: Plan, signatures: Iterable[SurvivorSignature]) -> RevealRequest:
        return RevealRequest(ctx=context_of(plan, self.manifest), signatures=tuple(signatures))

    def open(self, plan: Plan, bundles: Bundles, reveals: Sequence[Reveal]) -> Words:
        """What the aggregator learns from an attempt: the sum's words, uint64 [words]."""
        unmasking = Unmasking(context_of(plan, self.manifest), self.terms, bundles)
        for reveal in reveals:
            unmasking.check_reveal(reveal)
        vectors = {node: [self.contents[unmasking.ctx, node]] for node in bundles}
        total = unmasking.sum_masked(vectors, vector_of(self.manifest).words)
        unmasking.remove_masks(total, reveals)
        return total

    def run_attempt(self, plan: Plan, names: Iterable[str]) -> Words:
        """R0 to R3 honestly with these nodes as S."""
        members = sorted(names)
        bundles = self.collect(plan, members)
        request = self.request(plan, self.sign(plan, bundles, members))
        reveals = [sent(self.tell(name, request), Reveal) for name in members[: self.terms.threshold]]
        return self.open(plan, bundles, reveals)

    def result(self, plan: Plan, total: Words, names: Iterable[str], **changes: Any) -> tuple[Result, bytes]:
        """R4 for a sum: the signed result and its attachment."""
        survivors = tuple(NodeId(name) for name in sorted(names))
        content = total.astype("<u8").tobytes()
        fields: dict[str, Any] = {
            "run_hash": self.manifest.run_hash,
            "round": plan.round,
            "ctx": context_of(plan, self.manifest),
            "survivors": survivors,
            "sum_root": chunk_root(content),
            "state_hash": changes.get("state_hash") or self._step(total, len(survivors), plan.round),
        }
        return self.signer.sign(Result, **{**fields, **changes}), content

    def _step(self, total: Words, contributors: int, round_number: int) -> bytes:
        state = self.node("a").own.memory.state
        policy, manifest = self.cohort.policy, self.manifest
        return bytes(next_state(policy, manifest, state, total, contributors, round_number=round_number).state.digest)

    def close(self, plan: Plan, total: Words, names: Iterable[str]) -> Certificate:
        """R4 honestly: everybody replays and acknowledges."""
        message, content = self.result(plan, total, names)
        acks = [sent(self.tell(name, message, content), ResultAck) for name in self.names]
        return Certificate(result_acks=tuple(acks))

    def close_void(self, names: Iterable[str]) -> Certificate:
        """These nodes close their next round without a result."""
        request = self.void_request()
        acks = [sent(self.tell(name, request), VoidAck) for name in sorted(names)]
        return Certificate(void_acks=tuple(acks))

    def void_request(self, **changes: Any) -> VoidRequest:
        closing = self.closing("a")
        fields: dict[str, Any] = {
            "run_hash": self.manifest.run_hash,
            "round": closing.round + 1,
            "previous_result": closing.result_hash,
            "state_hash": closing.state_hash,
        }
        return self.signer.sign(VoidRequest, **{**fields, **changes})

    def open_epoch(self, **changes: Any) -> OpenEpoch:
        """S0 for the present run's next epoch, with any field changed."""
        opened = self.node("a").own.memory.opened_epoch
        epoch = -1 if opened is None else opened.epoch
        fields: dict[str, Any] = {
            "manifest": self.manifest,
            "epoch": epoch + 1,
            "first_round": self.closing("a").round + 1,
        }
        return self.signer.sign(OpenEpoch, **{**fields, **changes})

    def approve_again(self) -> None:
        """Every operator approves the policy once more, so that another run may open."""
        for simulated in self.federation.nodes.values():
            approval = simulated.own.approval + "+"
            simulated.own = dataclasses.replace(simulated.own, approval=approval)
            simulated.run = NodeRun(simulated.own)

    def adverts(self, opened: OpenEpoch) -> tuple[KeyAdvert, ...]:
        """S1 at every member."""
        return tuple(sent(self.tell(name, opened), KeyAdvert) for name in opened.manifest.nodes)

    def keys(self, opened: OpenEpoch, adverts: Iterable[KeyAdvert]) -> EpochKeys:
        return EpochKeys(run_hash=opened.manifest.run_hash, epoch=opened.epoch, adverts=tuple(adverts))

    def set_up(self, opened: OpenEpoch) -> None:
        """S0 to S3 honestly; from here on this epoch is the one spoken of."""
        keys = self.keys(opened, self.adverts(opened))
        acks = tuple(sent(self.tell(name, keys), EpochAck) for name in opened.manifest.nodes)
        for name in opened.manifest.nodes:
            self.tell(name, EpochReady(roster_hash=keys.roster_hash, acks=acks))
        self.manifest, self.roster_hash = opened.manifest, keys.roster_hash
        self.terms = cohort_of(self.manifest)

    def another_run(self, run_id: bytes = bytes(16)) -> OpenEpoch:
        """S0 of a run from the same base that every operator approved."""
        self.approve_again()
        manifest = dataclasses.replace(self.manifest, run_id=run_id)
        return self.signer.sign(OpenEpoch, manifest=manifest, epoch=0, first_round=0)

    def mean(self, total: Words, contributors: int) -> Float64Vector:
        """The mean update that the words of an opened sum carry, float64 [d]."""
        integers, scalars = vector_of(self.manifest).unpack_sum(total, contributors)
        weights = scalars["weight"] / 2**WEIGHT_BITS
        return np.asarray(integers / 2.0**self.manifest.scale_bits / weights, dtype=np.float64)
