"""`fedvlm-node ledger ...`: what was spent and what is left, and the operator's own decisions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.dp.events import to_record
from fedvlm_secure.types import Entropy
from node.ledger import Balance, Ledger
from node.ledger_care import add_care
from node.ledger_chain import LedgerPaths, ledger_paths
from node.ledger_entries import LimitSet, PopulationAdded
from node.ledger_file import WallClock
from node.ledger_two_person import PROPOSAL, KeyFile, ProposalOut, add_two_person, decide

State = Annotated[Path, typer.Option("--state", envvar="FEDVLM_NODE_STATE", help="This hospital's private folder.")]
AnchorPath = Annotated[
    Path | None,
    typer.Option(
        "--anchor", envvar="FEDVLM_LEDGER_ANCHOR", help="The anchor file, on another disk where there is one."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
Name = Annotated[str, typer.Argument(help="A population of this hospital.")]
Limit = Annotated[float, typer.Argument(help="The most epsilon that may ever be spent on it.")]
DEFAULT_STATE = Path("node-state")
UNPROTECTED = "released without formal protection"


def ledger_app(entropy: Entropy, wall_s: WallClock) -> typer.Typer:
    """The sub-commands; the caller names the real entropy and clock."""
    app = typer.Typer(help="This hospital's privacy budget.", invoke_without_command=True)

    def opened(context: typer.Context) -> Ledger:
        return Ledger(_paths(context), wall_s)

    @app.callback()
    def show(
        context: typer.Context, state: State = DEFAULT_STATE, anchor: AnchorPath = None, as_json: AsJson = False
    ) -> None:
        """Show every population: limit, spent, reserved, left."""
        context.obj = (ledger_paths(state, anchor), as_json, state)
        if context.invoked_subcommand is None:
            _show(opened(context), as_json)

    @app.command("open")
    def open_first(context: typer.Context) -> None:
        """Open this hospital's first ledger: its key, its file and its anchor."""
        ledger = Ledger.create(_paths(context), entropy, wall_s)
        _done(context, f"opened {ledger.paths.ledger}; its anchor is {ledger.paths.anchor}")

    @app.command("add")
    def add(
        context: typer.Context,
        population: Name,
        limit: Limit,
        delta: Annotated[float, typer.Option("--delta", help="Below 1 / patients; the operator's own.")] = 1e-5,
        operator: KeyFile = None,
        out: ProposalOut = PROPOSAL,
    ) -> None:
        """Add a population with its limit."""
        _done(context, decide(opened(context), PopulationAdded(population, delta, limit), operator, out))

    @app.command("limit")
    def set_limit(
        context: typer.Context,
        population: Name,
        limit: Limit,
        operator: KeyFile = None,
        out: ProposalOut = PROPOSAL,
    ) -> None:
        """Change a population's limit. What was spent stays spent. See `two-person`."""
        ledger = opened(context)
        before = ledger.balance(population).limit
        _done(context, f"{decide(ledger, LimitSet(population, limit), operator, out)} (before: {before:g})")

    @app.command("merge")
    def merge(context: typer.Context, source: Name, target: Name) -> None:
        """Make one population of two that share patients: charges are added, the lower limit holds."""
        opened(context).merge(source, target)
        _done(context, f"population {source} is now part of {target}")

    add_two_person(app, opened, _done)
    add_care(app, opened, _done, entropy, wall_s)
    return app


def _paths(context: typer.Context) -> LedgerPaths:
    paths: LedgerPaths = context.obj[0]
    return paths


def _done(context: typer.Context, text: str) -> None:
    if context.obj[1]:
        console.emit_json({"done": text})
    else:
        console.say(text)


def _show(ledger: Ledger, as_json: bool) -> None:
    balances = [ledger.balance(name) for name in ledger.populations()]
    runs = sorted((run.hex(), population) for run, population in ledger.open_runs().items())
    operators = [operator.name for operator in ledger.operators]
    if as_json:
        head = ledger.head
        console.emit_json(
            {
                "head": {"sequence": head.sequence, "digest": head.digest.hex()},
                "populations": [_record(balance) for balance in balances],
                "reservations": [{"run": run, "population": population} for run, population in runs],
                "operators": operators,
            }
        )
        return
    if not balances:
        console.say("no population yet; add one with `fedvlm-node ledger add NAME LIMIT`")
        return
    columns = ("population", "patients", "delta", "limit", "spent", "with reserved", "left", "note")
    console.table("privacy budget, epsilon per patient (add or remove one)", columns, [_row(each) for each in balances])
    for run, population in runs:
        console.say(f"run {run[:16]} reserves for {population}")
    if operators:
        console.say(f"a higher limit takes both {' and '.join(operators)}")


def _row(balance: Balance) -> tuple[str, ...]:
    notes = [UNPROTECTED] if balance.unprotected else []
    notes += [f"{balance.withdrawn} withdrawn"] if balance.withdrawn else []
    return (
        balance.population,
        str(balance.patients),
        f"{balance.delta:g}",
        f"{balance.limit:g}",
        f"{balance.spent:.4f}",
        f"{balance.committed:.4f}",
        f"{balance.remaining:.4f}",
        "; ".join(notes),
    )


def _record(balance: Balance) -> dict[str, object]:
    return {
        "population": balance.population,
        "patients": balance.patients,
        "patients_withdrawn": balance.withdrawn,
        "unit": "patient",
        "adjacency": "add_or_remove",
        "delta": balance.delta,
        "epsilon_limit": balance.limit,
        "epsilon_spent": _number(balance.spent),
        "epsilon_with_reserved": _number(balance.committed),
        "epsilon_left": balance.remaining,
        "unprotected": balance.unprotected,
        "events": to_record(balance.event),
    }


def _number(value: float) -> float | None:
    """JSON has no infinity; null says that no bound holds."""
    return value if math.isfinite(value) else None
