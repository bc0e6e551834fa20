"""What is measured before protobuf sees a byte."""

from __future__ import annotations

import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.messages import VoidRequest
from fedvlm_secure.wire.admission import admit
from fedvlm_secure.wire.generated import fedvlm_pb2


@pytest.mark.parametrize("size", [1, 31, 33, 1 << 20])
def test_a_digest_of_another_size_is_refused_before_it_is_parsed(size: int) -> None:
    def raw(state_hash: bytes) -> bytes:
        return fedvlm_pb2.VoidRequest(
            run_hash=bytes(32), round=1, previous_result=bytes(32), state_hash=state_hash, signature=bytes(64)
        ).SerializeToString()

    admit(VoidRequest, raw(bytes(32)))
    with pytest.raises(PeerViolation, match="state_hash"):
        admit(VoidRequest, raw(bytes(size)))
