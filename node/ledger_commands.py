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
from node.ledger_chain import LedgerPaths, ledger_paths
from node.ledger_file import WallClock

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
        context.obj = (ledger_paths(state, anchor), as_json)
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
    ) -> None:
        """Add a population with its limit."""
        opened(context).add_population(population, delta=delta, epsilon_limit=limit)
        _done(context, f"population {population}: at most epsilon {limit:g} at delta {delta:g}, ever")

    @app.command("limit")
    def set_limit(context: typer.Context, population: Name, limit: Limit) -> None:
        """Change a population's limit. What was spent stays spent."""
        ledger = opened(context)
        before = ledger.balance(population).limit
        ledger.set_limit(population, limit)
        _done(context, f"population {population}: limit {before:g} -> {limit:g}")

    @app.command("merge")
    def merge(context: typer.Context, source: Name, target: Name) -> None:
        """Make one population of two that share patients: charges are added, the lower limit holds."""
        opened(context).merge(source, target)
        _done(context, f"population {source} is now part of {target}")

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
    if as_json:
        head = ledger.head
        rows = [_record(balance) for balance in balances]
        console.emit_json({"head": {"sequence": head.sequence, "digest": head.digest.hex()}, "populations": rows})
        return
    if not balances:
        console.say("no population yet; add one with `fedvlm-node ledger add NAME LIMIT`")
        return
    columns = ("population", "patients", "delta", "limit", "spent", "with reserved", "left", "note")
    console.table("privacy budget, epsilon per patient (add or remove one)", columns, [_row(each) for each in balances])


def _row(balance: Balance) -> tuple[str, ...]:
    return (
        balance.population,
        str(balance.patients),
        f"{balance.delta:g}",
        f"{balance.limit:g}",
        f"{balance.spent:.4f}",
        f"{balance.committed:.4f}",
        f"{balance.remaining:.4f}",
        UNPROTECTED if balance.unprotected else "",
    )


def _record(balance: Balance) -> dict[str, object]:
    return {
        "population": balance.population,
        "patients": balance.patients,
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
