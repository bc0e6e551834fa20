"""`fedvlm audit verify|report|empirical`: a run's signed records, what was spent and left; trials of a mechanism."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.audit.audit_report import write_audit_report
from fedvlm_secure.audit.folder import AuditedRun, open_run
from fedvlm_secure.audit.record import NO_PROTECTION
from fedvlm_secure.audit.standing import standings
from fedvlm_secure.errors import StorageError

PROGRAM = "fedvlm"
MOST_SHOWN = 20
app = typer.Typer(
    name="audit",
    help="Check a run's signed records offline; report what was spent; try a policy's mechanism.",
    cls=console.error_group(PROGRAM),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="Folder with the audit.jsonl of one or more parties of one run.")]
RosterPath = Annotated[
    Path | None, typer.Option("--roster", help="The pinned roster.toml; the folder's own without it.")
]
Running = Annotated[bool, typer.Option("--running", help="The run still goes on: last words may be missing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]


@app.command()
def verify(run: RunFolder, roster: RosterPath = None, running: Running = False, as_json: AsJson = False) -> None:
    """Check chains and signatures, compute every epsilon again, compare the parties; ends with 7 at any fault."""
    audited = open_run(run, roster, running=running)
    found = audited.findings
    if as_json:
        console.emit_json(
            {
                "run": audited.run,
                "verified": not found,
                "roster": audited.roster.fingerprint,
                "parties": {one.party: one.as_json() for one in standings(audited)},
                "absent": list(audited.absent),
                "findings": [
                    {"party": one.party, "index": one.index, "field": one.field, "cause": one.cause} for one in found
                ],
            }
        )
    else:
        _show(audited)
    _raise_first(audited)


@app.command()
def report(
    run: RunFolder,
    roster: RosterPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; the run's folder without it.")] = None,
    running: Running = False,
    as_json: AsJson = False,
) -> None:
    """Verify, and write audit-report.json, .csv and .html; a fault stands on the page and ends with 7."""
    audited = open_run(run, roster, running=running)
    files = write_audit_report(audited, out if out is not None else run)
    if as_json:
        console.emit_json({"run": audited.run, "verified": not audited.findings, "files": [str(p) for p in files]})
    else:
        for path in files:
            console.say(str(path))
    _raise_first(audited)


@app.command()
def empirical(
    policy: Annotated[Path, typer.Option("--policy", help="The policy whose mechanism is tried.")],
    trials: Annotated[
        int, typer.Option("--trials", min=100, help="Single steps; 40,000 take about a minute on one core.")
    ] = 40_000,
    canaries: Annotated[
        int, typer.Option("--canaries", min=0, help="Also one whole run with so many made-up patients, 12 or more.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for empirical-audit.json: a run's, for its report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try to tell from a policy's noised steps who was there; needs the node's packages. Ends with 1 if that shows
    more than the policy claims. It can refute a claim, never certify it.
    """
    from fedvlm_secure.cli.empirical import audit_policy

    audit_policy(policy, trials=trials, canaries=canaries, out=out, as_json=as_json)


def _show(audited: AuditedRun) -> None:
    for finding in audited.findings[:MOST_SHOWN]:
        console.warn(PROGRAM, str(finding))
    console.say(f"run {audited.run}; roster {audited.roster.fingerprint}")
    for one in standings(audited):
        spent = f"{NO_PROTECTION}; no epsilon" if one.delta is None else _spent(one.epsilon, one.delta)
        purse = "" if one.remaining is None else f"; purse: {one.remaining:.3f} of {one.limit:.3f} left"
        console.say(f"{one.party}: {one.records} records, {one.rounds} rounds, {one.outcome}; {spent}{purse}")
    for name in audited.absent:
        console.say(f"{name}: no records in this folder")
    if not audited.findings:
        console.say("all records hold")


def _spent(epsilon: float | None, delta: float) -> str:
    return "nothing bounds the spending" if epsilon is None else f"epsilon {epsilon:.3f} at delta {delta:g}"


def _raise_first(audited: AuditedRun) -> None:
    if audited.findings:
        count = len(audited.findings)
        raise StorageError(
            "AUDIT_FAULT",
            f"{audited.findings[0]}" + (f" (and {count - 1} more)" if count > 1 else ""),
            "keep the files as they are, and ask the party named for its copy",
        )
