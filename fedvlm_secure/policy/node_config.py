"""node.yaml: one hospital's own configuration. It may only tighten what the policy allows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.binding import Binder
from fedvlm_secure.policy.schema import LimitsPolicy, Policy
from fedvlm_secure.policy.section import Identifier, Line, Section
from fedvlm_secure.policy.yaml_tree import read_bounded, read_tree


class JsonlSource(Section):
    """A JSON Lines file, one question a line; image paths in it are relative to its folder."""

    jsonl: Path


class PhantomSite(Section):
    """Seeded synthetic radiograph phantoms of one site's scanner and disease mix."""

    site: Identifier
    seed: int = Field(ge=0, lt=1 << 32)
    patients: int = Field(default=600, ge=1, le=100_000)


class PhantomSource(Section):
    """Synthetic patients instead of real ones."""

    phantoms: PhantomSite


class Columns(Section):
    """Which column holds what. Without `task` every row is of the task `task_kind` of the source."""

    image: Line = "image"
    question: Line = "question"
    answer: Line = "answer"
    patient: Line = "patient"
    task: Line | None = None


class DatasetsTable(Section):
    """A local source of the `datasets` library: `disk` is a folder of `save_to_disk`, else data files of that kind."""

    path: Path
    loader: Literal["disk", "json", "csv", "parquet", "imagefolder"] = "disk"
    split: Line = "train"
    columns: Columns = Columns()
    task_kind: Literal["vqa", "classification"] = "vqa"


class DatasetsSource(Section):
    """Rows of a `datasets` source by column mapping."""

    datasets: DatasetsTable


class OwnLimits(Section):
    """Stricter limits than the policy's; what is left out stays the policy's. `min_nodes`: smallest cohort joined."""

    min_patients: int | None = Field(default=None, ge=1)
    step_norm: float | None = Field(default=None, gt=0)
    min_nodes: int | None = Field(default=None, ge=3)


class OwnEvaluation(Section):
    """`limit`: test questions asked in a round, at most the policy's."""

    limit: int | None = Field(default=None, ge=1)


class NodeConfig(Section):
    """One hospital's service. Relative paths start at the folder of the file.

    `roster` defaults to the copy that `fedvlm-node install` pinned; `policies`, where given, narrows the approved
    policies to these; `base` is a local copy of the base model, else the shipped one of the policy's name;
    `ledger_anchor` is the file in a second place that guards the budget's ledger. `other_cohorts: accept` joins a
    cohort that could show this hospital's update beside an earlier sum from the same model (`rounds.cohorts`).
    """

    node: Identifier
    state: Path
    roster: Path | None = None
    policies: tuple[Path, ...] = ()
    aggregator: Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]
    population: Identifier
    data: JsonlSource | PhantomSource | DatasetsSource
    base: Path | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$")] = "cpu"
    threads: int = Field(default=1, ge=1, le=1024)
    microbatch: int | None = Field(default=None, ge=1)
    ledger_anchor: Path | None = None
    limits: OwnLimits = OwnLimits()
    other_cohorts: Literal["refuse", "accept"] = "refuse"
    evaluation: OwnEvaluation = OwnEvaluation()

    @property
    def roster_path(self) -> Path:
        return self.roster if self.roster is not None else self.state / "roster.toml"


def load_node_config(path: Path) -> NodeConfig:
    """Read node.yaml.

    Raises:
        PolicyError: one, with file, line, key path and hint, as for a policy.
    """
    binder = Binder(
        str(path), "field of node.yaml", path.parent, {}, "see the example of a node.yaml in the user guide"
    )
    return binder.bind(read_tree(read_bounded(path, "configuration"), str(path)), NodeConfig)


def effective_limits(policy: Policy, config: NodeConfig) -> LimitsPolicy:
    """The limits that this hospital holds to: the policy's, tightened by its own.

    Raises:
        PolicyError: LIMIT_LOOSER, the hospital's own file asks for less than the consortium agreed on.
    """
    patients = config.limits.min_patients or policy.limits.min_patients
    norm = config.limits.step_norm or policy.limits.step_norm
    _tightens("limits.min_patients", patients, patients >= policy.limits.min_patients, policy.limits.min_patients)
    _tightens("limits.step_norm", norm, norm <= policy.limits.step_norm, policy.limits.step_norm)
    return LimitsPolicy(step_norm=norm, min_patients=patients)


def evaluation_limit(policy: Policy, config: NodeConfig) -> int | None:
    """Test questions per round: the smaller of the policy's limit and the hospital's own; None asks all."""
    limits = [limit for limit in (policy.evaluation.limit, config.evaluation.limit) if limit is not None]
    return min(limits, default=None)


def check_cohort(config: NodeConfig, nodes: int) -> None:
    """Refuse a cohort that is smaller than the hospital itself asks for.

    Raises:
        PolicyError: COHORT_TOO_SMALL.
    """
    asked = config.limits.min_nodes
    if asked is not None and nodes < asked:
        raise PolicyError(
            "COHORT_TOO_SMALL", f"a cohort of {nodes} hospitals; node.yaml asks for {asked}", "wait for more to join"
        )


def _tightens(field: str, value: float, holds: bool, agreed: float) -> None:
    if not holds:
        raise PolicyError(
            "LIMIT_LOOSER",
            f"node.yaml: {field} is {value}, looser than the policy's {agreed}",
            f"remove {field}, or make it stricter than {agreed}",
        )
