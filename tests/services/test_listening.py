"""Where the aggregator listens, and what stands in its way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from tests.support.consortium import ScriptedMachine, make_consortium, serving

ROOT = Path(__file__).parents[2]


def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path, "hospital-a")
    with serving(consortium, tmp_path / "a", ScriptedMachine()) as first:
        with (
            pytest.raises(PolicyError) as caught,
            serving(consortium, tmp_path / "b", ScriptedMachine(), listen=first.address),
        ):
            raise AssertionError("two servers share a port")
        assert caught.value.code == "PORT_TAKEN" and first.address in caught.value.cause and caught.value.hint
    with serving(consortium, tmp_path / "c", ScriptedMachine(), listen=first.address) as again:
        assert again.address == first.address, "the port is free again"


@pytest.mark.parametrize("listen", ["7443", "localhost:", "localhost:x", "127.0.0.1:70000", "192.0.2.1:0", ":1"])
def test_a_wrong_address_is_one_clear_error(tmp_path: Path, listen: str) -> None:
    consortium = make_consortium(tmp_path, "hospital-a")
    with pytest.raises(PolicyError) as caught, serving(consortium, tmp_path, ScriptedMachine(), listen=listen):
        raise AssertionError("listening there")
    assert caught.value.code == "LISTEN_ADDRESS"


def test_the_aggregator_never_loads_a_model_library() -> None:
    script = (
        "import sys, aggregator.service, aggregator.main\n"
        "print([name for name in sys.modules if name.split('.')[0] in\n"
        "       ('torch', 'transformers', 'peft', 'opacus', 'datasets', 'node')\n"
        "       or name.startswith(('fedvlm_secure.vlm', 'fedvlm_secure.train'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
