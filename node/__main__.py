"""`python -m node`."""

from __future__ import annotations

from node.main import app

app(prog_name="fedvlm-node")
