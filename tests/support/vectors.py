"""Known answers: tests/vectors/NAME.json with its source and how its numbers were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors"


def vector(name: str) -> Any:
    """What a file expects."""
    content = json.loads((FOLDER / f"{name}.json").read_text())
    if set(content) != {"source", "generator", "expect"}:
        raise ValueError(f"{name}.json names its source, its generator and what it expects")
    return content["expect"]


def unhex(text: str) -> bytes:
    """Bytes of a hex text in which spaces group."""
    return bytes.fromhex(text.replace(" ", ""))
