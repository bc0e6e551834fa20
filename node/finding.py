"""What one look of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "wrong"]

FEW_DAYS = 30
"""A certificate with fewer days left is warned of."""


@dataclass(frozen=True)
class Finding:
    """One look: what, how it is, in words, and what to do (empty where nothing is)."""

    name: str
    verdict: Verdict
    text: str
    hint: str = ""
