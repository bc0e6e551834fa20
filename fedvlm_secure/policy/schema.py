"""The policy: everything that a run may do, field by field. Its canonical hash is what hospitals approve.

Values of a later version are in `NOT_YET` with the reason, so that asking for one gives that reason and not a riddle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from fedvlm_secure.policy.algorithms import Algorithm, FedAvg
from fedvlm_secure.policy.evaluation import EvaluationPolicy, with_default_noise
from fedvlm_secure.policy.privacy import DP_MIN_PATIENTS, Distributed, PatientPrivacy, Privacy
from fedvlm_secure.policy.privacy_rules import check_private
from fedvlm_secure.policy.section import (
    Auto,
    HexDigest,
    Identifier,
    Line,
    Seconds,
    Section,
    contradiction,
)

Strategy = Literal["connector", "lora", "connector+lora", "two-stage"]
Stage = Literal["connector", "lora"]
Task = Literal["vqa", "classification"]
NonNegative = Annotated[int, Field(ge=0)]
PackageVersion = Annotated[str, Field(pattern=r"^[0-9][0-9a-z.+-]{0,31}$")]
DEFAULT_BATCH_SIZE = 8

_TASK_REASON = "captions and boxes are not trained or scored yet; name vqa, classification or both"
NOT_YET: Mapping[tuple[str, str], str] = {
    **{("model.connector", kind): "use connector: keep" for kind in ("linear", "mlp2", "mlp6")},
    **{("model.lora.factors", kind): "use factors: both or ffa" for kind in ("rolora", "fedsvd")},
    **{(f"contract.tasks[{at}]", kind): _TASK_REASON for at in range(4) for kind in ("caption", "grounding")},
    ("algorithm.name", "scaffold"): "it needs a second protected vector; use fedprox against drift between hospitals",
    ("local.precision", "bfloat16"): "use precision: float32",
}


class BaseModelPolicy(Section):
    """The frozen base: every hospital loads its own local copy, whose fingerprint must match `sha256`."""

    name: Identifier | None = None
    path: Line | None = None
    sha256: HexDigest

    @model_validator(mode="after")
    def _one_source(self) -> BaseModelPolicy:
        if (self.name is None) == (self.path is None):
            raise contradiction("name", "and model.base.path: exactly one of them is needed")
        return self


class LoraPolicy(Section):
    """Low-rank factors on the LLM's linear layers; unused when the strategy is `connector`."""

    r: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=32.0, gt=0, le=1024)
    factors: Literal["both", "ffa"] = "both"


class ModelPolicy(Section):
    """What is tuned, and from which common start.

    `two-stage`: the first `connector_rounds` rounds train the connector, the later ones the LoRA factors.
    """

    base: BaseModelPolicy
    strategy: Strategy
    connector_rounds: int | None = Field(default=None, ge=1, le=100_000)
    connector: Literal["keep"] = "keep"
    lora: LoraPolicy = LoraPolicy()
    seed: int = Field(ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _rounds_of_the_first_stage(self) -> ModelPolicy:
        staged = self.strategy == "two-stage"
        if staged and self.connector_rounds is None:
            raise contradiction("connector_rounds", "is missing", "say how many rounds train the connector first")
        if not staged and self.connector_rounds is not None:
            raise contradiction("connector_rounds", "stands beside another strategy than two-stage", "remove the line")
        return self

    def stage_at(self, round_number: int) -> Stage | None:
        """What trains in a round, counted from 0; None where the strategy has no stages."""
        if self.connector_rounds is None:
            return None
        return "connector" if round_number < self.connector_rounds else "lora"


def _vocabulary_file(text: str) -> str:
    if text.startswith("/") or ".." in text.split("/") or "\\" in text:
        raise PydanticCustomError("text", "must be a file in the policy's own folder")
    if not text.endswith(".txt"):  # so that a copy beside the policy can never stand in the place of another file
        raise PydanticCustomError("text", "must end in .txt")
    return text


def _words(words: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(words)) != len(words):
        raise PydanticCustomError("text", "an answer is named twice")
    return tuple(sorted(words))


class Vocabulary(Section):
    """The answers that a model may learn: a list, or a file with one answer a line and the SHA-256 of its bytes.

    After loading `words` is complete and sorted, whichever way they were given.
    """

    SHORTHAND = "words"

    file: Annotated[Line, AfterValidator(_vocabulary_file)] | None = None
    sha256: HexDigest | None = None
    words: Annotated[tuple[Line, ...], AfterValidator(_words)] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Vocabulary:
        if (self.file is None) != (self.sha256 is None):
            raise contradiction("file", "and sha256 come together")
        if self.file is None and not self.words:
            raise contradiction("words", "is empty", "list the answers, or give file and sha256")
        return self


def _prompt(text: str) -> str:
    if text.count("{question}") != 1:
        raise PydanticCustomError("text", "must hold {question} exactly once")
    return text


class ContractPolicy(Section):
    """What every hospital's data must fit; checked locally before anything is sent. `image_size` is in pixels."""

    prompt: Annotated[str, Field(max_length=2000), AfterValidator(_prompt)] = "{question}"
    image_size: int = Field(ge=8, le=4096)
    normalisation: Literal["unit", "standard"] = "unit"
    answer: Literal["generate"] = "generate"
    vocabulary: Vocabulary
    tasks: tuple[Task, ...] = Field(default=("vqa", "classification"), min_length=1)

    @model_validator(mode="after")
    def _distinct_tasks(self) -> ContractPolicy:
        if len(set(self.tasks)) != len(self.tasks):
            raise contradiction("tasks", "names a task twice")
        return self


def _versions(versions: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(versions)) != len(versions):
        raise PydanticCustomError("text", "a version is named twice")
    return tuple(sorted(versions))


class CohortPolicy(Section):
    """Who takes part. `auto` is resolved by `thresholds.resolve` from the number of hospitals.

    `deadline` is the longest silence of one hospital within a round before it counts as lost. `versions` names the
    package versions that may take part together; without it all hospitals run the aggregator's. `participation` says
    what a hospital does about a pattern of absences that isolates somebody: warn its operator, or refuse to sign.
    """

    min_nodes: int = Field(default=3, ge=1, le=1024)
    min_survivors: NonNegative | Auto = "auto"
    colluding: NonNegative | Auto = "auto"
    deadline: Seconds = Field(default=Seconds(1800), ge=1)
    setup_deadline: Seconds = Field(default=Seconds(600), ge=1)
    epoch_rounds: int = Field(default=50, ge=1)
    versions: Annotated[tuple[PackageVersion, ...], AfterValidator(_versions)] = ()
    participation: Literal["warn", "strict"] = "warn"


class CountedCap(Section):
    """`cap`: rows beyond it add no weight; a weight is min(rows, cap)/cap on the grid of 2^-16."""

    cap: int = Field(ge=1, le=1 << 16)


class CountedWeights(Section):
    """Hospitals weigh by their training rows, which travel only inside the protected sum."""

    counted: CountedCap


class DeclaredWeights(Section):
    """Hospitals weigh by sizes that stand here in public, one per hospital."""

    declared: dict[Identifier, Annotated[int, Field(ge=1, le=1 << 31)]] = Field(min_length=1)


class LocalPolicy(Section):
    """Training inside a hospital, the same at all.

    `optimizer: sgd` is the one step of `distributed`, whose sum `learning_rate` multiplies; all else trains by AdamW.
    `schedule: cosine` falls over the policy's rounds; `augment: shift` moves each training picture by up to two pixels.
    Steps, epochs and batch size are without differential privacy only, where exactly one of the first two is needed.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    batch_size: int | None = Field(default=None, ge=1, le=65_536)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    augment: Literal["none", "shift"] = "none"
    precision: Literal["float32"] = "float32"

    @model_validator(mode="before")
    @classmethod
    def _batch_size(cls, values: dict[str, Any]) -> dict[str, Any]:
        asked = values.get("steps") is not None or values.get("epochs") is not None
        return {"batch_size": DEFAULT_BATCH_SIZE, **values} if asked else values

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> LocalPolicy:
        if self.steps is not None and self.epochs is not None:
            raise contradiction("steps", "and local.epochs: exactly one of them is needed")
        return self


class ProtectionPolicy(Section):
    """How updates are hidden on their way. `max_update` bounds each coordinate of an update before it is encoded.

    Under `distributed` it bounds what a hospital adds to each coordinate of the mean gradient, before noise.
    `bfv` and `ckks` encrypt the integers that `masking` masks, under a key that every hospital holds.
    """

    method: Literal["masking", "bfv", "ckks", "none"]
    lanes: Auto | Literal[2, 3, 4] = "auto"
    max_update: float = Field(gt=0, le=1024)

    @property
    def is_encrypted(self) -> bool:
        """Whether updates are added under homomorphic encryption."""
        return self.method in ("bfv", "ckks")


class LimitsPolicy(Section):
    """What a hospital refuses; its own configuration may only tighten it. `step_norm`: L2 norm of one round's step."""

    step_norm: float = Field(default=10.0, gt=0)
    min_patients: int = Field(default=5, ge=5)


class Policy(Section):
    """One consortium's agreement about one run. `rounds` train; see `rounds_in_all` for those that are played."""

    version: Literal[1]
    name: Identifier
    rounds: int = Field(ge=1, le=100_000)
    model: ModelPolicy
    contract: ContractPolicy
    cohort: CohortPolicy = CohortPolicy()
    weights: Literal["equal"] | CountedWeights | DeclaredWeights = "equal"
    algorithm: Algorithm = FedAvg()
    local: LocalPolicy
    protection: ProtectionPolicy
    unsafe_no_protection: bool = False
    privacy: Privacy
    evaluation: EvaluationPolicy = EvaluationPolicy()
    limits: LimitsPolicy = LimitsPolicy()

    @model_validator(mode="before")
    @classmethod
    def _private_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Where the file, read by now, is silent under a mechanism: A frozen, 20 patients or more, scores' epsilon."""
        privacy = values.get("privacy")
        if not isinstance(privacy, PatientPrivacy):
            return values
        filled = dict(values)
        local = values.get("local")
        silent = isinstance(local, LocalPolicy) and "optimizer" not in local.model_fields_set
        if isinstance(privacy, Distributed) and isinstance(local, LocalPolicy) and silent:
            filled["local"] = local.model_copy(update={"optimizer": "sgd"})
        if isinstance(scored := values.get("evaluation"), EvaluationPolicy):
            filled["evaluation"] = with_default_noise(scored, privacy.epsilon)
        model, limits = values.get("model"), values.get("limits", LimitsPolicy())
        if isinstance(model, ModelPolicy) and "factors" not in model.lora.model_fields_set:
            lora = model.lora.model_copy(update={"factors": "ffa"})
            filled["model"] = model.model_copy(update={"lora": lora})
        if isinstance(limits, LimitsPolicy) and "min_patients" not in limits.model_fields_set:
            filled["limits"] = limits.model_copy(update={"min_patients": DP_MIN_PATIENTS})
        return filled

    @model_validator(mode="after")
    def _privacy_holds_throughout(self) -> Policy:
        check_private(self)
        return self

    @property
    def rounds_in_all(self) -> int:
        """Rounds that train, and the closing one where the final model's scores are released."""
        return self.rounds + (self.evaluation.release == "final")

    def is_closing(self, round_number: int) -> bool:
        """Whether a round, counted from 0, trains nothing: it releases the final model's scores alone."""
        return self.evaluation.release == "final" and round_number >= self.rounds

    def releases_scores(self, round_number: int) -> bool:
        """Whether a round, counted from 0, releases noised scores of the model that enters it."""
        match self.evaluation.release:
            case "final":
                return self.is_closing(round_number)
            case "each":
                return round_number < self.rounds and round_number % self.evaluation.every == 0
            case _:
                return False

    def releases_before(self, done: int) -> int:
        """How many of the first `done` rounds release noised scores."""
        if self.evaluation.release == "final":
            return int(done > self.rounds)
        return -(-min(done, self.rounds) // self.evaluation.every) if self.evaluation.release == "each" else 0

    @model_validator(mode="after")
    def _both_stages_have_rounds(self) -> Policy:
        first = self.model.connector_rounds
        if first is not None and first >= self.rounds:
            hint = f"use model.connector_rounds below {self.rounds}, or the strategy connector"
            raise contradiction("model.connector_rounds", f"{first} of {self.rounds} rounds leave LoRA no round", hint)
        return self

    @model_validator(mode="after")
    def _no_colluder_with_a_key_for_all(self) -> Policy:
        colluding, method = self.cohort.colluding, self.protection.method
        if self.protection.is_encrypted and colluding != "auto" and colluding > 0:
            cause = f"{colluding} cannot be kept by {method}: each hospital holds the key that opens every update"
            raise contradiction("cohort.colluding", cause, "use protection.method: masking, or cohort.colluding: auto")
        return self

    @model_validator(mode="after")
    def _unprotected_by_name_only(self) -> Policy:
        if self.protection.method == "none" and not self.unsafe_no_protection:
            hint = "add `unsafe_no_protection: true` to send updates in clear, or use protection.method: masking"
            raise contradiction("protection.method", "none sends every hospital's update in clear", hint)
        if self.protection.method != "none" and self.unsafe_no_protection:
            raise contradiction(
                "unsafe_no_protection",
                "is true although updates are protected",
                "remove the line",
            )
        return self
