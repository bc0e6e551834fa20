"""What a run leaves to be read: its summary, whole at any time, without anything secret."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aggregator.status import RunRecord, read_summaries, run_folder
from fedvlm_secure.store.event_log import EventLog
from tests.support.consortium import ScriptedMachine, SteadyClock

RUN = "ab" * 16


@dataclass
class _Progressing(ScriptedMachine):
    shown: dict[str, object] = field(default_factory=dict)

    def progress(self) -> dict[str, object]:
        return self.shown


def test_each_change_is_logged_and_written_once(tmp_path: Path) -> None:
    output = io.StringIO()
    record = RunRecord(tmp_path, EventLog("aggregator", output, SteadyClock(), json_lines=True))
    machine = _Progressing(shown={"phase": "gather", "run": None, "round": None, "summaries": []})
    record.observe(machine)
    assert read_summaries(tmp_path) == ()
    closed = {"round": 0, "attempt": 1, "survivors": ["a", "b"], "upload_bytes": 80, "step_norm": 1.5}
    machine.shown = {"phase": "upload", "run": RUN, "round": 1, "attempt": 0, "summaries": [closed]}
    for _ in range(3):
        record.observe(machine)
    assert read_summaries(tmp_path) == (machine.shown,)
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["phase", "phase", "round_closed"]
    assert (events[2]["round"], events[2]["survivors"], events[2]["size_bytes"]) == (0, ["a", "b"], 80)


def test_hospital_that_decrypted_to_other_words_is_named_in_the_log(tmp_path: Path) -> None:
    output = io.StringIO()
    record = RunRecord(tmp_path, EventLog("aggregator", output, SteadyClock(), json_lines=True))
    machine = _Progressing(shown={"phase": "certify", "run": RUN, "round": 0, "summaries": []})
    record.observe(machine)
    machine.shown = {**machine.shown, "summaries": [{"round": 0, "decrypted_by": ["a", "b"], "disagreed": ["c"]}]}
    record.observe(machine)
    warnings = [event for line in output.getvalue().splitlines() if (event := json.loads(line))["event"] == "warning"]
    assert [(event["code"], event["node"]) for event in warnings] == [("SUM_DISAGREED", "c")]


def test_a_restarted_service_does_not_tell_of_old_rounds_again(tmp_path: Path) -> None:
    output = io.StringIO()
    record = RunRecord(tmp_path, EventLog("aggregator", output, SteadyClock(), json_lines=True))
    record.observe(_Progressing(shown={"phase": "upload", "run": RUN, "round": 1, "summaries": [{"round": 0}]}))
    assert "round_closed" not in output.getvalue()


@pytest.mark.parametrize("name", ["../x", "", "AB", "a/b", "a" * 65])
def test_a_run_id_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        run_folder(tmp_path, name)
