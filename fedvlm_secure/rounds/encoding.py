"""What a node's local work becomes before it is masked: integers on the public grid and scalars, packed into words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedvlm_secure.dp.streams import KEY_BYTES
from fedvlm_secure.errors import ModelError
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.ring.encoder import UpdateEncoder
from fedvlm_secure.ring.quantise import Quantiser
from fedvlm_secure.ring.ready import ReadyIntegers
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.rounds.noised_sum import noised_part
from fedvlm_secure.rounds.terms import node_weight, scalar_values, vector_of
from fedvlm_secure.secagg.masking import SEED_BYTES
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.types import Secret, Words


def encode_update(
    own: NodeSelf, manifest: Manifest, update: LocalUpdate, round_number: int
) -> tuple[Iterator[Words], dict[str, int]]:
    """Encode a round's work, once: a later attempt masks the same numbers.

    Args:
        round_number: counted from 0. In a closing round the update is left out, whatever it is.

    Returns:
        The chunks of the round's vector, see `UpdateEncoder.chunks`, and the scalars in it, noised where they must be.

    Raises:
        ModelError: NON_FINITE_LOSS, ZERO_UPDATE or NO_CLIPPED_SUM; and NON_FINITE_UPDATE while the chunks are made.
            Nothing was sent.
    """
    weight = node_weight(own.policy, own.me, update.rows)
    scalars = scalar_values(own.policy, update, weight, round_number=round_number, entropy=own.rounding)
    if own.policy.is_closing(round_number):
        return iter([vector_of(manifest, closing=True).pack(np.zeros(1, dtype=np.int64), scalars)]), scalars
    vector = vector_of(manifest)
    privacy = own.policy.privacy
    if isinstance(privacy, Distributed):
        part = noised_part(
            own.policy,
            privacy,
            update.integers,
            multiplier=manifest.noise_multiplier,
            dimension=manifest.dimension,
            key=Secret(own.rounding.bytes(KEY_BYTES)),
        )
        return UpdateEncoder(ReadyIntegers(part, vector.lanes), vector, scalars).chunks(), scalars
    if not update.update.any():
        raise ModelError(
            "ZERO_UPDATE", "local training changed nothing", "check that data and trainable parameters are in use"
        )
    quantiser = Quantiser(
        update.update,
        layout=own.layout,
        lanes=vector.lanes,
        max_update=manifest.max_update,
        weight=weight,
        rounding_key=Secret(own.rounding.bytes(SEED_BYTES)),
    )
    return UpdateEncoder(quantiser, vector, scalars).chunks(), scalars
