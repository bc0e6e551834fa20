"""Federated against local-only, pooled and majority on a pack of real hospitals, per hospital and question, over seeds.

    python benchmarks/chest_comparison.py --data DATA/chest_xray --base BASE --out chest_comparison.json

All trained variants start from the same base and tune the same parameters with the same optimizer: `federated` is
FedAvg by rows, in this process and without protection (masked sums equal these but for the ring's rounding); `local`
gives each hospital as many steps as it takes in the federation; `pooled` puts all rows in one place for as many steps
as the federation takes in all. `--validate` scores on a quarter of the train patients and never looks at a test
row: that is how the settings below were chosen.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import numpy as np
import typer

from fedvlm_secure import canonical
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.train.settings import Augment, LocalSettings, Schedule
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.adapters import LoraSettings
from fedvlm_secure.vlm.contract import Contract, Normalisation, derive_contract
from fedvlm_secure.vlm.data.jsonl import load_jsonl
from fedvlm_secure.vlm.data.rows import SCORED_TASKS, HospitalData, Row, merge_data
from fedvlm_secure.vlm.tasks.scores import Evaluation, Score

VALIDATION_SHARE = 0.25
POOLED = "pooled"
OWN_COPY = "federated, then own"
Question = tuple[str, str, str]
"""Hospital, task, question."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the comparison; the defaults were chosen on train patients alone."""

    rounds: int = 30
    steps: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Schedule = "cosine"
    augment: Augment = "shift"
    r: int = 8
    alpha: float = 32.0
    image_size: int = 32
    normalisation: Normalisation = "unit"


def read_hospitals(folder: Path, recipe: Recipe, *, validate: bool) -> dict[str, HospitalData]:
    """Hospital name -> rows of the scored tasks; under `validate` only train rows, split anew by patient."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        data = load_jsonl(path, image_size=recipe.image_size, tasks=SCORED_TASKS)
        rows = [replace(row, patient=f"{path.stem}/{row.patient}") for row in data.rows]
        if validate:
            rows = [replace(row, split=_validation_side(row)) for row in rows if row.split == "train"]
        found[path.stem] = HospitalData(tuple(rows), data.pictures)
    return found


def _validation_side(row: Row) -> str:
    mark = hashlib.sha256(canonical.encode(["validation", row.patient])).digest()
    return "test" if int.from_bytes(mark[:4], "big") < VALIDATION_SHARE * 2**32 else "train"


def open_session(
    name: str, data: HospitalData, contract: Contract, base: Path, recipe: Recipe, *, seed: int, steps: int
) -> LocalTraining:
    """One participant: a hospital, or all of them in one place."""
    return LocalTraining(
        Tuning(base, None, "connector+lora", LoraSettings(recipe.r, recipe.alpha), seed),
        contract,
        data,
        LocalSettings(
            learning_rate=recipe.learning_rate,
            batch_size=recipe.batch_size,
            steps=steps,
            schedule=recipe.schedule,
            rounds=recipe.rounds,
            augment=recipe.augment,
        ),
        batch_order=lambda round_number: np.random.default_rng(
            int.from_bytes(canonical.digest("batch-order", seed, name, round_number), "big")
        ),
        split_key=b"rows carry their own split",
    )


def federate(members: Mapping[str, LocalTraining], state: Float32Vector, rounds: Iterable[int]) -> Float32Vector:
    """FedAvg: mean of the members' updates by rows, added to the state (McMahan et al. 2017).

    Args:
        members: one of them is training alone.
        state: float32 [d] to start from.
        rounds: their numbers, which set the learning rate.
    """
    for round_number in rounds:
        updates = [member.train(round_number, state) for member in members.values()]
        weights = np.array([update.rows for update in updates], dtype=np.float64)
        total = sum(w * update.update.astype(np.float64) for w, update in zip(weights, updates, strict=True))
        state = (state + total / weights.sum()).astype(np.float32)
    return state


def majority(data: Mapping[str, HospitalData]) -> dict[Question, Score]:
    """Commonest train answer to each question, over all hospitals, on each hospital's test rows."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for hospital in data.values():
        for row in hospital.rows:
            if row.split == "train":
                answers = counts.setdefault((row.task, row.question), {})
                answers[row.answer] = answers.get(row.answer, 0) + 1
    scores: dict[Question, Score] = {}
    for name, hospital in data.items():
        for row in hospital.rows:
            answers = counts.get((row.task, row.question), {})
            if row.split == "test":
                hit = int(bool(answers) and max(answers, key=lambda a: answers[a]) == row.answer)
                key = (name, row.task, row.question)
                scores[key] = scores.get(key, Score(0, 0, 0)) + Score(hit, 1, hit)
    return scores


def by_question(name: str, scored: Evaluation) -> dict[Question, Score]:
    """An evaluation's per-question scores under a hospital's name."""
    return {(name, task, question): score for (task, question), score in scored.questions.items()}


def one_seed(
    data: Mapping[str, HospitalData], contract: Contract, base: Path, recipe: Recipe, seed: int
) -> dict[str, dict[Question, Score]]:
    """Variant -> scores on every hospital's test rows; `local NAME` is that hospital's model on all tests.

    `federated, then own` goes on from the federated state with each hospital's own last fifth of the rounds and scores
    it on that hospital's own test: what a hospital gets that keeps a copy of its own.
    """
    members = {
        name: open_session(name, hospital, contract, base, recipe, seed=seed, steps=recipe.steps)
        for name, hospital in data.items()
    }

    def on_all(state: Float32Vector) -> dict[Question, Score]:
        return {
            key: score
            for name, member in members.items()
            for key, score in by_question(name, member.evaluate(state)).items()
        }

    zero = np.zeros(next(iter(members.values())).layout.dimension, np.float32)
    rounds = range(1, recipe.rounds + 1)
    state = federate(members, zero, rounds)
    scores = {"untuned": on_all(zero), "federated": on_all(state), OWN_COPY: {}}
    for name, member in members.items():
        own = federate({name: member}, state, rounds[-max(1, recipe.rounds // 5) :])
        scores[OWN_COPY] |= by_question(name, member.evaluate(own))
        scores[f"local {name}"] = on_all(federate({name: member}, zero, rounds))
    whole = merge_data(list(data.values()))
    together = open_session(POOLED, whole, contract, base, recipe, seed=seed, steps=recipe.steps * len(data))
    scores[POOLED] = on_all(federate({POOLED: together}, zero, rounds))
    return scores


def accuracy(scores: Mapping[Question, Score], *, task: str, hospital: str | None = None) -> float | None:
    """Pooled accuracy over questions of a task; None where a hospital has none."""
    total = Score(0, 0, 0)
    for (name, kind, _), score in scores.items():
        if kind == task and hospital in (None, name):
            total += score
    return total.accuracy if total.total else None


def rows_of_table(runs: list[dict[str, dict[Question, Score]]], hospitals: Iterable[str]) -> list[dict[str, object]]:
    """One record per variant, task and hospital (`all` = every test row): mean and spread over seeds.

    Two derived variants: `local, own test` takes each hospital's own model on its own test; `local, mean over all
    tests` averages over whose model is scored.
    """
    names = list(hospitals)
    records: list[dict[str, object]] = []
    for task in SCORED_TASKS:
        for place in (None, *names):
            for variant in runs[0]:
                values = [accuracy(run[variant], task=task, hospital=place) for run in runs]
                records += _record(variant, task, place, values)
            means = [[accuracy(run[f"local {name}"], task=task, hospital=place) for name in names] for run in runs]
            known = [mean([v for v in line if v is not None]) for line in means if any(v is not None for v in line)]
            records += _record("local, mean over all models", task, place, list(known))
            own = [
                accuracy(
                    {key: score for name in names for key, score in run[f"local {name}"].items() if key[0] == name},
                    task=task,
                    hospital=place,
                )
                for run in runs
            ]
            records += _record("local, own test", task, place, own)
    return records


def _record(variant: str, task: str, place: str | None, values: list[float | None]) -> list[dict[str, object]]:
    known = [value for value in values if value is not None]
    if not known:
        return []
    spread = stdev(known) if len(known) > 1 else 0.0
    shown = {"variant": variant, "task": task, "hospital": place or "all"}
    return [{**shown, "accuracy": mean(known), "deviation": spread, "seeds": len(known)}]


def questions_of(runs: list[dict[str, dict[Question, Score]]], variants: Iterable[str]) -> list[dict[str, object]]:
    """Per hospital and question: mean accuracy of each variant over seeds, and the number of test rows."""
    records: list[dict[str, object]] = []
    for key in sorted(runs[0]["federated"]):
        hospital, task, question = key
        record: dict[str, object] = {"hospital": hospital, "task": task, "question": question}
        record["rows"] = runs[0]["federated"][key].total
        for variant in variants:
            record[variant] = mean(run[variant][key].accuracy for run in runs)
        record["local, own test"] = mean(run[f"local {hospital}"][key].accuracy for run in runs)
        records.append(record)
    return records


def main(
    data: Annotated[Path, typer.Option("--data", help="Folder with one *.jsonl per hospital.")],
    base: Annotated[Path, typer.Option("--base", help="Base made by `fedvlm models build` for this data.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.")] = Path("chest_comparison.json"),
    seeds: Annotated[int, typer.Option("--seeds", min=1)] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = Recipe.rounds,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    validate: Annotated[bool, typer.Option("--validate", help="Score train patients held out; no test row.")] = False,
) -> None:
    """Train all variants with several seeds, print a table and write JSON."""
    import torch

    torch.set_num_threads(threads)
    started = time.monotonic()
    recipe = replace(Recipe(), rounds=rounds)
    hospitals = read_hospitals(data, recipe, validate=validate)
    rows = [row for hospital in hospitals.values() for row in hospital.rows if row.split == "train"]
    contract = derive_contract(rows, image_size=recipe.image_size, normalisation=recipe.normalisation)
    runs = []
    for seed in range(1, seeds + 1):
        scores = one_seed(hospitals, contract, base, recipe, seed)
        runs.append({"majority": majority(hospitals), **scores})
        typer.echo(f"seed {seed} done after {time.monotonic() - started:.0f} s", err=True)
    table = rows_of_table(runs, hospitals)
    for record in table:
        typer.echo(
            f"{record['task']:<15} {record['hospital']:<10} {record['variant']:<28} "
            f"{record['accuracy']:.3f} +- {record['deviation']:.3f}"
        )
    report = {
        "scored_on": "train patients held out" if validate else "test",
        "recipe": vars(recipe),
        "seconds": round(time.monotonic() - started, 1),
        "summary": table,
        "questions": questions_of(runs, ("majority", "untuned", "federated", OWN_COPY, POOLED)),
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
