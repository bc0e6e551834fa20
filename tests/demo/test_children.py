"""Child processes: their errors are passed on in their own words, and none outlives its parent's will."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import pytest

from fedvlm_secure.cli import children
from fedvlm_secure.cli.children import Child, child_environment, failure_from_lines


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Child:
    """A child that runs this text as a module."""
    (folder / "acting_child.py").write_text(textwrap.dedent(text), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Child("acting", ["acting_child"], folder)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_error_and_hint_of_a_child_are_passed_on_with_its_code_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = script(
        tmp_path,
        monkeypatch,
        """
        import sys
        print("a warning of some library", file=sys.stderr)
        print("fedvlm-node: error: site.jsonl:7: not a JSON object [JSON_BROKEN]", file=sys.stderr)
        print("fedvlm-node: hint: correct line 7", file=sys.stderr)
        sys.exit(3)
        """,
    )
    child.start()
    child.wait()
    failure = child.failure()
    assert failure is not None
    assert (failure.code, failure.hint, failure.exit_code) == ("JSON_BROKEN", "correct line 7", 3)
    assert failure.cause == "acting: site.jsonl:7: not a JSON object"


def test_crash_without_an_error_line_shows_its_last_words() -> None:
    lines = ["Traceback (most recent call last):", "  File ...", "RuntimeError: out of paper", ""]
    failure = failure_from_lines("coast", lines, 1)
    assert failure.cause == "coast: ended with exit code 1: RuntimeError: out of paper"
    assert failure.code == "CHILD_FAILED"


def test_last_error_counts_and_an_error_may_come_without_code_or_hint() -> None:
    lines = ["aggregator: error: first [A_CODE]", "aggregator: hint: old", "aggregator: error: second"]
    failure = failure_from_lines("aggregator", lines, 8)
    assert (failure.cause, failure.code, failure.hint) == ("aggregator: second", "CHILD_FAILED", "")


def test_child_that_ends_well_or_was_killed_from_here_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = script(tmp_path, monkeypatch, "")
    child.start()
    child.wait()
    assert (child.exit_code, child.failure()) == (0, None)
    sleeper = script(tmp_path, monkeypatch, "import time; time.sleep(60)")
    sleeper.start()
    sleeper.kill()
    assert not alive(sleeper.pids[-1])
    assert sleeper.failure() is None


def test_child_killed_by_somebody_else_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = script(tmp_path, monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    child.start()
    child.wait()
    failure = child.failure()
    assert failure is not None
    assert failure.exit_code == 1


def test_child_that_ignores_the_request_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "END_S", 0.3)
    child = script(
        tmp_path,
        monkeypatch,
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('{"event": "ready"}', flush=True)
        time.sleep(60)
        """,
    )
    child.start()
    until_s = time.monotonic() + 20
    while not child.events() and time.monotonic() < until_s:
        time.sleep(0.02)
    child.ask_to_end()
    child.end()
    assert not child.running
    assert not alive(child.pids[-1])


def test_events_are_read_once_each_and_only_when_whole(tmp_path: Path) -> None:
    child = Child("acting", [], tmp_path)
    out = tmp_path / "acting.jsonl"
    assert child.events() == []
    out.write_text('{"event": "one"}\nno json\n[1]\n{"event": "tw', encoding="utf-8")
    assert child.events() == [{"event": "one"}]
    with out.open("a", encoding="utf-8") as file:
        file.write('o"}\n')
    assert child.events() == [{"event": "two"}]
    assert child.events() == []


def test_child_uses_one_thread_and_asks_no_network() -> None:
    environment = child_environment({"PYTHONPATH": "/elsewhere", "OMP_NUM_THREADS": "64"})
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    first, second = environment["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "fedvlm_secure").is_dir()
    assert second == "/elsewhere"


def test_child_does_not_import_from_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = script(tmp_path, monkeypatch, "import os, sys; sys.exit(7 if os.getcwd() in sys.path else 0)")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    child.start()
    child.wait()
    assert child.exit_code == 0
