"""An aggregator, a maker and a decryptor that lie in homomorphic mode: what each party refuses, and what it spends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.ciphertext_sum import sum_chunks
from fedvlm_secure.he.group_secrets import GroupSecrets
from fedvlm_secure.ring.vector import check_words
from fedvlm_secure.rounds.actions import NodeAction, Send, Stop, Upload
from fedvlm_secure.rounds.he_terms import carriage_of, parameters_of
from fedvlm_secure.rounds.terms import context_of
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.secagg.messages import (
    Abort,
    DecryptRequest,
    EpochAck,
    EpochReady,
    HeKeys,
    Plan,
    ResultAck,
    SurvivorSet,
    SurvivorSignature,
)
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Digest, NodeId, Words
from tests.support.liars import Bundles, LyingAggregator, restate, sent

CHUNK = 1 << 20


class EncryptedLiar(LyingAggregator):
    """Set up honestly under bfv; from the first plan on only the test speaks."""

    def __init__(self, n: int = 4, **changes: Any) -> None:
        super().__init__(n, dimension=9001, protection={"method": "bfv"}, **changes)
        self.roster_hash = self.federation.aggregator_self.memory.agreed_roster
        self.carriage: Carriage = carriage_of(self.manifest)

    def survivor_set(self, plan: Plan, bundles: Any, holder: str) -> SurvivorSet:
        headers = tuple(bundle.header for bundle in bundles.values())
        return SurvivorSet(ctx=context_of(plan, self.manifest), headers=headers, dealt=())

    def chunks(self, plan: Plan, name: str) -> list[bytes]:
        content = self.contents[context_of(plan, self.manifest), NodeId(name)]
        return [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]

    def add(self, plan: Plan, names: Iterable[str]) -> bytes:
        """The sum of these uploads, one of which may stand there twice."""
        uploads = {NodeId(f"{at}"): self.chunks(plan, name) for at, name in enumerate(names)}
        return b"".join(sum_chunks(self.carriage, uploads))

    def decrypt_request(
        self, plan: Plan, signatures: Sequence[SurvivorSignature], content: bytes, **changes: Any
    ) -> DecryptRequest:
        fields: dict[str, Any] = {
            "ctx": context_of(plan, self.manifest),
            "sum_root": chunk_root(content),
            "signatures": tuple(signatures),
        }
        return self.signer.sign(DecryptRequest, **{**fields, **changes})

    def signed_attempt(self, names: str = "abcd") -> tuple[Plan, Bundles, tuple[SurvivorSignature, ...]]:
        plan = self.plan()
        bundles = self.collect(plan, names)
        return plan, bundles, self.sign(plan, bundles, names)


Craft = Callable[[EncryptedLiar, Plan], bytes]


def forged(liar: EncryptedLiar, plan: Plan) -> bytes:
    """c0 = 0, c1 = floor(Q / P): a bare decryption is the secret key."""
    words = np.frombuffer(liar.add(plan, "abcd"), dtype="<u8").copy()
    own = liar.carriage.parameters
    parts = words.reshape(-1, 2, own.degree)
    parts[:] = 0
    parts[:, 1, 0] = own.modulus // own.plain_modulus
    return words.tobytes()


CRAFTED: dict[str, Craft] = {
    "a single upload": lambda liar, plan: liar.add(plan, "b"),
    "a subset": lambda liar, plan: liar.add(plan, "abc"),
    "one upload twice": lambda liar, plan: liar.add(plan, "aabc"),
    "the decryptor's own upload left out": lambda liar, plan: liar.add(plan, "bcd"),
    "c0 = 0 and c1 = floor(Q / P)": forged,
    "zeros": lambda liar, plan: bytes(len(liar.add(plan, "abcd"))),
    "a truncated sum": lambda liar, plan: liar.add(plan, "abcd")[:-8],
    "nothing": lambda liar, plan: b"",
    "words that are no residues": lambda liar, plan: b"\xff" * len(liar.add(plan, "abcd")),
    "one word more": lambda liar, plan: liar.add(plan, "abcd") + bytes(8),
}


def left_burnt(actions: tuple[NodeAction, ...]) -> bool:
    """Nothing but a farewell and the end, with the one fixed code."""
    match actions:
        case (Send(Abort() as abort), Stop(error)) if error is not None:
            return abort.code == error.code == "HE_KEY_BURNT"
        case _:
            return False


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED.keys())
def test_crafted_sum_opens_nothing_burns_the_key_and_is_never_followed_by_a_second_decryption(craft: Craft) -> None:
    liar = EncryptedLiar()
    plan, _, signatures = liar.signed_attempt()
    content = craft(liar, plan)
    assert left_burnt(liar.tell("a", liar.decrypt_request(plan, signatures, content), content))
    journal = liar.journal("a")
    assert "epoch/he-secrets" not in journal and "round/sum" not in journal and "round/integers" not in journal
    honest = liar.add(plan, "abcd")
    request = liar.decrypt_request(plan, signatures, honest)
    assert left_burnt(liar.tell("a", request, honest))
    liar.restart("a")
    assert left_burnt(liar.tell("a", request, honest))
    assert left_burnt(liar.tell("a", liar.plan(attempt=1)))


def test_all_crafted_sums_give_one_and_the_same_answer() -> None:
    """Which check failed is what an oracle attack waits for."""
    answers = set()
    for craft in CRAFTED.values():
        liar = EncryptedLiar(seed=1)
        plan, _, signatures = liar.signed_attempt()
        content = craft(liar, plan)
        actions = liar.tell("a", liar.decrypt_request(plan, signatures, content), content)
        answers.add(repr(actions[0]))
    assert len(answers) == 1


def test_sum_of_another_attempt_burns_the_key() -> None:
    liar = EncryptedLiar()
    first = liar.plan()
    liar.collect(first, "abcd")
    second = liar.plan(attempt=1)
    bundles = liar.collect(second, "abcd")
    signatures = liar.sign(second, bundles, "abcd")
    content = liar.add(first, "abcd")
    assert left_burnt(liar.tell("a", liar.decrypt_request(second, signatures, content), content))


def test_without_a_quorum_nothing_is_spent() -> None:
    liar = EncryptedLiar()
    plan, _, signatures = liar.signed_attempt()
    content = liar.add(plan, "abcd")
    few = liar.decrypt_request(plan, signatures[: liar.terms.threshold - 1], content)
    liar.refused("a", few, "NO_QUORUM", content)
    doubled = liar.decrypt_request(plan, [signatures[0]] * liar.terms.threshold, content)
    liar.refused("a", doubled, "NO_QUORUM", content)
    request = liar.decrypt_request(plan, signatures, content)
    liar.refused("a", restate(request, liar.signer_of("b")), "BAD_SIGNATURE", content)
    liar.refused("a", request, "BAD_ENCRYPTED_SUM", content[:-1])
    liar.refused("a", request, "BAD_ENCRYPTED_SUM", None)
    assert isinstance(liar.tell("a", request, content)[0], Upload)


def test_quorum_under_another_set_than_the_own_does_not_count() -> None:
    liar = EncryptedLiar(5)
    plan = liar.plan()
    bundles = liar.collect(plan, "abcde")
    smaller = {node: bundle for node, bundle in bundles.items() if node not in ("d", "e")}
    others = liar.sign(plan, smaller, "bc")
    own = liar.sign(plan, bundles, "a")
    content = liar.add(plan, "abc")
    liar.refused("a", liar.decrypt_request(plan, [*own, *others], content), "NO_QUORUM", content)


def test_one_set_is_signed_in_a_round_whatever_the_attempt() -> None:
    """Else one attempt could be opened at one hospital and another set of the same round at another one."""
    liar = EncryptedLiar(6)
    first = liar.plan()
    bundles = liar.collect(first, "abcdef")
    liar.sign(first, bundles, "abcdef")
    second = liar.plan(attempt=1)
    again = liar.collect(second, "abcdef")
    smaller = {node: bundle for node, bundle in again.items() if node not in ("e", "f")}  # two fewer: history allows it
    for name in "abcd":
        refusal = liar.refuses_to_sign(name, liar.survivor_set(second, smaller, name), "SURVIVORS_TOO_CLOSE")
        assert refusal.nodes == ("e", "f")
    assert len(liar.sign(second, again, "abcdef")) == 6


def test_repeat_gets_the_stored_bytes_and_another_sum_of_the_round_nothing() -> None:
    liar = EncryptedLiar()
    plan, _, signatures = liar.signed_attempt()
    content = liar.add(plan, "abcd")
    request = liar.decrypt_request(plan, signatures, content)
    first = liar.tell("a", request, content)[0]
    liar.restart("a")
    again = liar.tell("a", request, content)[0]
    assert isinstance(first, Upload) and isinstance(again, Upload)
    assert (first.bundle, first.content) == (again.bundle, again.content)
    other = liar.add(plan, "abc")
    liar.refused("a", liar.decrypt_request(plan, signatures, other), "ALREADY_REVEALED", other)
    liar.refused("a", liar.plan(attempt=1), "ALREADY_REVEALED")


def test_round_decrypted_in_one_epoch_stays_decrypted_in_the_next() -> None:
    liar = EncryptedLiar()
    plan, _, signatures = liar.signed_attempt()
    content = liar.add(plan, "abcd")
    liar.tell("a", liar.decrypt_request(plan, signatures, content), content)
    opened = liar.open_epoch()
    keys = liar.keys(opened, liar.adverts(opened))
    made = [sent(liar.tell(name, keys), HeKeys) for name in "a"]
    for name in "bcd":
        assert liar.tell(name, keys) == ()
    acks = tuple(sent(liar.tell(name, made[0]), EpochAck) for name in "abcd")
    for name in "abcd":
        liar.tell(name, EpochReady(roster_hash=acks[0].roster_hash, acks=acks))
    liar.roster_hash = acks[0].roster_hash
    liar.refused("a", liar.plan(), "ALREADY_REVEALED")


def test_decryption_cut_off_by_a_crash_counts_as_burnt() -> None:
    liar = EncryptedLiar()
    plan, _, signatures = liar.signed_attempt()
    content = liar.add(plan, "abcd")
    own = liar.node("a").own
    key = liar.node("a").run._he._key()
    own.memory.commit({"epoch/he-state": key.spend(plan.round).to_bytes()})
    liar.restart("a")
    assert left_burnt(liar.tell("a", liar.decrypt_request(plan, signatures, content), content))


def opened_sum(liar: EncryptedLiar) -> tuple[Plan, Words]:
    """What node a decrypts honestly: words and proof."""
    plan, _, signatures = liar.signed_attempt()
    content = liar.add(plan, "abcd")
    upload = liar.tell("a", liar.decrypt_request(plan, signatures, content), content)[0]
    assert isinstance(upload, Upload)
    return plan, np.frombuffer(upload.content, dtype="<u8").copy()


def publish(liar: EncryptedLiar, plan: Plan, whole: Words, names: str = "abcd") -> tuple[Any, bytes]:
    words = whole[: liar.carriage.format.words]
    message, _ = liar.result(plan, words, names, sum_root=chunk_root(whole.tobytes()))
    return message, whole.tobytes()


def test_every_hospital_acknowledges_the_true_sum_and_none_an_altered_one() -> None:
    liar = EncryptedLiar()
    plan, whole = opened_sum(liar)
    words = whole[: liar.carriage.format.words]
    altered = whole.copy()
    altered[0] += np.uint64(1)
    payload = liar.carriage.format.payload_words
    altered[payload : len(words)] = check_words(altered[:payload])
    proofless = whole.copy()
    proofless[len(words) :] = 0
    false = [publish(liar, plan, one) for one in (altered, proofless, whole[:-1])]
    true = publish(liar, plan, whole)
    for name in "abcd":
        for message, content in false:
            liar.refused(name, message, "HE_SUM_FALSE", content)
        assert sent(liar.tell(name, *true), ResultAck).node == name


def test_hospital_that_lost_its_key_acknowledges_nothing() -> None:
    liar = EncryptedLiar()
    plan, whole = opened_sum(liar)
    liar.node("b").own.memory.commit({}, ["epoch/he-secrets"])
    message, content = publish(liar, plan, whole)
    liar.refused("b", message, "UNEXPECTED_MESSAGE", content)


def test_set_with_dealt_shares_or_a_foreign_header_is_not_signed() -> None:
    liar = EncryptedLiar()
    plan = liar.plan()
    bundles = liar.collect(plan, "abcd")
    honest = liar.survivor_set(plan, bundles, "a")
    forged_header = restate(honest.headers[0], liar.signer_of("b"))
    headers = (forged_header, *honest.headers[1:])
    liar.refused("b", replace(honest, headers=headers), "BAD_SIGNATURE")
    liar.refused("a", replace(honest, headers=headers), "BAD_SIGNATURE")
    liar.refused("a", replace(honest, headers=honest.headers[:2]), "TOO_FEW_SURVIVORS")


class SealingLiar(EncryptedLiar):
    """Stands where the maker's announcement is due: what is relayed is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = self.open_epoch()
        self.relayed = self.keys(self.opened, self.adverts(self.opened))
        self.made = sent(self.tell("a", self.relayed), HeKeys)
        for name in "bcd":
            self.tell(name, self.relayed)


def test_members_acknowledge_roster_and_context_together_and_erase_the_roots() -> None:
    liar = SealingLiar()
    acks = [sent(liar.tell(name, liar.made), EpochAck) for name in "abcd"]
    assert len({ack.roster_hash for ack in acks}) == 1 and acks[0].roster_hash != liar.relayed.roster_hash
    assert all("epoch/roots" not in liar.journal(name) for name in "abcd")
    assert len({liar.journal(name)["epoch/he-secrets"] for name in "abcd"}) == 1


def test_second_key_a_foreign_one_and_a_damaged_one_are_refused() -> None:
    liar = SealingLiar()
    damaged = tuple(blob[:-1] + bytes([blob[-1] ^ 1]) for blob in liar.made.sealed)
    maker = liar.signer_of("a")
    for false, code in [
        (restate(liar.made, maker, sealed=damaged), "HE_KEY_REFUSED"),
        (restate(liar.made, maker, sealed=liar.made.sealed[:2]), "HE_KEY_REFUSED"),
        (restate(liar.made, maker, sealed=tuple(reversed(liar.made.sealed))), "HE_KEY_REFUSED"),
        (restate(liar.made, maker, context=liar.made.context + b"\x00"), "HE_CONTEXT"),
        (restate(liar.made, maker, roster_hash=Digest(bytes(32))), "HE_KEY_REFUSED"),
        (restate(liar.made, liar.signer_of("c"), node=NodeId("c")), "BAD_SIGNATURE"),
        (restate(liar.made, liar.signer_of("d")), "BAD_SIGNATURE"),
    ]:
        liar.refused("b", false, code)
    sent(liar.tell("b", liar.made), EpochAck)
    secrets = GroupSecrets.draw(ShakeEntropy(5, "another key"))
    context = secrets.context(parameters_of(liar.manifest), liar.relayed.roster_hash)
    liar.refused("b", restate(liar.made, maker, context=context.to_bytes()), "HE_KEY_REFUSED")


def test_hospitals_that_opened_different_keys_never_begin() -> None:
    """A lying maker seals one key to b and announces another to c: their acknowledgements differ."""
    liar = SealingLiar()
    ack = sent(liar.tell("b", liar.made), EpochAck)
    stranger = restate(ack, liar.signer_of("c"), node=NodeId("c"), roster_hash=Digest(bytes(32)))
    acks = tuple(restate(ack, liar.signer_of(name), node=NodeId(name)) for name in "abd")
    mixed = (*acks[:2], stranger, acks[2])
    liar.refused("b", EpochReady(roster_hash=ack.roster_hash, acks=mixed), "NO_AGREEMENT")
