"""`fedvlm-node preflight` and `fedvlm-node doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.node_config import NodeConfig, load_node_config
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Clock, Entropy

Config = Annotated[Path, typer.Option("--config", help="This hospital's node.yaml.")]
PolicyPath = Annotated[
    Path | None, typer.Option("--policy", help="The policy to try; node.yaml's or the last approved one without it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
SOMETHING_WRONG = 1


def add_checks(app: typer.Typer, clock: Clock, entropy: Entropy, now: Callable[[], datetime]) -> None:
    """Put both commands on `app`; the caller names the real clocks and entropy."""

    @app.command("preflight")
    def preflight(config: Config, policy: PolicyPath = None, as_json: AsJson = False) -> None:
        """Check this hospital's data against the policy, count rows and patients, try one local step; sends nothing."""
        from node.preflight import chosen_policy, run_preflight

        node = load_node_config(config)
        found = asdict(run_preflight(chosen_policy(node, policy), node, clock=clock, entropy=entropy))
        if as_json:
            console.emit_json(found)
            return
        for name, value in found.items():
            console.say(f"{name.replace('_', ' ')}: {'-' if value is None else value}")
        console.say("nothing was sent; these numbers stay here")

    @app.command("doctor")
    def doctor(config: Config, policy: PolicyPath = None, as_json: AsJson = False) -> None:
        """Look at clock, keys, machine, the way to the aggregator, data, budget and one step; 1 if one is wrong."""
        from node.doctor import examine

        node = load_node_config(config)
        findings = examine(_policy(node, policy), node, now(), environment=os.environ, entropy=entropy)
        if as_json:
            console.emit_json({"node": node.node, "findings": [asdict(finding) for finding in findings]})
        else:
            for finding in findings:
                console.say(f"{finding.verdict:8}{finding.name}: {finding.text}")
                if finding.hint:
                    console.say(f"{'':8}-> {finding.hint}")
        if any(finding.verdict == "wrong" for finding in findings):
            raise typer.Exit(SOMETHING_WRONG)


def _policy(config: NodeConfig, asked: Path | None) -> Policy | None:
    """The policy to look with; None where none is approved or named yet."""
    from node.preflight import chosen_policy

    try:
        return chosen_policy(config, asked)
    except PolicyError as error:
        if error.code == "NOT_APPROVED":
            return None
        raise
