"""GroupSecrets: an epoch's HE seed and group key, made by one node, sealed to each other one."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.parameters import HeParameters
from fedvlm_secure.he.public_context import HeContext
from fedvlm_secure.types import Digest, Entropy, NodeId, Secret

SEED_BYTES = 64
GROUP_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
SEALED_BYTES = _NONCE_BYTES + SEED_BYTES + GROUP_KEY_BYTES + _TAG_BYTES


def derive(key: Secret, label: str, *context: object) -> Secret:
    """HKDF-Expand (RFC 5869 section 2.3) under a uniform key: 32 bytes."""
    info = canonical.encode([canonical.LABEL_PREFIX + label, *context])
    return Secret(HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key.reveal()))


@dataclass(frozen=True)
class GroupSecrets:
    """What every node of an epoch holds and the aggregator never does.

    Args:
        seed: 64 bytes that make the lattice secret key (SEAL's generator, seeded).
        group_key: K_g, 32 bytes: authentication tags and the cover of the scalars' limbs.
    """

    seed: Secret
    group_key: Secret

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES or len(self.group_key) != GROUP_KEY_BYTES:
            raise ValueError(f"an HE seed has {SEED_BYTES} bytes, a group key {GROUP_KEY_BYTES}")

    @staticmethod
    def draw(entropy: Entropy) -> GroupSecrets:
        """Fresh secrets of one epoch."""
        return GroupSecrets(Secret(entropy.bytes(SEED_BYTES)), Secret(entropy.bytes(GROUP_KEY_BYTES)))

    def commitment(self, roster_hash: Digest) -> Digest:
        """Hash of both secrets for this roster. They are uniform, so the hash hides and binds them."""
        return canonical.digest("he-key", roster_hash, self.seed.reveal(), self.group_key.reveal())

    def context(self, parameters: HeParameters, roster_hash: Digest) -> HeContext:
        """The public context of an epoch under these secrets."""
        return HeContext(parameters, self.commitment(roster_hash))


def _setup_key(root: Secret, roster_hash: Digest, maker: NodeId, holder: NodeId) -> Secret:
    return derive(root, "he-setup", roster_hash, maker, holder)


def _aad(context: HeContext, roster_hash: Digest, maker: NodeId, holder: NodeId) -> bytes:
    return canonical.encode([canonical.LABEL_PREFIX + "he-sealed", context.digest, roster_hash, maker, holder])


def seal_secrets(
    secrets: GroupSecrets,
    *,
    root: Secret,
    context: HeContext,
    roster_hash: Digest,
    maker: NodeId,
    holder: NodeId,
    entropy: Entropy,
) -> bytes:
    """The secrets for one holder: 12-byte random nonce, AES-256-GCM, `SEALED_BYTES` in all.

    Args:
        root: r_uv of maker and holder at set-up; the key has a label of its own.
        context: bound as associated data, with roster, maker and holder.
    """
    nonce = entropy.bytes(_NONCE_BYTES)
    plain = secrets.seed.reveal() + secrets.group_key.reveal()
    key = _setup_key(root, roster_hash, maker, holder).reveal()
    return nonce + AESGCM(key).encrypt(nonce, plain, _aad(context, roster_hash, maker, holder))


def open_secrets(
    sealed: bytes, *, root: Secret, context: HeContext, roster_hash: Digest, maker: NodeId, holder: NodeId
) -> GroupSecrets:
    """Open what the maker sealed and compare it with the context's commitment.

    Raises:
        PeerViolation: HE_KEY_REFUSED, another length, not authentic, or other secrets than all members signed.
    """
    cause = "it has another length"
    if len(sealed) == SEALED_BYTES:
        key = _setup_key(root, roster_hash, maker, holder).reveal()
        try:
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            plain = AESGCM(key).decrypt(nonce, body, _aad(context, roster_hash, maker, holder))
        except InvalidTag:
            cause = "it does not authenticate"
        else:
            secrets = GroupSecrets(Secret(plain[:SEED_BYTES]), Secret(plain[SEED_BYTES:]))
            if secrets.commitment(roster_hash) == context.key_commitment:
                return secrets
            cause = "it holds other secrets than the context commits to"
    raise PeerViolation(
        "HE_KEY_REFUSED",
        f"the epoch's key that {maker} sealed to {holder} is refused: {cause}",
        "this node leaves; a new epoch makes a new key",
    )
