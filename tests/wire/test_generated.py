"""The checked-in code is what the contract generates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (
    "python -m grpc_tools.protoc -Ifedvlm_secure/wire/generated=proto --python_out=. --pyi_out=. proto/fedvlm.proto"
)


def test_generating_again_gives_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    assert COMMAND in (ROOT / "proto/README.md").read_text()
    arguments = [part.replace("_out=.", f"_out={tmp_path}") for part in COMMAND.split()[1:]]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, timeout=60)
    for name in ("fedvlm_pb2.py", "fedvlm_pb2.pyi"):
        fresh = (tmp_path / "fedvlm_secure/wire/generated" / name).read_text()
        assert fresh == (ROOT / "fedvlm_secure/wire/generated" / name).read_text()
