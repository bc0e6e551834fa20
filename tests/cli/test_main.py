"""The `fedvlm` command itself: fast help, forwarding, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fedvlm_secure

ROOT = Path(fedvlm_secure.__file__).parents[1]


def fedvlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedvlm_secure.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def test_help_lists_every_command_without_loading_any_heavy_library() -> None:
    script = (
        "import sys\n"
        "from fedvlm_secure.cli.main import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'grpc', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("demo", "simulate", "policy", "models"))


def test_version_is_the_packages() -> None:
    assert fedvlm("--version").stdout == f"fedvlm {fedvlm_secure.__version__}\n"


def test_options_and_subcommands_reach_the_command_they_belong_to() -> None:
    done = fedvlm("policy", "check", "policies/fedavg.yaml", "--nodes", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert '"nodes": 4' in done.stdout


def test_help_of_a_command_is_its_own() -> None:
    assert "--compare-unprotected" in fedvlm("simulate", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("policy", "check", "policies/nowhere.yaml"), 2, "["),
        (("models", "inspect", "no-such-base"), 4, "[BASE_MISSING]"),
        (("demo", "--nodes", "2", "--out", "never-made"), 2, "[COHORT_TOO_SMALL]"),
        (("simulate", "--nodes", "2"), 2, "[COHORT_TOO_SMALL]"),
        (("simulate", "--nodes", "4", "--drop", "9:coast:upload"), 2, "[DROP_WRONG]"),
    ],
)
def test_an_error_of_a_command_is_two_lines_and_its_exit_code(
    arguments: tuple[str, ...], exit_code: int, code: str
) -> None:
    done = fedvlm(*arguments)
    assert done.returncode == exit_code
    error, hint = done.stderr.splitlines()
    assert error.startswith("fedvlm: error: ")
    assert code in error
    assert hint.startswith("fedvlm: hint: ")
    assert done.stdout == ""
    assert not (ROOT / "never-made").exists()
