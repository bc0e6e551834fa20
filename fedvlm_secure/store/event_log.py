"""One line per event, with fields from a fixed list: what is not on it cannot be logged by accident."""

from __future__ import annotations

import json
import threading
from typing import TextIO

from fedvlm_secure.types import Clock

FIELDS = frozenset(
    {
        "address",
        "attempt",
        "cause",
        "chunks",
        "code",
        "connected",
        "epoch",
        "finished",
        "fingerprint",
        "hint",
        "joining",
        "kind",
        "leaving",
        "node",
        "peer",
        "phase",
        "pid",
        "policy",
        "renewed",
        "round",
        "run",
        "seconds",
        "serial",
        "size_bytes",
        "state",
        "survivors",
        "wait_s",
    }
)
"""Names and sizes only. No update, sum, share, key, question, answer or patient has a field here."""

_MAX_TEXT = 400


class EventLog:
    """Writes events of one party as JSON lines, or as plain lines for a reader.

    Args:
        party: `aggregator`, or a node's id.
        out: where lines go; each is flushed.
        clock: `at_s` counts from the first line.
    """

    def __init__(self, party: str, out: TextIO, clock: Clock, *, json_lines: bool) -> None:
        self._party = party
        self._out = out
        self._clock = clock
        self._json = json_lines
        self._start_s = clock.now_s()
        self._lock = threading.Lock()

    def event(self, name: str, **fields: object) -> None:
        """Write one line.

        Raises:
            ValueError: a field is not on the list, or its value is neither number nor text nor a list of text.
        """
        unknown = set(fields) - FIELDS
        if unknown:
            raise ValueError(f"not on the list of fields that may be logged: {sorted(unknown)}")
        line = {"event": name, "party": self._party, "at_s": round(self._clock.now_s() - self._start_s, 3)}
        line |= {key: _plain(key, value) for key, value in fields.items()}
        with self._lock:
            self._out.write(self._text(line) + "\n")
            self._out.flush()

    def _text(self, line: dict[str, object]) -> str:
        if self._json:
            return json.dumps(line)
        shown = (f"{key}={json.dumps(value)}" for key, value in line.items() if key not in ("event", "party", "at_s"))
        return f"{self._party}: {line['at_s']:>8} s {line['event']} " + " ".join(shown)


def _plain(key: str, value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return value[:_MAX_TEXT]
        case list() | tuple():
            return [_plain(key, item) for item in value[:1024]]
        case _:
            raise ValueError(f"{key}: a {type(value).__name__} is not logged")
