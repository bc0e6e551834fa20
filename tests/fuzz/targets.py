"""All fuzz targets by name. `tools/fuzz.py` drives them by coverage; the tests here by random and by kept cases."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.calls import CALLS
from tests.fuzz.decoders import DECODERS, Target
from tests.fuzz.machines import MACHINES
from tests.fuzz.stored_files import STORED

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Target] = {**DECODERS, **STORED, **MACHINES, **CALLS}
