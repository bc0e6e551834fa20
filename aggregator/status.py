"""Where a run stands, in a file that `aggregator status` and the report read. Names and counts only.

HOME/runs/RUN/summary.json   `progress()` of the run, as of the last phase change
"""

from __future__ import annotations

import json
from pathlib import Path

from aggregator.machine import Machine
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.store.private_files import private_folder, write_whole

_SHOWN = ("phase", "round", "attempt")


class RunRecord:
    """Writes a run's summary and logs its steps, whenever they change.

    Args:
        home: the aggregator's folder.
        log: gets `phase` and `round_closed` events.
    """

    def __init__(self, home: Path, log: EventLog) -> None:
        self._home = home
        self._log = log
        self._shown: dict[str, object] = {}
        self._closed: int | None = None

    def observe(self, machine: Machine) -> None:
        """Compare with what was seen last; log and write what is new.

        Raises:
            StorageError: the summary could not be written; the run's own journal is not concerned.
        """
        progress = machine.progress()
        shown = {name: progress.get(name) for name in _SHOWN}
        summaries = progress.get("summaries")
        closed = summaries if isinstance(summaries, list) else []
        if shown == self._shown and len(closed) == self._closed:
            return
        if shown != self._shown:
            connected = progress.get("connected")
            self._log.event("phase", **shown, connected=connected, run=progress.get("run"))
        for summary in closed[self._closed :] if self._closed is not None else []:
            fields = {name: summary[name] for name in ("round", "attempt", "survivors") if name in summary}
            self._log.event("round_closed", **fields, size_bytes=summary.get("upload_bytes"))
            for node in summary.get("disagreed") or ():
                cause = f"{node} decrypted the sum of the round to other words than two other hospitals did"
                self._log.event("warning", code="SUM_DISAGREED", node=node, cause=cause)
        self._shown, self._closed = shown, len(closed)
        self._write(progress)

    def _write(self, progress: dict[str, object]) -> None:
        run = progress.get("run")
        if isinstance(run, str):
            write_whole(summary_path(self._home, run), json.dumps(progress).encode() + b"\n")


def run_folder(home: Path, run: str) -> Path:
    """A run's own folder, made if it is not there. `run` is the run id in hexadecimal."""
    if not 1 <= len(run) <= 64 or any(character not in "0123456789abcdef" for character in run):
        raise ValueError("a run id is hexadecimal")
    return private_folder(private_folder(home / "runs") / run)


def summary_path(home: Path, run: str) -> Path:
    """Where a run's summary stands."""
    return run_folder(home, run) / "summary.json"


def read_summaries(home: Path) -> tuple[dict[str, object], ...]:
    """Every run's last written summary, the most recently written last."""
    paths = sorted((home / "runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime_ns)
    return tuple(json.loads(path.read_bytes()) for path in paths)
