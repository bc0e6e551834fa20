"""The hospitals of a demo or a simulation: phantoms of several sites, or every *.jsonl file of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.errors import DataError, PolicyError
from fedvlm_secure.policy.thresholds import SMALLEST_COHORT
from fedvlm_secure.types import NodeId, node_id

PHANTOMS = "phantoms"
PHANTOM_PATIENTS = 600


@dataclass(frozen=True)
class Hospital:
    """One hospital and where its rows come from.

    Args:
        node: its id.
        source: the block `data` of its node.yaml.
    """

    node: NodeId
    source: Mapping[str, object]


def phantom_hospitals(nodes: int, seed: int, patients: int = PHANTOM_PATIENTS) -> tuple[Hospital, ...]:
    """Hospitals of synthetic patients, each with the scanner and case mix of another site as far as there are sites.

    Raises:
        PolicyError: COHORT_TOO_SMALL.
    """
    from fedvlm_secure.vlm.data.phantoms import SITES

    check_count(nodes, "--nodes")
    sites = list(SITES)
    made = []
    for at in range(nodes):
        site, turn = sites[at % len(sites)], at // len(sites)
        source = {PHANTOMS: {"site": site, "seed": seed + turn, "patients": patients}}
        made.append(Hospital(node_id(site if turn == 0 else f"{site}-{turn + 1}"), source))
    return tuple(made)


def folder_hospitals(folder: Path) -> tuple[Hospital, ...]:
    """Each *.jsonl file of a folder is one hospital, named after the file.

    Raises:
        DataError: DATA_MISSING, DATA_NAME.
        PolicyError: COHORT_TOO_SMALL.
    """
    if not folder.is_dir():
        raise DataError("DATA_MISSING", f"{folder} is not a folder", "give a folder that holds one .jsonl per hospital")
    files = sorted(folder.glob("*.jsonl"))
    named: dict[NodeId, Path] = {}
    for path in files:
        node = hospital_id(path)
        if node in named:
            raise DataError(
                "DATA_NAME", f"{path.name} and {named[node].name} both mean the hospital {node}", "rename one"
            )
        named[node] = path
    check_count(len(named), str(folder))
    return tuple(Hospital(node, {"jsonl": str(path.resolve())}) for node, path in named.items())


def hospital_id(path: Path) -> NodeId:
    """The file's name without its ending, `_` as `-`.

    Raises:
        DataError: DATA_NAME, it is no hospital id.
    """
    try:
        return node_id(path.stem.replace("_", "-"))
    except ValueError as error:
        raise DataError(
            "DATA_NAME",
            f"{path.name} gives no hospital id",
            "use lower-case letters, digits, - and _ in the file's name, at most 64 characters",
        ) from error


def check_count(nodes: int, where: str) -> None:
    """Refuse a cohort in which one hospital could work out another's update.

    Raises:
        PolicyError: COHORT_TOO_SMALL.
    """
    if nodes < SMALLEST_COHORT:
        raise PolicyError(
            "COHORT_TOO_SMALL",
            f"{where}: {nodes} hospital{'' if nodes == 1 else 's'}, at least {SMALLEST_COHORT} are needed",
            "with two, each could subtract its own update from the sum and see the other's",
        )


def train_answers(hospitals: Sequence[Hospital], *, image_size: int, tasks: Sequence[str]) -> tuple[str, ...]:
    """Every answer that the hospitals' training rows give, sorted: the vocabulary of their contract.

    Rows that carry no split count as training rows here, since each hospital draws its own.

    Raises:
        DataError: a file cannot be read, with file and line.
    """
    from fedvlm_secure.vlm.contract import derive_contract
    from fedvlm_secure.vlm.data.jsonl import load_jsonl

    rows = []
    for hospital in hospitals:
        whole = load_jsonl(Path(str(hospital.source["jsonl"])), image_size=image_size, tasks=tuple(tasks))
        rows += [row for row in whole.rows if row.split != "test"]
    return derive_contract(rows, image_size=image_size, tasks=tasks).vocabulary


def train_patients(hospital: Hospital, *, tasks: Sequence[str], minimum: int) -> int:
    """Patients that a hospital's file holds to train on; what its operator declares in a demo.

    Rows that carry no split count as training rows here, since each hospital draws its own.

    Raises:
        DataError: TOO_FEW_PATIENTS, with the hospital's name; or the file cannot be read, with file and line.
    """
    from fedvlm_secure.vlm.data.jsonl import load_jsonl
    from fedvlm_secure.vlm.data.splitting import require_patients

    whole = load_jsonl(Path(str(hospital.source["jsonl"])), image_size=32, tasks=tuple(tasks))
    try:
        return require_patients((row for row in whole.rows if row.split != "test"), minimum=minimum)
    except DataError as error:
        raise DataError(error.code, f"{hospital.node}: {error.cause}", error.hint) from error
