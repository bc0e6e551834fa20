"""Replay (A8) and seed reuse (A10): every message told again in every state, round, attempt and run."""

from __future__ import annotations

import copy
import dataclasses

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import NodeAction, Send, Train, Upload
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.secagg.messages import (
    AggregatorMessage,
    CatchUp,
    Finished,
    KeyAdvert,
    ResultAck,
    Reveal,
    SurvivorSignature,
    VoidAck,
)
from fedvlm_secure.secagg.pairs import pair_seed, ratchet, share_key
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, NodeId, Secret
from tests.support.entropy import secret
from tests.support.liars import LyingAggregator, held, sent

Told = tuple[AggregatorMessage, bytes | None]


class Recorder(LyingAggregator):
    """Notes what node a is told, and its journal and what it said after each message."""

    def __init__(self) -> None:
        self.script: list[Told] = []
        self.said: list[NodeAction] = []
        self.states: list[tuple[dict[str, bytes], int]] = []  # journal, and how much was said by then
        super().__init__(4)
        self.note("a", ())

    def tell(self, name: str, message: AggregatorMessage, attachment: bytes | None = None) -> tuple[NodeAction, ...]:
        actions = super().tell(name, message, attachment)
        if name == "a":
            self.script.append((message, attachment))
        return self.note(name, actions)

    def train(self, name: str, asked: Train) -> tuple[NodeAction, ...]:
        return self.note(name, super().train(name, asked))

    def note(self, name: str, actions: tuple[NodeAction, ...]) -> tuple[NodeAction, ...]:
        if name == "a":
            self.said += actions
            self.states.append((self.journal("a"), len(self.said)))
        return actions


def recorded() -> Recorder:
    """Two attempts, a result, a void round, a new epoch with a round, another run with a round."""
    liar = Recorder()
    plan = liar.plan()
    liar.sign(plan, liar.collect(plan, "abcd"), "abcd")
    plan = liar.plan(attempt=1)
    certificate = liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    liar.script.append((CatchUp(certificate=certificate), liar.node("a").own.memory.state.to_bytes()))
    liar.script.append((Finished(certificate=certificate), None))
    plan = liar.plan(certificate=certificate)
    liar.sign(plan, liar.collect(plan, "abcd"), "abcd")
    certificate = liar.close_void("abcd")
    liar.set_up(liar.open_epoch())
    plan = liar.plan(certificate=certificate)
    liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    liar.set_up(liar.another_run())
    plan = liar.plan()
    liar.close(plan, liar.run_attempt(plan, "abcd"), "abcd")
    return liar


def statements(actions: list[NodeAction]) -> dict[tuple[object, ...], set[bytes]]:
    """What a node bound itself to, by what may be stated only once."""
    found: dict[tuple[object, ...], set[bytes]] = {}
    for action in actions:
        match action:
            case Send(SurvivorSignature() as said):
                found.setdefault(("one set per attempt", said.ctx), set()).add(said.survivors)
            case Send(Reveal() as said):
                found.setdefault(("one reveal per attempt", said.ctx), set()).add(said.signature)
            case Send(ResultAck() as said):
                found.setdefault(("one closing per round", said.run_hash, said.round), set()).add(said.result_hash)
            case Send(VoidAck() as said):
                found.setdefault(("one closing per round", said.run_hash, said.round), set()).add(said.result_hash)
            case Send(KeyAdvert() as said):
                found.setdefault(("one key per epoch", said.run_hash, said.epoch), set()).add(said.public)
            case Upload(bundle, content):
                kept = bundle.header.signature + content
                found.setdefault(("one upload per attempt", bundle.header.ctx), set()).add(kept)
            case _:
                pass
    return found


def test_a8_every_message_told_again_in_every_state_changes_nothing_that_was_stated() -> None:
    liar = recorded()
    honest = statements(liar.said)
    assert all(len(values) == 1 for values in honest.values())
    assert {type(message).__name__ for message, _ in liar.script} >= {
        "OpenEpoch", "EpochKeys", "EpochReady", "Plan", "SurvivorSet", "RevealRequest", "Result", "VoidRequest",
        "CatchUp", "Finished",
    }  # fmt: skip
    tried = refused = 0
    for content, said_by_then in liar.states:
        bound = statements(liar.said[:said_by_then])
        for message, attachment in liar.script:
            tried += 1
            said, after = told_from(liar, content, message, attachment)
            if said is None:
                refused += 1
                assert after == content
                continue
            for key, values in statements(said).items():
                assert values <= bound.get(key, values), f"{key[0]}: broken by {type(message).__name__}"
    assert tried > 500
    assert refused > tried / 2


def told_from(
    liar: Recorder, content: dict[str, bytes], message: AggregatorMessage, attachment: bytes | None
) -> tuple[list[NodeAction] | None, dict[str, bytes]]:
    """What node a says to a message when it comes back from this journal (None: it refuses), and its journal after."""
    journal = MemoryJournal()
    journal.content = dict(content)
    entropy = copy.deepcopy(liar.node("a").own.entropy)
    run = NodeRun(dataclasses.replace(liar.node("a").own, memory=NodeMemory(journal), entropy=entropy))
    try:
        said = list(run.receive(message, held(attachment)))
    except PeerViolation:
        return None, journal.content
    for action in list(said):
        if isinstance(action, Train):
            said += run.trained(action.round, liar.node("a").work.train(action.round, action.state))
    return said, journal.content


def test_a10_seeds_and_keys_of_ten_thousand_contexts_are_all_distinct() -> None:
    root, seen = secret("root"), set[bytes]()
    a, b, c = NodeId("a"), NodeId("b"), NodeId("c")
    for i in range(10_000 // 4):
        ctx = Digest(i.to_bytes(32, "big"))
        seen.add(pair_seed(root, ctx, a, b).reveal())
        seen.add(pair_seed(root, ctx, a, c).reveal())
        seen.add(share_key(root, ctx, a, b).reveal())
        seen.add(share_key(root, ctx, b, a).reveal())
    assert len(seen) == 10_000
    ratcheted: Secret = root
    for _ in range(1_000):
        ratcheted = ratchet(ratcheted)
        seen.add(ratcheted.reveal())
    assert len(seen) == 11_000


def test_a10_no_seed_mask_or_nonce_repeats_over_attempts_rounds_epochs_and_runs() -> None:
    liar = recorded()
    uploads = [action for action in liar.said if isinstance(action, Upload)]
    seeds = {content.get("round/seeds") for content, _ in liar.states} - {None}
    assert len(uploads) == len({upload.content for upload in uploads}) == 5
    assert len(seeds) == 5
    nonces = [blob[:12] for upload in uploads for blob in upload.bundle.sealed]
    assert len(nonces) == len(set(nonces)) == 15
    commitments = [upload.bundle.header.pair_commitments for upload in uploads]
    assert len({digest for row in commitments for digest in row}) == 15


def test_a10_stored_upload_is_sent_again_byte_for_byte() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    first = liar.collect(plan, "a")[NodeId("a")]
    content = liar.contents[first.header.ctx, NodeId("a")]
    liar.restart("a")
    (again,) = liar.tell("a", plan)
    assert isinstance(again, Upload)
    assert (again.bundle, again.content) == (first, content)


def test_late_training_after_the_reveal_of_a_dropped_node_sends_nothing() -> None:
    liar = LyingAggregator(4)
    plan = liar.plan()
    bundles = liar.collect(plan, "abc")
    (train,) = liar.tell("d", plan)
    assert isinstance(train, Train)
    request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
    sent(liar.tell("d", request), Reveal)
    work = liar.node("d").work.train(plan.round, train.state)
    assert liar.node("d").run.trained(plan.round, work) == ()


def test_training_begun_before_a_new_epoch_is_asked_for_again_in_it() -> None:
    liar = LyingAggregator(4)
    liar.tell("a", liar.plan())
    liar.set_up(liar.open_epoch())
    (asked,) = liar.tell("a", liar.plan())
    assert isinstance(asked, Train)


def round_secrets(liar: LyingAggregator, name: str) -> dict[str, bytes]:
    """What would open round 0 at a node that has signed and not revealed."""
    memory = liar.node(name).own.memory
    roots, seeds, opened = memory.roots_for(0), memory.seeds, memory.opened
    assert roots is not None
    assert seeds is not None
    assert opened is not None
    found = {f"root with {peer}": root.reveal() for peer, root in roots.items()}
    found |= {"self seed": seeds.self_seed.reveal(), "coefficient seed": seeds.coefficient_seed.reveal()}
    for dealer, shares in opened.items():
        found |= {f"pair share {i} of {dealer}": share.reveal() for i, share in enumerate(shares) if i}
    return found | {"integers": liar.journal(name)["round/integers"], "masked": liar.journal(name)["round/content"]}


def test_disk_image_taken_after_the_reveal_or_a_higher_round_opens_nothing() -> None:
    for revealed in (True, False):
        liar = LyingAggregator(4)
        plan = liar.plan()
        bundles = liar.collect(plan, "abcd")
        request = liar.request(plan, liar.sign(plan, bundles, "abcd"))
        held = round_secrets(liar, "a")
        image = b"|".join(liar.journal("a").values())
        assert all(secret_bytes in image for secret_bytes in held.values())
        if revealed:
            liar.tell("a", request)
        else:
            certificate = liar.close_void("abcd")
            liar.tell("a", liar.plan(certificate=certificate))
        image = b"|".join(liar.journal("a").values())
        assert [name for name, secret_bytes in held.items() if secret_bytes in image] == []
