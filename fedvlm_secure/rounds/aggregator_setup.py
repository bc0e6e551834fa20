"""S0 to S2 at the aggregator: gather the hospitals, open an epoch, relay keys and acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.errors import FedvlmError, PeerViolation, PolicyError
from fedvlm_secure.fl.state import State
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.rounds.aggregator_memory import ROUND_PREFIXES, Phase
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.closing import initial_state
from fedvlm_secure.rounds.he_terms import context_in, is_encrypted
from fedvlm_secure.rounds.manifest import make_manifest, versions_of
from fedvlm_secure.rounds.start import check_vouchers, is_continuation, new_start
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.rounds.vectors import chunks_of
from fedvlm_secure.secagg.messages import EpochAck, EpochKeys, EpochReady, HeKeys, Hello, KeyAdvert, Manifest, OpenEpoch
from fedvlm_secure.secagg.record import Record
from fedvlm_secure.types import Digest, NodeId

RUN_ID_BYTES = 16
SETUP_PREFIXES = ("advert/", "epoch-ack/", "keys", "he-keys", "ready")


@dataclass(frozen=True)
class AggregatorSetup:
    """Set-up steps. Each commits before anything is sent."""

    own: AggregatorSelf

    def check_hello(self, hello: Hello) -> FedvlmError | None:
        """Why a node cannot take part in this run, in words for its operator; None if it can."""
        policy = self.own.policy
        if hello.version not in versions_of(policy):
            return PeerViolation(
                "VERSION_MISMATCH",
                f"{hello.node} runs version {hello.version}, this run takes {', '.join(versions_of(policy))}",
                "install the same version at every party, or name both in cohort.versions and approve that policy",
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
        return self._check_membership(hello)

    def _check_membership(self, hello: Hello) -> FedvlmError | None:
        """Whether the node can be part of the epoch that is open, or of the one that is being gathered."""
        opened, phase = self.own.memory.opened, self.own.memory.phase
        if opened is None or phase is Phase.GATHER:
            return _used_up(hello) if hello.approval_used_by else None
        manifest = opened.manifest
        if hello.node not in manifest.nodes:
            return PeerViolation(
                "NOT_IN_RUN",
                f"{hello.node} was not there when this epoch was set up",
                "it can join the next one, which its coordinator opens with aggregator serve --new-epoch",
            )
        if hello.node in self.own.renewed:
            return PeerViolation(
                "NOT_IN_RUN",
                f"{hello.node} renewed its identity since this epoch was set up",
                "it takes part again from the next one, which its coordinator opens with aggregator serve --new-epoch",
            )
        joined = hello.run_hash == manifest.run_hash
        if not joined and (opened.epoch > manifest.start_epoch or phase is not Phase.KEYS):
            return PeerViolation(
                "STATE_LOST",
                f"{hello.node} does not know the run it was part of",
                "restore its state directory; keys of a running epoch cannot be made again. It can join the next epoch",
            )
        return _used_up(hello) if not joined and hello.approval_used_by else None

    def open_run(self, hellos: Mapping[NodeId, Hello]) -> None:
        """S0 for the nodes that are there: of a new run, or of the run under way with another membership.

        Raises:
            PolicyError: the cohort cannot carry the policy out.
            PeerViolation: LAYOUT_MISMATCH, the nodes built different trainable tensors.
        """
        own, memory = self.own, self.own.memory
        shapes = {(hello.layout_digest, hello.dimension) for hello in hellos.values()}
        if len(shapes) != 1:
            raise PeerViolation(
                "LAYOUT_MISMATCH",
                "the hospitals built different trainable tensors from the same base and policy",
                "compare the versions of transformers and peft at the hospitals",
            )
        layout_digest, dimension = shapes.pop()
        before = memory.opened
        start = new_start(own.policy, dimension) if before is None else memory.closing
        manifest = make_manifest(
            own.policy,
            run_id=own.entropy.bytes(RUN_ID_BYTES) if before is None else before.manifest.run_id,
            nodes=tuple(sorted(hellos)),
            base_fingerprint=Digest(bytes.fromhex(own.policy.model.base.sha256)),
            layout_digest=layout_digest,
            dimension=dimension,
            aggregator=own.signer.public,
            start_epoch=0 if before is None else before.epoch + 1,
            start=start,
        )
        puts: dict[str, bytes | Record | State]
        if before is None:
            puts = {"closing": start, "state": initial_state(own.policy, dimension)}
            self._open(manifest, epoch=0, first_round=0, puts=puts)
            return
        if (before.manifest.layout_digest, before.manifest.dimension) != (layout_digest, dimension):
            raise PeerViolation("LAYOUT_MISMATCH", "the hospitals build another model than this run's", "")
        known_as = [*memory.known_as, before.manifest.run_hash]
        own.blobs.put(chunks_of(memory.state_vector))
        puts = {"known-as": canonical.encode(known_as)}
        self._open(manifest, epoch=manifest.start_epoch, first_round=start.round + 1, puts=puts, stale=["certificate"])

    def start_for(self, hello: Hello | None) -> Digest | None:
        """Root of the state that a node has to take over with the epoch; None where it stands at the start itself."""
        memory = self.own.memory
        opened = memory.opened
        if opened is None or not is_continuation(opened.manifest) or opened.manifest.start_round == 0:
            return None
        if opened.epoch != opened.manifest.start_epoch:
            return None
        stands_there = hello is not None and hello.closed_round + 1 == opened.manifest.start_round
        if hello is not None and stands_there and self.knows(hello.run_hash):
            return None
        return memory.state_vector.root

    def knows(self, run_hash: bytes) -> bool:
        """Whether a node that states this run hash speaks of the run under way, under any of its memberships."""
        memory = self.own.memory
        return memory.opened is not None and run_hash in (*memory.known_as, memory.manifest.run_hash)

    def gather_again(self) -> None:
        """Leave the epoch for another membership. An attempt in progress is abandoned: no sum of it is published."""
        memory = self.own.memory
        ctx = memory.journal.get("plan") and context_of(memory.plan, memory.manifest)
        stale = memory.under(*SETUP_PREFIXES, *ROUND_PREFIXES, "excluded", "awaited", "epoch-wanted")
        memory.commit({"phase": Phase.GATHER.encode()}, stale)
        if ctx:
            self.own.spool.discard(ctx)

    def open_next_epoch(self) -> None:
        """Fresh keys for the same run and roster."""
        memory = self.own.memory
        opened = memory.opened
        epoch = 0 if opened is None else opened.epoch + 1
        puts = {} if memory.ready is None else {"last-ready": memory.ready}
        self._open(memory.manifest, epoch=epoch, first_round=memory.closing.round + 1, puts=puts)

    def _open(
        self,
        manifest: Manifest,
        *,
        epoch: int,
        first_round: int,
        puts: Mapping[str, bytes | Record | State],
        stale: Sequence[str] = (),
    ) -> None:
        memory = self.own.memory
        opened = self.own.signer.sign(OpenEpoch, manifest=manifest, epoch=epoch, first_round=first_round)
        memory.commit({**puts, "open": opened, "phase": Phase.KEYS.encode()}, [*memory.under(*SETUP_PREFIXES), *stale])

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
        """S2: once every member's key is there.

        Raises:
            PeerViolation: START_UNVOUCHED, too few members came to the start of the epoch themselves.
        """
        memory = self.own.memory
        adverts, manifest, opened = memory.adverts, memory.manifest, memory.opened
        if opened is None or set(adverts) != set(manifest.nodes):
            return False
        check_vouchers(manifest, adverts.values())
        keys = EpochKeys(
            run_hash=manifest.run_hash,
            epoch=opened.epoch,
            adverts=tuple(adverts[node] for node in manifest.nodes),
        )
        phase = Phase.SEAL if is_encrypted(manifest) else Phase.AGREE
        memory.commit({"keys": keys, "phase": phase.encode()})
        return True

    def he_keys(self, message: HeKeys) -> None:
        """S2 in homomorphic mode: the maker's announcement, to be relayed.

        Raises:
            PeerViolation: HE_KEY_REFUSED or HE_CONTEXT: a private, foreign or weaker context never gets further.
        """
        memory = self.own.memory
        context_in(message, memory.manifest, memory.keys.roster_hash)
        memory.commit({"he-keys": message})

    def relay_he_keys(self) -> bool:
        """S2 in homomorphic mode: once the epoch's key is announced."""
        if self.own.memory.he_keys is None:
            return False
        self.own.memory.commit({"phase": Phase.AGREE.encode()})
        return True

    def epoch_ack(self, message: EpochAck) -> None:
        """S2: a node's acknowledgement of the relayed keys.

        Raises:
            PeerViolation: ROSTER_DISAGREEMENT, it acknowledges another roster.
        """
        memory = self.own.memory
        if message.roster_hash != memory.agreed_roster:
            raise PeerViolation("ROSTER_DISAGREEMENT", f"{message.node} acknowledges another roster", "")
        memory.commit({f"epoch-ack/{message.node}": message})

    def agree(self) -> bool:
        """S2: n equal acknowledgements."""
        memory = self.own.memory
        acks, nodes = memory.epoch_acks, memory.manifest.nodes
        if set(acks) != set(nodes):
            return False
        ready = EpochReady(roster_hash=memory.agreed_roster, acks=tuple(acks[node] for node in nodes))
        memory.commit({"ready": ready})
        return True


def _used_up(hello: Hello) -> PolicyError:
    return PolicyError(
        "APPROVAL_USED",
        f"the approval of {hello.node} was used up; an epoch with another membership needs a new one",
        "pin the new roster, run fedvlm-node approve POLICY, and start the node again",
    )
