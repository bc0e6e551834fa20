"""A policy in plain words: what leaves a hospital, who sees what, what is not protected, how much is sent."""

from __future__ import annotations

from dataclasses import dataclass

from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.cohort_words import participation, versions
from fedvlm_secure.policy.feasibility import Feasible
from fedvlm_secure.policy.noise_shares import expected_batch
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.privacy_words import not_covered, promise
from fedvlm_secure.policy.schema import CountedWeights, DeclaredWeights, Policy
from fedvlm_secure.policy.section import format_seconds
from fedvlm_secure.ring.lanes import WORD_BYTES

FLOAT32_BYTES = 4
_HIDDEN = {"none": "in clear", "masking": "masked: readable only as a sum over hospitals"}


@dataclass(frozen=True)
class Explanation:
    """Titled paragraphs of lines, in the order to be read."""

    paragraphs: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Visibility:
    """What one party sees of a hospital's contribution."""

    party: str
    sees: str


def explain(policy: Policy, nodes: int, coordinates: int | None = None) -> Explanation:
    """Say what approving this policy means.

    Args:
        policy: a loaded policy.
        nodes: cohort size.
        coordinates: d, trained values in the model, where known; bytes are then exact.

    Raises:
        PolicyError: as `feasibility.check`.
    """
    feasible = feasibility.check(policy, nodes)
    return Explanation(
        (
            ("What is done", _done(policy)),
            ("What leaves a hospital", _released(policy)),
            ("What a patient is promised", promise(policy, coordinates)),
            ("Who can see what", tuple(f"{seen.party}: {seen.sees}" for seen in visibility(policy))),
            ("What is not protected", unprotected(policy)),
            *((("What homomorphic encryption changes", exchange(policy)),) if policy.protection.is_encrypted else ()),
            ("Who must be there", _cohort(policy, feasible)),
            ("What is sent", _sent(feasible, coordinates)),
        )
    )


def visibility(policy: Policy) -> tuple[Visibility, ...]:
    """Who sees what of one hospital's update, by party."""
    clear = policy.protection.method == "none"
    private = isinstance(policy.privacy, PatientPrivacy)
    bound = f"{'epsilon' if private else 'nothing'} bounds what it says about one patient"
    update = (
        "EVERY hospital's update, in clear" if clear else "only the sum over all surviving hospitals, and who they are"
    )
    return (
        Visibility("the hospital itself", "its images, questions, answers and its own update; they stay there"),
        Visibility("the aggregator", update),
        Visibility("the other hospitals", "the same sum (each checks the new model against it), and who took part"),
        Visibility("readers of the tuned model", f"the model; {bound}"),
    )


def _truth(policy: Policy) -> str:
    if policy.protection.is_encrypted:
        return "the sum's truth against two hospitals that both decrypt it and lie alike"
    return "the sum's truth: a lying aggregator may publish any sum within the bounds"


def unprotected(policy: Policy) -> tuple[str, ...]:
    """What this policy does not protect against, one line each."""
    lines = [
        *not_covered(policy),
        "that a hospital took part, when, and how long it needed",
        "with three hospitals, each one's share from the two others together: a sum less one's own is theirs",
        _truth(policy),
        "against a hospital that sends a harmful update within protection.max_update",
    ]
    if policy.protection.is_encrypted:
        lines[:0] = exchange(policy)[:3]
    if policy.protection.method == "none":
        lines.insert(0, "EVERYTHING a hospital sends: updates travel to the aggregator in clear")
    if isinstance(policy.weights, DeclaredWeights):
        lines.append("the declared size of each hospital, which stands in the policy")
    return tuple(lines)


def exchange(policy: Policy) -> tuple[str, ...]:
    """What a hospital gives up and gains by homomorphic encryption instead of masking, one line each."""
    method = policy.protection.method
    return (
        "secret_key_holders: all members of the epoch; collusion_tolerance: 0, where masking tolerates colluders",
        "one hospital, or one copy of its state, opens every update of the epoch together with the aggregator",
        "no forward secrecy inside an epoch: this key lives to its end, masking erases its keys after each round",
        f"gained: updates travel and are added as {method.upper()} ciphertexts, and no round needs shares or a reveal;",
        "the aggregator cannot alter the sum unnoticed: each hospital checks it by tags under a key of the hospitals",
        "whatever is not exactly the signed hospitals' sum burns the key at whoever decrypts it; two must agree",
        "three times the bytes of masking or more (see What is sent); the sum is bit for bit the same",
    )


def _done(policy: Policy) -> tuple[str, ...]:
    base = policy.model.base.name or policy.model.base.path
    local, privacy = policy.local, policy.privacy
    if isinstance(privacy, Distributed):
        return (
            f"{policy.rounds} rounds tune {_tuned(policy)} of the base model {base}",
            "each round a hospital draws patients by chance, clips each one's gradient "
            f"({', '.join(policy.contract.tasks)}), adds them up and adds its share of the noise; it makes no step",
            f"the sum over all hospitals, divided by the {expected_batch(privacy):g} patients expected and times "
            f"{local.learning_rate:g}, is combined by {_algorithm(policy)}; every hospital recomputes that step",
        )
    if isinstance(privacy, PatientPrivacy):
        amount = f"{privacy.steps_per_round} noised steps"
    else:
        steps = f"{local.steps} steps" if local.steps is not None else f"{local.epochs} epochs"
        amount = f"{steps} of batch {local.batch_size}"
    trained = f"{amount} on its own rows ({', '.join(policy.contract.tasks)})"
    return (
        f"{policy.rounds} rounds tune {_tuned(policy)} of the base model {base}",
        f"each round a hospital trains {trained}, at learning rate {local.learning_rate:g} ({local.schedule})",
        f"the aggregator combines by {_algorithm(policy)}; every hospital recomputes that step and compares",
    )


def _tuned(policy: Policy) -> str:
    first = policy.model.connector_rounds
    if first is None:
        return policy.model.strategy
    return f"{policy.model.strategy} (connector alone to round {first}, LoRA alone from round {first + 1})"


def _algorithm(policy: Policy) -> str:
    named = policy.algorithm.model_dump()
    name, compat = named.pop("name"), named.pop("reference_compat", False)
    numbers = [f"{field} {value:g}" for field, value in named.items()] + ["reference_compat"] * compat
    return f"{name} ({', '.join(numbers)})" if numbers else str(name)


def _released(policy: Policy) -> tuple[str, ...]:
    how = _HIDDEN.get(policy.protection.method, f"encrypted ({policy.protection.method}): opened only as a sum")
    lines = [f"one update per round, each value cut off at {policy.protection.max_update:g}, {how}"]
    if isinstance(policy.weights, CountedWeights):
        lines.append(f"its number of training rows (at most {policy.weights.counted.cap}), inside that same vector")
    if isinstance(policy.privacy, Distributed):
        lines[0] = (
            "one sum of clipped gradients per round, cut off where one value would move the mean gradient by more than "
            f"{policy.protection.max_update:g}, with this hospital's share of the noise in it, {how}"
        )
        lines.append("no loss, no number of rows: nothing that depends on a patient leaves without noise")
    elif isinstance(policy.privacy, PatientPrivacy):
        lines[0] += "; noised before that, so that even alone it says little about one patient"
        lines.append("no loss, no number of rows: nothing that depends on a patient leaves without noise")
    else:
        lines.append("its summed training loss and the count behind it, inside that same vector")
    if policy.evaluation.release == "totals":
        asked = "all its" if policy.evaluation.limit is None else f"up to {policy.evaluation.limit}"
        lines.append(f"right answers and questions counted on {asked} test questions, inside that same vector")
    elif policy.evaluation.is_noised:
        lines.append(f"right and wrong answers of its test patients, noised before that: {_released_when(policy)}")
        lines.append("its own scores stay exact, local, not released")
    else:
        lines.append("no accuracy: it is known to each hospital alone")
    return tuple(lines)


def _released_when(policy: Policy) -> str:
    if policy.evaluation.release == "final":
        return f"once, of the final model, in round {policy.rounds_in_all} of its own, which trains nothing"
    return f"of the model that enters round 1 and each {policy.evaluation.every} rounds later"


def _cohort(policy: Policy, feasible: Feasible) -> tuple[str, ...]:
    terms = feasible.terms
    lines = [
        f"{terms.n} hospitals; at least {terms.min_survivors} must send and {terms.t} must sign in each round",
        f"{terms.losses_before_survivors} may be lost before they send, {terms.losses_by_reveal} by its end in all",
        f"a hospital counts as lost after {format_seconds(policy.cohort.deadline)} of silence",
        f"a hospital with fewer than {policy.limits.min_patients} patients does not take part",
    ]
    if policy.protection.method != "none":
        lines.append(f"hidden from the aggregator with up to {terms.c} hospitals or restored copies on its side")
    lines += [*participation(policy), *versions(policy)]
    if terms.warning:
        lines.append(f"WARNING, colluding {terms.c}: {terms.warning}")
    return tuple(lines)


def _sent(feasible: Feasible, coordinates: int | None) -> tuple[str, ...]:
    own = feasible.encryption
    if own is None:
        ratio = WORD_BYTES / feasible.lanes.per_word / FLOAT32_BYTES
        packed = f"{feasible.lanes.per_word} values per 64-bit word"
    else:
        ratio = own.ciphertext_words * WORD_BYTES / (own.values * FLOAT32_BYTES)
        packed = f"{own.values} values per ciphertext of {own.ciphertext_words * WORD_BYTES} bytes"
    lines = [f"{packed}: {ratio:.2f} of plain float32, plus a few KB per round"]
    if coordinates is not None:
        sent, plain = feasible.upload_words(coordinates) * WORD_BYTES, coordinates * FLOAT32_BYTES
        lines.append(f"{coordinates} values: {sent} bytes per hospital and round (plain float32: {plain})")
    return tuple(lines)
