"""S0 to S2 at the aggregator: gather the hospitals, open an epoch, relay keys and acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import fedvlm_secure
from fedvlm_secure.errors import FedvlmError, PeerViolation, PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.closing import NO_RESULT, Closing, initial_state
from fedvlm_secure.rounds.terms import make_manifest
from fedvlm_secure.secagg.messages import EpochAck, EpochKeys, EpochReady, Hello, KeyAdvert, Manifest, OpenEpoch
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.types import Digest, NodeId

RUN_ID_BYTES = 16


@dataclass(frozen=True)
class AggregatorSetup:
    """Set-up steps. Each commits before anything is sent."""

    own: AggregatorSelf

    def check_hello(self, hello: Hello) -> FedvlmError | None:
        """Why a node cannot take part in this run, in words for its operator; None if it can."""
        policy = self.own.policy
        if hello.version != fedvlm_secure.__version__:
            return PeerViolation(
                "VERSION_MISMATCH",
                f"{hello.node} runs version {hello.version}, the aggregator {fedvlm_secure.__version__}",
                "install the same version at every party",
            )
        if hello.policy_hash != policy_hash(policy):
            return PolicyError(
                "POLICY_MISMATCH",
                f"{hello.node} approved policy {hello.policy_hash.hex()[:16]}, "
                f"the aggregator serves {policy_hash(policy).hex()[:16]}",
                "agree on one policy file; each hospital approves it with fedvlm-node approve POLICY",
            )
        if hello.base_fingerprint.hex() != policy.model.base.sha256:
            return PeerViolation(
                "BASE_FINGERPRINT",
                f"the base model of {hello.node} is not the one the policy names",
                "install the base model whose fingerprint stands in model.base.sha256",
            )
        opened = self.own.memory.opened
        if opened is None:
            return None
        manifest = opened.manifest
        if hello.node not in manifest.nodes:
            return PeerViolation(
                "NOT_IN_RUN", f"{hello.node} was not there when this run was set up", "it can join the next run"
            )
        joined = hello.run_hash == manifest.run_hash
        if not joined and (opened.epoch > 0 or self.own.memory.phase is not Phase.KEYS):
            return PeerViolation(
                "STATE_LOST",
                f"{hello.node} does not know the run it was part of",
                "restore its state directory; keys of a running epoch cannot be made again",
            )
        return None

    def open_run(self, hellos: Mapping[NodeId, Hello]) -> None:
        """S0 for the nodes that are there.

        Raises:
            PolicyError: the cohort cannot carry the policy out.
            PeerViolation: LAYOUT_MISMATCH, the nodes built different trainable tensors.
        """
        own = self.own
        nodes = tuple(sorted(hellos))
        shapes = {(hello.layout_digest, hello.dimension) for hello in hellos.values()}
        if len(shapes) != 1:
            raise PeerViolation(
                "LAYOUT_MISMATCH",
                "the hospitals built different trainable tensors from the same base and policy",
                "compare the versions of transformers and peft at the hospitals",
            )
        layout_digest, dimension = shapes.pop()
        manifest = make_manifest(
            own.policy,
            run_id=own.entropy.bytes(RUN_ID_BYTES),
            nodes=nodes,
            base_fingerprint=Digest(bytes.fromhex(own.policy.model.base.sha256)),
            layout_digest=layout_digest,
            dimension=dimension,
            aggregator=own.signer.public,
        )
        state = initial_state(own.policy, dimension)
        closing = Closing(round=-1, result_hash=NO_RESULT, state_hash=state.digest)
        self._open(manifest, epoch=0, first_round=0, puts={"closing": closing, "state": state.to_bytes()})

    def open_next_epoch(self) -> None:
        """Fresh keys for the same run and roster."""
        memory = self.own.memory
        opened = memory.opened
        epoch = 0 if opened is None else opened.epoch + 1
        self._open(memory.manifest, epoch=epoch, first_round=memory.closing.round + 1, puts={})

    def _open(self, manifest: Manifest, *, epoch: int, first_round: int, puts: Mapping[str, bytes | Record]) -> None:
        memory = self.own.memory
        opened = self.own.signer.sign(OpenEpoch, manifest=manifest, epoch=epoch, first_round=first_round)
        stale = memory.under("advert/", "epoch-ack/", "keys", "ready")
        memory.commit({**puts, "open": opened, "phase": Phase.KEYS.encode()}, stale)

    def advert(self, message: KeyAdvert) -> None:
        """S1: keep a node's one key of this epoch.

        Raises:
            PeerViolation: SECOND_KEY, or a key of another epoch.
        """
        memory = self.own.memory
        opened, known = memory.opened, memory.adverts.get(message.node)
        if opened is None or message.run_hash != opened.manifest.run_hash or message.epoch != opened.epoch:
            raise PeerViolation("BAD_KEYS", f"the key of {message.node} is not of this epoch", "")
        if known is not None and known != message:
            raise PeerViolation("SECOND_KEY", f"{message.node} gave two keys in one epoch", "two copies may be running")
        memory.commit({f"advert/{message.node}": message})

    def relay_keys(self) -> bool:
        """S2: once every member's key is there."""
        memory = self.own.memory
        adverts, manifest, opened = memory.adverts, memory.manifest, memory.opened
        if opened is None or set(adverts) != set(manifest.nodes):
            return False
        keys = EpochKeys(
            run_hash=manifest.run_hash,
            epoch=opened.epoch,
            adverts=tuple(adverts[node] for node in manifest.nodes),
        )
        memory.commit({"keys": keys, "phase": Phase.AGREE.encode()})
        return True

    def epoch_ack(self, message: EpochAck) -> None:
        """S2: a node's acknowledgement of the relayed keys.

        Raises:
            PeerViolation: ROSTER_DISAGREEMENT, it acknowledges another roster.
        """
        memory = self.own.memory
        if message.roster_hash != memory.keys.roster_hash:
            raise PeerViolation("ROSTER_DISAGREEMENT", f"{message.node} acknowledges another roster", "")
        memory.commit({f"epoch-ack/{message.node}": message})

    def agree(self) -> bool:
        """S2: n equal acknowledgements."""
        memory = self.own.memory
        acks, nodes = memory.epoch_acks, memory.manifest.nodes
        if set(acks) != set(nodes):
            return False
        ready = EpochReady(roster_hash=memory.keys.roster_hash, acks=tuple(acks[node] for node in nodes))
        memory.commit({"ready": ready})
        return True
