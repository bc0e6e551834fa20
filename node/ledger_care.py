"""`fedvlm-node ledger restore | check | withdraw | release`: when something or somebody is gone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import DataError, PolicyError
from fedvlm_secure.policy.private_file import read_file
from fedvlm_secure.types import Entropy
from node.keystore import open_keystore
from node.ledger import Ledger
from node.ledger_file import WallClock
from node.ledger_heads import require_signed_heads
from node.ledger_patients import patient_hashes
from node.ledger_release import release
from node.ledger_restore import known_populations, restore
from node.ledger_testimony import testimony_of
from node.ledger_two_person import Done, Opened

_LONGEST_LIST = 1 << 20


def add_care(app: typer.Typer, opened: Opened, done: Done, entropy: Entropy, wall_s: WallClock) -> None:
    """Put these commands on `app`; `context.obj` is (LedgerPaths, as_json, state folder)."""

    @app.command("restore")
    def restore_ledger(
        context: typer.Context,
        folders: Annotated[
            list[Path] | None, typer.Argument(help="Folders with audit records of the other hospitals, the aggregator.")
        ] = None,
        population: Annotated[
            list[str] | None, typer.Option("--population", help="A population whose name went with the ledger.")
        ] = None,
        roster: Annotated[
            list[Path] | None, typer.Option("--roster", help="An earlier roster.toml that you compared by telephone.")
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ) -> None:
        """Take a lost or older ledger back into use, charged at least what anchor and signed records show."""
        paths, as_json, state = context.obj
        names, known_runs = known_populations(paths)
        said = testimony_of(state, folders or (), sorted(names | set(population or ())), known_runs, roster or ())
        for line in said.in_words():
            console.warn("fedvlm-node", line)
        if not yes and (as_json or not typer.confirm("Restore the ledger with these charges, and leave open runs?")):
            raise PolicyError("NOT_CONFIRMED", "nothing was changed", "repeat when you have decided, or use --yes")
        head = restore(paths, (), entropy, wall_s, said)
        ledger = Ledger(paths, wall_s)
        spent = ", ".join(f"{name} {ledger.balance(name).spent:.4f}" for name in ledger.populations()) or "nothing"
        done(context, f"restored up to entry {head.sequence}; spent: {spent}")

    @app.command("check")
    def check(
        context: typer.Context,
        folders: Annotated[list[Path], typer.Argument(help="Folders with audit records that other parties kept.")],
    ) -> None:
        """Compare the ledger with the heads in this hospital's own signed records, wherever copies were kept."""
        _, _, state = context.obj
        checked = require_signed_heads(opened(context), (*folders, state / "runs"), open_keystore(state))
        done(context, f"the ledger holds what {checked} signed record files say of it")

    @app.command("withdraw")
    def withdraw(
        context: typer.Context,
        population: Annotated[str, typer.Argument(help="The population that these patients belong to.")],
        source: Annotated[
            Path | None, typer.Option("--from", help="File with one patient id a line; standard input without it.")
        ] = None,
        ahead: Annotated[bool, typer.Option("--ahead", help="Also ids that were never in a data set here.")] = False,
    ) -> None:
        """Patients who take back their consent: out of every later round. Never name an id on the command line."""
        ledger = opened(context)
        ids = _patient_ids(source)
        new = ledger.withdraw_patients(population, patient_hashes(ids, ledger.key), ahead=ahead)
        done(
            context,
            f"population {population}: {new} patients withdrawn, {len(ids) - new} were before; they are in no later "
            "round. What was charged stays charged, and what the model learned is not unlearned",
        )

    @app.command("release")
    def release_run(
        context: typer.Context,
        run: Annotated[str, typer.Argument(help="First digits of the run's hash, as `fedvlm-node ledger` shows it.")],
    ) -> None:
        """Free what an ended run reserved and did not spend."""
        _, _, state = context.obj
        closed = release(opened(context), state, run)
        done(context, f"run {closed.hex()[:16]}: its reservation is free again; what it spent stays spent")


def _patient_ids(source: Path | None) -> set[str]:
    """Ids, one a line. From a file or standard input: a shell remembers its command lines."""
    if source is not None:
        raw = read_file(source, missing_hint="one patient id a line")
    else:
        raw = sys.stdin.buffer.read(_LONGEST_LIST)
    try:
        ids = {line.strip() for line in raw.decode("utf-8-sig").splitlines() if line.strip()}
    except UnicodeDecodeError as error:
        raise _no_ids() from error
    if not ids:
        raise _no_ids()
    return ids


def _no_ids() -> DataError:
    return DataError("PATIENT_ID_MISSING", "no patient id was given", "one id a line, UTF-8, in a file or on stdin")
