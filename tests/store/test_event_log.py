"""Event lines: nothing outside the list of fields, nothing that could forge a line."""

from __future__ import annotations

import io
import json

import pytest

from fedvlm_secure.store.event_log import EventLog


class _Ticking:
    def __init__(self) -> None:
        self._now_s = 100.0

    def now_s(self) -> float:
        self._now_s += 1.0
        return self._now_s


def test_a_field_outside_the_list_or_bytes_are_our_error() -> None:
    out = io.StringIO()
    log = EventLog("aggregator", out, _Ticking(), json_lines=True)
    with pytest.raises(ValueError):
        log.event("closed", update="1 2 3")
    with pytest.raises(ValueError):
        log.event("closed", cause=b"bytes")
    assert out.getvalue() == ""


@pytest.mark.parametrize("json_lines", [True, False])
def test_text_of_a_peer_stays_within_its_line(json_lines: bool) -> None:
    out = io.StringIO()
    log = EventLog("aggregator", out, _Ticking(), json_lines=json_lines)
    log.event("refused", cause='x"}\n{"event":"finished"}\x1b[2J' + "y" * 10_000, node="a")
    lines = out.getvalue().split("\n")
    assert len(lines) == 2 and lines[1] == "" and "\x1b" not in lines[0] and len(lines[0]) < 700
    if json_lines:
        assert json.loads(lines[0])["event"] == "refused"
        assert json.loads(lines[0])["at_s"] == 1.0
