"""`fedvlm simulate`: the same machines in one process, with real training, any drop-outs, and an unprotected twin."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError

if TYPE_CHECKING:
    from fedvlm_secure.cli.hospitals import Hospital
    from fedvlm_secure.cli.progress import Progress
    from fedvlm_secure.policy.schema import Policy
    from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, Result
    from fedvlm_secure.simulate.crashes import Crashes
    from fedvlm_secure.simulate.dropouts import Drop
    from fedvlm_secure.simulate.federation import Federation
    from fedvlm_secure.simulate.network import Network
    from fedvlm_secure.simulate.training import TrainedWork
    from fedvlm_secure.types import Digest, NodeId

PROGRAM = "fedvlm"
PHANTOMS = "phantoms"
SUMS_DIFFER = 1
CRASH_RATE = 0.02
app = typer.Typer(cls=console.error_group(PROGRAM), pretty_exceptions_enable=False, add_completion=False)


@app.command()
def simulate(
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy file; policies/fedavg.yaml without it.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Hospitals of phantoms; 3 without it.")] = None,
    data: Annotated[
        str, typer.Option("--data", help="`phantoms`, or a folder whose *.jsonl files are one hospital each.")
    ] = PHANTOMS,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds, instead of the policy's.")] = None,
    base: Annotated[Path | None, typer.Option("--base", help="Base made by `fedvlm models build`.")] = None,
    patients: Annotated[int, typer.Option("--patients", min=1, help="Phantom patients of each hospital.")] = 600,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="ROUND:NODE:PHASE (upload, sign, reveal, decrypt, certify); back next round."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of phantoms and of all entropy.")] = 1,
    rough: Annotated[
        bool, typer.Option("--rough", help="A network that delays, repeats and breaks connections by chance.")
    ] = False,
    crashes: Annotated[
        int, typer.Option("--crashes", min=0, help="So many processes at most die, by chance, and start again.")
    ] = 0,
    compare_unprotected: Annotated[
        bool,
        typer.Option("--compare-unprotected", help="Run once more without masks and compare the sums bit for bit."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Run a whole federation in one process under a virtual clock. Not for patients' data: all parties share it."""
    start_s = time.monotonic()
    asked = _Asked(policy, nodes, data, rounds, base, patients, tuple(drop or ()), seed)
    agreed, works, drops = _prepare(asked)
    run = _Run(agreed, works, seed, _Hardship(rough, crashes))
    for left in run.drive(drops):
        console.warn(PROGRAM, f"--drop {left} never came due")
    fields = _shown(run)
    equal = True
    if compare_unprotected:
        twin = _Run(without_protection(agreed), works, seed, _Hardship())
        twin.drive(run.losses())
        fields["compare_unprotected"] = compared = compare(run, twin)
        equal = bool(compared["equal"])
    if as_json:
        console.emit_json({**fields, "seconds": round(time.monotonic() - start_s, 1)})
    if not equal:
        raise typer.Exit(SUMS_DIFFER)


@dataclass(frozen=True)
class _Asked:
    policy: Path | None
    nodes: int | None
    data: str
    rounds: int | None
    base: Path | None
    patients: int
    drops: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class _Hardship:
    """What a run goes through besides the scripted drop-outs."""

    rough: bool = False
    crashes: int = 0

    def network(self, seed: int) -> Network | None:
        import numpy as np

        from fedvlm_secure.simulate.network import RoughNetwork, Weather

        return RoughNetwork(np.random.default_rng([seed, 1]), Weather()) if self.rough else None

    def deaths(self, seed: int) -> Crashes | None:
        import numpy as np

        from fedvlm_secure.simulate.crashes import CrashesByChance

        return CrashesByChance(np.random.default_rng([seed, 2]), CRASH_RATE, self.crashes) if self.crashes else None


def _prepare(asked: _Asked) -> tuple[Policy, dict[NodeId, TrainedWork], list[Drop]]:
    """The policy with the options in it, every hospital's model and data, the script of drop-outs."""
    from fedvlm_secure.cli.demo_policy import default_policy, demo_policy
    from fedvlm_secure.simulate.dropouts import parse_drop

    hospitals = _hospitals(asked)
    own_data = asked.data != PHANTOMS
    source = asked.policy if asked.policy is not None else default_policy(own_data=own_data)
    with tempfile.TemporaryDirectory(prefix="fedvlm-simulate-") as name:
        folder = Path(name)
        policy = demo_policy(
            source,
            folder,
            hospitals,
            rounds=asked.rounds,
            seed=None,
            base=asked.base,
            own_data=own_data,
        ).policy
        drops = [parse_drop(text, [hospital.node for hospital in hospitals], policy.rounds) for text in asked.drops]
        return policy, _works(policy, hospitals, asked.base, folder, asked.seed), drops


def _hospitals(asked: _Asked) -> tuple[Hospital, ...]:
    from fedvlm_secure.cli.hospitals import folder_hospitals, phantom_hospitals

    if asked.data == PHANTOMS:
        return phantom_hospitals(3 if asked.nodes is None else asked.nodes, asked.seed, asked.patients)
    if asked.nodes is not None:
        raise PolicyError(
            "OPTION_WRONG", "--nodes and a folder exclude each other", "the files in --data are the nodes"
        )
    return folder_hospitals(Path(asked.data))


def _shown(run: _Run) -> dict[str, object]:
    """Print rounds and accuracy; return the JSON line's fields."""
    from fedvlm_secure.cli.accuracy import accuracy_by_round
    from fedvlm_secure.cli.released_scores import show_scores
    from fedvlm_secure.policy.hashing import policy_hash

    progress = run.progress()
    accuracies = tuple(progress.accuracies())
    show_rounds(progress)
    scores = show_scores(run.policy, accuracies, progress.closed)
    return {
        "policy": run.policy.name,
        "policy_hash": policy_hash(run.policy).hex(),
        "protection": run.policy.protection.method,
        "nodes": list(progress.nodes),
        "rounds": list(progress.closed),
        "accuracy": accuracy_by_round(accuracies),
        **scores,
        "model_hash": run.federation.state.digest.hex(),
    }


class _Run:
    """One federation, and the root hash of every sum that it published."""

    def __init__(self, policy: Policy, works: Mapping[NodeId, TrainedWork], seed: int, hardship: _Hardship) -> None:
        from fedvlm_secure.simulate.federation import Federation

        self.sums: dict[int, Digest] = {}
        self.policy, self._works = policy, works
        self.federation: Federation = Federation(
            policy,
            works,
            seed=seed,
            tap=self._tap,
            network=hardship.network(seed),
            crashes=hardship.deaths(seed),
        )

    def _tap(self, direction: str, node: NodeId, message: NodeMessage | AggregatorMessage) -> bool:
        from fedvlm_secure.secagg.messages import Result

        if isinstance(message, Result):
            self.sums[message.round] = self._sum_root(message)
        return True

    def _sum_root(self, result: Result) -> Digest:
        """Of the sum's words alone: an encrypted run publishes a proof behind them."""
        from fedvlm_secure.rounds.terms import vector_of
        from fedvlm_secure.secagg.merkle import chunk_root

        manifest = self.federation.aggregator_self.memory.manifest
        words = vector_of(manifest, closing=self.policy.is_closing(result.round)).words
        content = self.federation.blobs.get(result.sum_root)
        return result.sum_root if content is None else chunk_root(memoryview(content)[: 8 * words])

    def drive(self, drops: Sequence[Drop]) -> tuple[Drop, ...]:
        """To the end; returns the drops that never came due."""
        from fedvlm_secure.simulate.dropouts import run_with_drops

        return run_with_drops(self.federation, drops)

    def losses(self) -> list[Drop]:
        """Drop-outs that leave the same hospitals out of each round's sum as here."""
        from fedvlm_secure.rounds.aggregator_memory import Phase
        from fedvlm_secure.simulate.dropouts import Drop
        from fedvlm_secure.types import NodeId

        closed: Sequence[Mapping[str, Any]] = self.federation.aggregator_self.memory.summaries
        return [
            Drop(entry["round"], NodeId(name), Phase.UPLOAD) for entry in closed for name in entry.get("dropped", ())
        ]

    def progress(self) -> Progress:
        """As of the end, in the form that a demo reads from files."""
        from fedvlm_secure.cli.progress import Progress

        last = self.policy.rounds
        rows = {
            (number, node): {**scores.as_json(), "last": number == last, "upload_bytes": 0, "control_bytes": 0}
            for node, work in self._works.items()
            for number, scores in work.scores.items()
        }
        closed = tuple(self.federation.aggregator_self.memory.summaries)
        return Progress(tuple(self.federation.nodes), last, "done", last, (), (), closed, rows)


def _works(
    policy: Policy, hospitals: Sequence[Hospital], base: Path | None, folder: Path, seed: int
) -> dict[NodeId, TrainedWork]:
    """Every hospital's model and data, made as its own node would make them."""
    import yaml

    from fedvlm_secure.policy.node_config import load_node_config
    from fedvlm_secure.simulate.memory import ShakeEntropy
    from fedvlm_secure.simulate.training import TrainedWork
    from node.hospital import build_training, with_mechanism

    works = {}
    for hospital in hospitals:
        fields: dict[str, object] = {
            "node": str(hospital.node),
            "state": str(folder),
            "aggregator": "127.0.0.1:1",
            "population": f"{hospital.node}-simulated"[:64],
            "data": dict(hospital.source),
        }
        if base is not None:
            fields["base"] = str(base.resolve())
        path = folder / f"{hospital.node}.yaml"
        path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
        config = load_node_config(path)
        entropy = ShakeEntropy(seed, f"{hospital.node}/noise")  # synthetic patients or a trial: never a real release
        training = with_mechanism(policy, config, build_training(policy, config), entropy)
        works[hospital.node] = TrainedWork(training, policy)
    return works


def without_protection(policy: Policy) -> Policy:
    """The same policy with updates in clear."""
    protection = policy.protection.model_copy(update={"method": "none"})
    return policy.model_copy(update={"protection": protection, "unsafe_no_protection": True})


def show_rounds(progress: Progress) -> None:
    """A line per closed round."""
    from fedvlm_secure.cli.live import counted_bytes

    rows = []
    for at, closed in enumerate(progress.closed):
        sent = "" if closed["void"] else f"{counted_bytes(closed['upload_bytes'])}"
        loss = closed.get("loss")
        rows.append(
            [
                str(at + 1),
                str(int(closed["attempt"]) + 1),
                "no result" if closed["void"] else ", ".join(closed["survivors"]),
                ", ".join(closed.get("dropped", ())) or "nobody",
                sent,
                "-" if loss is None else f"{loss:.3f}",
            ]
        )
    console.table("rounds", ("round", "attempts", "took part", "missing", "each sent", "mean loss"), rows)


def compare(protected: _Run, bare: _Run) -> dict[str, object]:
    """Whether two runs published the same ring sums, bit for bit, and say so."""
    rounds = sorted(protected.sums.keys() | bare.sums.keys())
    differing = [number + 1 for number in rounds if protected.sums.get(number) != bare.sums.get(number)]
    if differing:
        console.say(f"masked and unprotected sums DIFFER in rounds {', '.join(map(str, differing))}")
    else:
        console.say(f"masked and unprotected sums are equal bit for bit in all {len(rounds)} rounds")
    return {"equal": not differing, "rounds": len(rounds), "differing_rounds": differing}
