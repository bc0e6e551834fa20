"""Chains of a run that never was: real signatures, real accounting, invented models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.audit.chain import AuditChain, sign
from fedvlm_secure.audit.facts import PrivacyFacts, PurseFacts
from fedvlm_secure.audit.record import NO_PROTECTION, AuditRecord, End, Round, Sight, Start, TaskTotal, survivors_hash
from fedvlm_secure.audit.spending import add, at_two_hospitals, charged_so_far, privacy_terms, round_spending
from fedvlm_secure.dp.events import Event, SelfComposed, compose
from fedvlm_secure.dp.rounding import IntegerClip, grid_steps_for
from fedvlm_secure.dp.shared_noise import shared_noise
from fedvlm_secure.policy.roster import AggregatorKeys, Member, Roster, format_roster
from fedvlm_secure.types import Digest, NodeId

NODES = tuple(NodeId(name) for name in ("coast", "harbour", "valley"))
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    for name in ("aggregator", *NODES)
}
DIMENSION = 500
CARRIED = 3
"""Rounds' worth that an earlier run cost each population."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def roster() -> Roster:
    def pin(name: str) -> Digest:
        return Digest(hashlib.sha256(b"tls" + name.encode()).digest())

    members = tuple(Member(name, KEYS[name].public_key().public_bytes_raw(), pin(name)) for name in NODES)
    keys = AggregatorKeys(KEYS["aggregator"].public_key().public_bytes_raw(), pin("aggregator"))
    return Roster("trial", keys, members)


def facts(*, multiplier: float = 4.0, node: bool = True) -> PrivacyFacts:
    steps = grid_steps_for(DIMENSION)
    clip = IntegerClip(1.0, steps, DIMENSION)
    noise = shared_noise(multiplier, clip.squared, 1, DIMENSION)
    return PrivacyFacts(
        mechanism="dp_sgd",
        unit="one patient at one hospital",
        adjacency="add_or_remove",
        holds_against="everybody",
        clip_norm=1.0,
        clip_squared=clip.squared,
        grid=1.0 / steps,
        share_variance=noise.share_variance,
        guaranteed_variance=noise.guaranteed_variance,
        noise_multiplier=multiplier,
        sampling_rate=0.05,
        steps=2,
        expected_patients=600 if node else None,
        patient_cap=1,
        round_event=SelfComposed(noise.step_event(0.05), 2),
        delta=1e-5,
        noise_ratio=1.5 if node else None,
        noise_ratio_pooled=0.9,
        random_source="a die",
    )


def start(party: str, *, rounds: int, private: bool) -> Start:
    node = party != "aggregator"
    terms = privacy_terms(facts(node=node)) if private else None
    return Start(
        policy_name="trial",
        policy_hash=digest("policy"),
        roster=roster().digest.hex(),
        nodes=NODES,
        threshold=2,
        colluding=0,
        min_survivors=3,
        protection="masking",
        lanes=3,
        dimension=DIMENSION,
        rounds=rounds,
        base=digest("base"),
        layout=digest("layout"),
        model=digest("model 0"),
        version="0",
        code=digest("code"),
        privacy=terms,
        statement=NO_PROTECTION if terms is None else "differential privacy of one patient at one hospital",
        population=digest(f"population of {party}") if node else None,
        visibility=(Sight(party="the aggregator", sees="only the sum"),),
        not_protected=("that a hospital took part",),
        released=("nothing",),
        empirical_audit="none",
    )


def closed_round(chain: AuditChain, number: int, *, node: bool, void: bool = False) -> Round:
    """Round `number`, counted from 1."""
    terms = chain.start.privacy if chain.start is not None else None
    spending = None
    if terms is not None:
        event: Event = facts().round_event
        earlier = charged_so_far([one.spending for one in chain.rounds])
        everything = compose((SelfComposed(event, CARRIED), add(earlier, event)))
        purse = PurseFacts(round_event=event, population_event=everything, delta=1e-6, limit=8.0)
        spending = round_spending(terms, earlier, event, purse if node else None)
    ctx = digest(f"ctx {number}")
    before = chain.rounds[-1].model_after if chain.rounds else digest("model 0")
    return Round(
        round=number,
        outcome="void" if void else "result",
        attempt=1,
        ctx=None if void else ctx,
        survivors=None if void else NODES,
        survivors_hash=None if void else survivors_hash(ctx, NODES),
        model_before=before,
        model_after=before if void else digest(f"model {number}"),
        result=digest(f"result {number}"),
        totals=() if node or void else (TaskTotal(task="vqa", correct=min(40 + number, 100), total=100),),
        spending=spending,
    )


def write_party(folder: Path, party: str, *, rounds: int, private: bool, void: tuple[int, ...] = ()) -> AuditChain:
    """One party's whole chain."""
    folder.mkdir(parents=True)
    ticks = iter(range(1_800_000_000, 1_900_000_000))
    chain = AuditChain(
        folder / "audit.jsonl",
        role="aggregator" if party == "aggregator" else "node",
        party=party,
        run="ab" * 16,
        run_hash=digest("run"),
        key=KEYS[party],
        wall_s=lambda: next(ticks),
    )
    chain.append(start(party, rounds=rounds, private=private))
    for number in range(1, rounds + 1):
        chain.append(closed_round(chain, number, node=party != "aggregator", void=number in void))
    terms = chain.start.privacy if chain.start is not None else None
    chain.append(
        End(
            outcome="finished",
            code="",
            rounds_closed=rounds,
            model=chain.rounds[-1].model_after,
            epsilon_two_hospitals=None
            if terms is None
            else at_two_hospitals(terms, charged_so_far([one.spending for one in chain.rounds])),
        )
    )
    return chain


def write_run(folder: Path, *, rounds: int = 3, private: bool = True, void: tuple[int, ...] = ()) -> Path:
    """A folder with every party's chain and the roster."""
    for party in ("aggregator", *NODES):
        write_party(folder / party, party, rounds=rounds, private=private, void=void)
    (folder / "roster.toml").write_bytes(format_roster(roster()))
    return folder


def resign(records: list[AuditRecord], key: Ed25519PrivateKey) -> list[AuditRecord]:
    """The chain as its own party would forge it: every hash and signature made anew."""
    forged: list[AuditRecord] = []
    for at, record in enumerate(records):
        previous = forged[-1].digest.hex() if forged else "00" * 32
        forged.append(sign(record.model_copy(update={"index": at, "previous": previous}), key))
    return forged
