"""The start record: what a party agreed to, from its own approved policy and the manifest it checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import fedvlm_secure
from fedvlm_secure import canonical
from fedvlm_secure.audit.facts import PrivacyFacts, ScoreFacts, ShareFacts
from fedvlm_secure.audit.record import NO_PROTECTION, Sight, Start
from fedvlm_secure.audit.spending import privacy_terms
from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import SelfComposed
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, bound_squared, score_noise
from fedvlm_secure.policy.explain import unprotected, visibility
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.noise_shares import clip_of, makers_of, noise_of, observers_in
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.privacy_words import holds_against
from fedvlm_secure.policy.private_release import one_release, resolve_score_multiplier, training_event
from fedvlm_secure.policy.projection import signal_of
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Digest, NodeId, Secret

BATCH_TIME = "how long each step on a randomly drawn batch took, for whoever measures a hospital's silence"
RANDOM_SOURCE = "exact discrete Gaussian from AES-256-CTR, keyed anew by the operating system's random source"
NO_EMPIRICAL_AUDIT = "none was made of this run"


class Agreed(Protocol):
    """The manifest's fields that stand in the record."""

    @property
    def nodes(self) -> tuple[NodeId, ...]: ...
    @property
    def threshold(self) -> int: ...
    @property
    def colluding(self) -> int: ...
    @property
    def min_survivors(self) -> int: ...
    @property
    def protection(self) -> str: ...
    @property
    def lanes_per_word(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def base_fingerprint(self) -> Digest: ...
    @property
    def layout_digest(self) -> Digest: ...
    @property
    def noise_multiplier(self) -> float: ...


def start_record(
    policy: Policy, agreed: Agreed, roster: Roster, *, model: Digest, node: NodeId | None, population: str | None
) -> Start:
    """A party's first record of a run.

    Args:
        policy: its own approved copy.
        agreed: the run's manifest, which it has checked.
        roster: the pinned one.
        model: digest of the state before the first round.
        node: the hospital; None at the aggregator.
        population: `salted_population`, at hospitals.
    """
    facts = privacy_facts(policy, agreed, node)
    return Start(
        policy_name=policy.name,
        policy_hash=policy_hash(policy).hex(),
        roster=roster.digest.hex(),
        nodes=tuple(agreed.nodes),
        threshold=agreed.threshold,
        colluding=agreed.colluding,
        min_survivors=agreed.min_survivors,
        protection=agreed.protection,
        lanes=agreed.lanes_per_word,
        dimension=agreed.dimension,
        rounds=agreed.rounds,
        base=agreed.base_fingerprint.hex(),
        layout=agreed.layout_digest.hex(),
        model=model.hex(),
        version=fedvlm_secure.__version__,
        code=code_digest().hex(),
        privacy=None if facts is None else privacy_terms(facts),
        statement=NO_PROTECTION if facts is None else f"({facts.mechanism}) differential privacy of {facts.unit}",
        population=population,
        visibility=tuple(Sight(party=seen.party, sees=seen.sees) for seen in visibility(policy)),
        not_protected=(*unprotected(policy), *(() if facts is None else (BATCH_TIME,))),
        released=_released(policy),
        empirical_audit=NO_EMPIRICAL_AUDIT,
    )


def privacy_facts(policy: Policy, agreed: Agreed, node: NodeId | None) -> PrivacyFacts | None:
    """The mechanism with its resolved numbers; None under `privacy: none`."""
    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        return None
    dimension = agreed.dimension
    clip = clip_of(privacy, dimension)
    noise = noise_of(policy, privacy, agreed.noise_multiplier, dimension)
    ratio = signal_of(policy, privacy, agreed.nodes, agreed.noise_multiplier, dimension)
    return PrivacyFacts(
        mechanism=privacy.mechanism,
        unit="one patient at one hospital",
        adjacency=privacy.adjacency,
        holds_against=holds_against(policy),
        clip_norm=privacy.clip_norm,
        clip_squared=clip.squared,
        grid=clip.grid,
        share_variance=noise.share_variance,
        guaranteed_variance=noise.guaranteed_variance,
        noise_multiplier=agreed.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps_per_round,
        expected_patients=None if node is None else privacy.expected_patients[node],
        patient_cap=privacy.patient_cap,
        round_event=training_event(policy, agreed.noise_multiplier, dimension),
        delta=privacy.delta,
        noise_ratio=None if node is None else ratio.per_hospital[list(agreed.nodes).index(node)],
        noise_ratio_pooled=ratio.pooled,
        random_source=RANDOM_SOURCE,
        scores=score_facts(policy),
        shares=_share_facts(policy, agreed),
    )


def _share_facts(policy: Policy, agreed: Agreed) -> ShareFacts | None:
    views = observers_in(policy, agreed.noise_multiplier, agreed.dimension)
    if views is None:
        return None
    makers = makers_of(policy)
    return ShareFacts(makers=makers.counted, readers=makers.readers, coalition=makers.coalition, observers=views)


def score_facts(policy: Policy) -> ScoreFacts | None:
    """Noised releases of scores with their resolved numbers; None where there are none."""
    scored, tasks = policy.evaluation, policy.contract.tasks
    multiplier = resolve_score_multiplier(policy)
    if scored.release not in ("final", "each") or not multiplier:
        return None
    return ScoreFacts(
        release=scored.release,
        every=scored.every,
        training_rounds=policy.rounds,
        tasks=tasks,
        noise_multiplier=multiplier,
        steps_per_patient=STEPS_PER_PATIENT,
        bound_squared=bound_squared(len(tasks)),
        share_variance=score_noise(multiplier, len(tasks)).share_variance,
        event=one_release(policy),
    )


def salted_population(salt: Secret, population: str) -> str:
    """A population's name under a salt that stays at the hospital: the same in all its runs, not to be guessed."""
    return canonical.digest("audit-population", salt.reveal(), population).hex()


def code_digest() -> Digest:
    """Over path and content of every source file of the installed library."""
    root = Path(fedvlm_secure.__file__).parent
    files = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    return canonical.digest("code", [[name, hashlib.sha256(path.read_bytes()).digest()] for name, path in files])


def _released(policy: Policy) -> tuple[str, ...]:
    if isinstance(policy.privacy, PatientPrivacy):
        return _released_noised(policy, policy.privacy)
    loss = "training loss and its count, summed over all hospitals; no cost can be stated without a mechanism"
    if policy.evaluation.release == "totals":
        return (loss, "right answers and questions per task, summed over all hospitals; no cost can be stated either")
    return (loss,)


def _released_noised(policy: Policy, privacy: PatientPrivacy) -> tuple[str, ...]:
    facts = score_facts(policy)
    if facts is None:
        return ("no metric leaves a hospital; cost 0",)
    releases = policy.releases_before(policy.rounds_in_all)
    costs = epsilon(SelfComposed(facts.event, releases), privacy.delta, privacy.adjacency)
    when = "once, of the final model" if facts.release == "final" else f"{releases} times, each {facts.every} rounds"
    return (
        f"right and wrong answers per task ({', '.join(facts.tasks)}), noised at each hospital, {when}: epsilon "
        f"{costs:.3f} by themselves, charged with the rounds that carry them",
    )
