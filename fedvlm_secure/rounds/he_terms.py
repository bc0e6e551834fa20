"""What both sides derive of homomorphic mode from the manifest: parameters, carriage, and the names of its contexts."""

from __future__ import annotations

from fedvlm_secure.canonical import digest
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.parameters import HeParameters, Scheme, choose_parameters
from fedvlm_secure.he.public_context import HeContext, parse_context
from fedvlm_secure.ring.lanes import lane_format
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.messages import HeKeys, Manifest
from fedvlm_secure.types import Digest, NodeId


def is_encrypted(manifest: Manifest) -> bool:
    """Whether updates of this run are added under homomorphic encryption."""
    return manifest.protection in ("bfv", "ckks")


def is_masked(manifest: Manifest) -> bool:
    """Whether updates of this run are masked."""
    return manifest.protection == "masking"


def parameters_of(manifest: Manifest) -> HeParameters:
    """The epoch's parameters, computed from its own manifest by every party.

    Raises:
        ValueError: the run is not encrypted.
    """
    if not is_encrypted(manifest):
        raise ValueError(f"protection {manifest.protection} has no encryption parameters")
    scheme: Scheme = "bfv" if manifest.protection == "bfv" else "ckks"
    nodes = len(manifest.nodes)
    lanes = lane_format(manifest.lanes_per_word, nodes)
    return choose_parameters(scheme, nodes=nodes, value_bits=lanes.value_bits)


def carriage_of(manifest: Manifest, *, closing: bool = False) -> Carriage:
    """How the round's vector rides in ciphertexts; `closing` as for `vector_of`."""
    return Carriage(parameters_of(manifest), vector_of(manifest, closing=closing))


def upload_words(manifest: Manifest, *, closing: bool = False) -> int:
    """64-bit words of one upload, masked or encrypted."""
    if is_encrypted(manifest):
        return carriage_of(manifest, closing=closing).words
    return vector_of(manifest, closing=closing).words


def maker_of(manifest: Manifest) -> NodeId:
    """Who makes the epoch's key: the lowest id."""
    return manifest.nodes[0]


def context_in(keys: HeKeys, manifest: Manifest, roster_hash: Digest) -> HeContext:
    """The public context that an epoch's maker announces, for exactly this roster and these parameters.

    Raises:
        PeerViolation: HE_KEY_REFUSED, not the maker's, of another roster, or not one copy for each member; HE_CONTEXT.
    """
    peers = len(manifest.nodes) - 1
    if keys.node != maker_of(manifest) or keys.roster_hash != roster_hash or len(keys.sealed) != peers:
        raise PeerViolation(
            "HE_KEY_REFUSED",
            f"the epoch's key of {keys.node} is not one of this roster's maker with a copy for each member",
            "leave; a new epoch makes a new key",
        )
    return parse_context(keys.context, expected=parameters_of(manifest))


def agreed_hash(roster_hash: Digest, context: HeContext) -> Digest:
    """What all members acknowledge in place of the roster's hash, so that `ctx` covers the encryption's context."""
    return digest("he-roster", roster_hash, context.digest)


def sum_context(ctx: Digest) -> Digest:
    """The context under which a decrypted sum goes up: no header of an update can stand for one of a sum."""
    return digest("he-sum", ctx)
