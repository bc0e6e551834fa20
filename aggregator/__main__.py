"""`python -m aggregator`."""

from __future__ import annotations

from aggregator.main import app

app(prog_name="aggregator")
