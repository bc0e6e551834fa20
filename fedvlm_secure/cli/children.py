"""One service as a child process: started, followed through its event lines, ended, and its error passed on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import fedvlm_secure
from fedvlm_secure.errors import FedvlmError

END_S = 5.0
"""A child that was asked to end is killed after so many seconds."""

_ERROR = re.compile(r"^[\w-]+: error: (?P<cause>.*?)(?: \[(?P<code>[A-Z][A-Z0-9_]*)\])?$")
_HINT = re.compile(r"^[\w-]+: hint: (?P<hint>.*)$")
_SHOWN_CHARACTERS = 2000
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ChildFailed(FedvlmError):
    """A service of this machine's consortium ended with an error; its own words, its own exit code."""

    def __init__(self, child: str, code: str, cause: str, hint: str, exit_code: int) -> None:
        super().__init__(code, f"{child}: {cause}", hint)
        self.exit_code = exit_code


class Child:
    """A Python module run as a service.

    Args:
        name: for messages.
        arguments: after `python -m`; the module comes first.
        folder: gets NAME.jsonl (event lines) and NAME.err, both appended to over restarts.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.killed = False
        self.pids: list[int] = []
        self._arguments = list(arguments)
        self._out = folder / f"{name}.jsonl"
        self._err = folder / f"{name}.err"
        self._process: subprocess.Popen[bytes] | None = None
        self._read_to = 0

    def start(self) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches it only through `end`.

        `-P` keeps the folder it is started in off the import path.
        """
        self.killed = False
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=child_environment(os.environ),
                start_new_session=True,
            )
        self.pids.append(self._process.pid)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def events(self) -> list[dict[str, object]]:
        """Event lines written since the last call; what is no whole JSON object yet is left for the next."""
        try:
            with self._out.open("rb") as file:
                file.seek(self._read_to)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        if not whole:
            return []
        self._read_to += len(whole) + 1
        return [event for line in whole.split(b"\n") if (event := _event(line)) is not None]

    def kill(self) -> None:
        """SIGKILL: as a power cut."""
        self.killed = True
        self._signal(signal.SIGKILL)
        self.wait()

    def ask_to_end(self) -> None:
        """SIGTERM; `end` waits."""
        self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait for a child that was asked to end, then kill it. Nothing is left running."""
        if self._process is None:
            return
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def wait(self) -> None:
        """Until it is gone."""
        if self._process is not None:
            self._process.wait()

    def failure(self) -> ChildFailed | None:
        """Its own error and hint where it ended with one (and was not killed from here)."""
        status = self.exit_code
        if self.killed or status in (None, 0):
            return None
        return failure_from_lines(self.name, self._last_lines(), status if status and status > 0 else 1)

    def _last_lines(self) -> list[str]:
        try:
            return self._err.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _signal(self, number: int) -> None:
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                self._process.send_signal(number)


def failure_from_lines(name: str, lines: Sequence[str], exit_code: int) -> ChildFailed:
    """The last `PROGRAM: error:` line and the hint after it; else the last line that is there."""
    for at in range(len(lines) - 1, -1, -1):
        found = _ERROR.match(lines[at])
        if found is None:
            continue
        hint = _HINT.match(lines[at + 1]) if at + 1 < len(lines) else None
        cause = found["cause"][:_SHOWN_CHARACTERS]
        return ChildFailed(name, found["code"] or "CHILD_FAILED", cause, hint["hint"] if hint else "", exit_code)
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")
    return ChildFailed(
        name,
        "CHILD_FAILED",
        f"ended with exit code {exit_code}: {last[:_SHOWN_CHARACTERS]}",
        "its whole output is in the folder of the logs (--keep keeps it)",
        exit_code,
    )


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with one thread per library, no network look-ups, and this package importable."""
    package_root = str(Path(fedvlm_secure.__file__).resolve().parents[1])
    paths = [package_root, *filter(None, own.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **own,
        **dict.fromkeys(_ONE_THREAD, "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


def _event(line: bytes) -> dict[str, object] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
