"""HeContext: the public description of an epoch's encryption, in one byte form that has no room for a secret key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.parameters import HeParameters
from fedvlm_secure.types import DIGEST_BYTES, Digest


@dataclass(frozen=True)
class HeContext:
    """What every member of an epoch signs.

    Symmetric encryption needs no public key: the context is the parameters and a commitment to the secrets that the
    maker sealed to each node. The aggregator learns nothing from it but what the policy says anyway.

    Args:
        key_commitment: hash of the epoch's HE seed and group key; every holder compares.
    """

    parameters: HeParameters
    key_commitment: Digest

    @property
    def digest(self) -> Digest:
        """The context hash that all members sign and that belongs in `ctx`."""
        return canonical.digest("he-context", self.parameters, self.key_commitment)

    def to_bytes(self) -> bytes:
        """Canonical encoding."""
        return canonical.encode({"parameters": self.parameters, "key_commitment": self.key_commitment})


def parse_context(raw: bytes, *, expected: HeParameters) -> HeContext:
    """Read a context from a peer. Nothing native is parsed, and nothing but the one expected form is accepted.

    Args:
        expected: the parameters this party computed from its own approved policy.

    Raises:
        PeerViolation: HE_CONTEXT, another length or form (a library's serialised context, with or without a secret
            key, or any trailing byte), or other parameters than this party's own.
    """
    model = HeContext(expected, Digest(bytes(DIGEST_BYTES))).to_bytes()
    if len(raw) != len(model):
        raise _refused(f"it has {len(raw)} bytes, a public context of this run has {len(model)}")
    try:
        fields = canonical.decode(raw)
    except ValueError as error:
        raise _refused("it is not in the canonical form") from error
    commitment = fields.get("key_commitment") if isinstance(fields, dict) else None
    if not isinstance(commitment, bytes) or len(commitment) != DIGEST_BYTES:
        raise _refused("it names no key commitment")
    if fields != {"parameters": dataclasses.asdict(expected), "key_commitment": commitment}:
        raise _refused("its parameters are not those of the approved policy")
    return HeContext(expected, Digest(commitment))


def _refused(cause: str) -> PeerViolation:
    return PeerViolation(
        "HE_CONTEXT",
        f"the homomorphic context is refused: {cause}",
        "only the public parameters and the key commitment ever leave a hospital; compare versions and policies",
    )
