"""Hospitals that send the aggregator what is no key and no ciphertext, in homomorphic mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.he_terms import carriage_of
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import HeKeys, UploadBundle
from fedvlm_secure.types import Digest, NodeId
from tests.support.cohort import Cohort
from tests.support.liars import restate


def encrypted(n: int = 4, **changes: Any) -> Cohort:
    return Cohort(n, dimension=9001, protection={"method": "bfv"}, **changes)


def test_private_or_foreign_context_does_not_pass_the_aggregator() -> None:
    seen: list[HeKeys] = []

    def keep(direction: str, node: NodeId, message: object) -> bool:
        if direction == "up" and isinstance(message, HeKeys):
            seen.append(message)
            return False
        return True

    cohort = encrypted(tap=keep)
    cohort.run(until=lambda f: bool(seen))
    federation, made = cohort.federation, seen[0]
    for false, code in [
        ({"context": made.context + bytes(64)}, "HE_CONTEXT"),
        ({"context": b"\x5e\xa1\x10" + bytes(100_000)}, "HE_CONTEXT"),
        ({"context": made.context.replace(b"modulus", b"modulos")}, "HE_CONTEXT"),
        ({"sealed": made.sealed[:1]}, "HE_KEY_REFUSED"),
    ]:
        signer = federation.nodes[NodeId("a")].own.signer
        with pytest.raises(PeerViolation) as caught:
            federation.aggregator.receive(NodeId("a"), restate(made, signer, **false), federation.now_s)
        assert caught.value.code == code
    other = restate(made, federation.nodes[NodeId("b")].own.signer, node=NodeId("b"))
    with pytest.raises(PeerViolation, match="not one of this roster's maker"):
        federation.aggregator.receive(NodeId("b"), other, federation.now_s)


def bad_upload(cohort: Cohort, content: bytes, **changes: Any) -> str:
    """Code with which what b uploads in place of its ciphertexts is refused; the others' round goes on."""
    federation, b = cohort.federation, NodeId("b")
    honest = federation._upload

    def upload(node: NodeId, bundle: UploadBundle, genuine: bytes) -> None:
        if node != b:
            return honest(node, bundle, genuine)
        header = restate(bundle.header, federation.nodes[b].own.signer, tree_root=chunk_root(content), **changes)
        return honest(node, replace(bundle, header=header), content)

    federation._upload = upload  # type: ignore[method-assign]
    cohort.run(until=lambda f: bool(f.nodes[b].violations))
    assert b not in federation.aggregator_self.memory.uploaded
    return federation.nodes[b].violations[0].code


def test_ciphertexts_that_are_none_are_refused_as_they_arrive() -> None:
    words = carriage_words()
    assert bad_upload(encrypted(), b"\xff" * (8 * words)) == "BAD_CIPHERTEXT"
    assert bad_upload(encrypted(), bytes(8 * words - 8)) == "BAD_CIPHERTEXT"
    assert bad_upload(encrypted(), bytes(8 * words + 8)) == "BAD_CIPHERTEXT"
    assert bad_upload(encrypted(), bytes(8 * words - 8), words=words - 1) == "BAD_HEADER"
    dealt = (Digest(bytes(32)),)
    assert bad_upload(encrypted(), bytes(8 * words), sealed_hashes=dealt) == "BAD_HEADER"


def carriage_words() -> int:
    cohort = encrypted()
    cohort.run(until=lambda f: bool(f.aggregator_self.memory.journal.get("plan")))
    return carriage_of(cohort.federation.aggregator_self.memory.manifest).words


def test_upload_that_rots_on_the_aggregators_disk_makes_the_round_void_and_no_hospital_decrypts() -> None:
    cohort = encrypted(rounds=2)
    federation = cohort.federation
    cohort.run(until=Phase.SIGN)
    memory = federation.aggregator_self.memory
    key = (context_of(memory.plan, memory.manifest), NodeId("c"))
    federation.spool._chunks[key] = [b"\xff" * len(chunk) for chunk in federation.spool._chunks[key]]
    cohort.run()
    assert [summary["void"] for summary in cohort.summaries()] == [True, False]
    assert all(not node.own.memory.key_state.burnt for node in federation.nodes.values())
