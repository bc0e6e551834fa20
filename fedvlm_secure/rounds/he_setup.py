"""S2 of homomorphic mode at a node: the lowest id makes the epoch's key, every member opens its sealed copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedvlm_secure.errors import PeerViolation, UnexpectedMessage
from fedvlm_secure.he.epoch_key import KeyState
from fedvlm_secure.he.group_secrets import GroupSecrets, open_secrets, seal_secrets
from fedvlm_secure.rounds.actions import NodeAction, Send
from fedvlm_secure.rounds.he_terms import agreed_hash, context_in, maker_of, parameters_of
from fedvlm_secure.rounds.node_memory import encode_group_secrets
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.secagg.messages import EpochAck, EpochKeys, HeKeys
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import NodeId, Secret


@dataclass(frozen=True)
class HeSetup:
    """Makes, announces and opens the key of one epoch. Commits before it returns what to send."""

    own: NodeSelf

    def make(self, keys: EpochKeys, roots: Mapping[NodeId, Secret]) -> dict[str, bytes | Record]:
        """What the maker journals beside the relayed keys, once per epoch; empty at every other member.

        Args:
            roots: r_uv^0 of each peer.
        """
        own, manifest = self.own, self.own.memory.manifest
        maker, roster_hash = maker_of(manifest), keys.roster_hash
        if own.me != maker:
            return {}
        secrets = GroupSecrets.draw(own.entropy)
        context = secrets.context(parameters_of(manifest), roster_hash)
        sealed = tuple(
            seal_secrets(
                secrets,
                root=roots[peer],
                context=context,
                roster_hash=roster_hash,
                maker=maker,
                holder=peer,
                entropy=own.entropy,
            )
            for peer in manifest.nodes
            if peer != maker
        )
        made = own.signer.sign(HeKeys, node=maker, roster_hash=roster_hash, context=context.to_bytes(), sealed=sealed)
        return {"epoch/he-keys": made, **self._entries(secrets)}

    def announce(self) -> tuple[NodeAction, ...]:
        """After the peers' keys: the maker says what it made; who opened the key before acknowledges it again."""
        memory = self.own.memory
        known = memory.he_keys
        if known is None:
            return ()
        if self.own.me == maker_of(memory.manifest):
            return (Send(known),)
        return (self._ack(known),)

    def he_keys(self, message: HeKeys) -> tuple[NodeAction, ...]:
        """Open the own copy, compare it with the context's commitment, acknowledge roster and context together.

        Raises:
            PeerViolation: HE_KEY_REFUSED, HE_CONTEXT or BAD_SIGNATURE; nothing was acknowledged.
        """
        own, memory = self.own, self.own.memory
        keys, known = memory.epoch_keys, memory.he_keys
        if keys is None:
            raise UnexpectedMessage("HeKeys before the epoch's keys")
        if known is not None:
            if known != message:
                raise PeerViolation(
                    "HE_KEY_REFUSED", "a second key is announced in one epoch", "leave; a new epoch makes a new key"
                )
            return (self._ack(known),)
        manifest, maker = memory.manifest, maker_of(memory.manifest)
        verify(message, own.members[maker])
        context = context_in(message, manifest, keys.roster_hash)
        roots = memory.roots_for(memory.first_round)
        if own.me == maker or roots is None:
            raise UnexpectedMessage("HeKeys that this node did not make, or without pair roots")
        peers = [node for node in manifest.nodes if node != maker]
        secrets = open_secrets(
            message.sealed[peers.index(own.me)],
            root=roots[maker],
            context=context,
            roster_hash=keys.roster_hash,
            maker=maker,
            holder=own.me,
        )
        memory.commit({"epoch/he-keys": message, **self._entries(secrets)}, ["epoch/roots"])
        return (self._ack(message),)

    def _ack(self, keys: HeKeys) -> Send:
        context = context_in(keys, self.own.memory.manifest, keys.roster_hash)
        agreed = agreed_hash(keys.roster_hash, context)
        return Send(self.own.signer.sign(EpochAck, node=self.own.me, roster_hash=agreed))

    def _entries(self, secrets: GroupSecrets) -> dict[str, bytes | Record]:
        """A fresh key. A round that was decrypted in an earlier epoch stays decrypted."""
        state = KeyState(last_round=self.own.memory.opened_round)
        return {"epoch/he-secrets": encode_group_secrets(secrets), "epoch/he-state": state.to_bytes()}
