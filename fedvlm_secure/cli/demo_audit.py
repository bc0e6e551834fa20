"""The audit of a demo: every party's signed records in one folder, verified, with the report of what was spent."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedvlm_secure.audit.audit_report import write_audit_report
from fedvlm_secure.audit.chain import FILE_NAME
from fedvlm_secure.audit.folder import ROSTER_NAME, AuditedRun, open_run
from fedvlm_secure.audit.standing import rounds_of, standings
from fedvlm_secure.errors import StorageError

if TYPE_CHECKING:
    from fedvlm_secure.cli.consortium import Consortium

FOLDER = "audit"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class DemoAudit:
    """A run whose records all hold.

    Args:
        folder: what `fedvlm audit verify` takes.
        report: the page.
    """

    folder: Path
    report: Path
    audited: AuditedRun

    def as_json(self) -> dict[str, object]:
        """The field `audit` of the JSON line."""
        records = sum(len(chain) for chain in self.audited.chains.values())
        return {"verified": True, "records": records, "report": str(self.report)}

    def epsilon_json(self) -> dict[str, object]:
        """Per hospital: epsilon of the run after each round, limit and rest of its budget; None without a mechanism."""
        return {
            one.party: {
                "rounds": [
                    None if closed.spending is None else closed.spending.epsilon_run
                    for closed in rounds_of(self.audited.chains[one.party])
                ],
                "limit": one.limit,
                "remaining": one.remaining,
            }
            for one in standings(self.audited)
            if one.party != "aggregator"
        }


def audit_demo(consortium: Consortium, run: str, out: Path) -> DemoAudit:
    """Copy every party's records of a run to OUT/audit, check them as an auditor would, write the report into OUT.

    Raises:
        StorageError: AUDIT_FAULT with the first fault, AUDIT_ABSENT, AUDIT_COPY, or as `open_run`.
    """
    folder = out / FOLDER
    homes = {"aggregator": consortium.home, **{str(node): one.state for node, one in consortium.members.items()}}
    try:
        for party, home in homes.items():
            (folder / party).mkdir(parents=True)
            shutil.copyfile(home / "runs" / run / FILE_NAME, folder / party / FILE_NAME)
            if (home / _METRICS).is_file():
                shutil.copyfile(home / _METRICS, folder / party / _METRICS)
        shutil.copyfile(consortium.folder / "exchange" / ROSTER_NAME, folder / ROSTER_NAME)
    except OSError as error:
        raise StorageError(
            "AUDIT_COPY", f"{folder}: {error.strerror or 'the records cannot be copied'}", "name another --out"
        ) from error
    audited = open_run(folder, None)
    report = next(path for path in write_audit_report(audited, out) if path.suffix == ".html")
    if audited.findings:
        raise StorageError("AUDIT_FAULT", str(audited.findings[0]), "the files are kept as they are; see the report")
    if audited.absent:
        raise StorageError("AUDIT_ABSENT", f"no records of {', '.join(audited.absent)}", "run the demo again")
    return DemoAudit(folder, report, audited)
