"""`fedvlm policy check|explain`: what a policy file means, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.explain import explain as explain_policy
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.projection import Projection, project

app = typer.Typer(
    name="policy",
    help="Validate a policy and say what it means.",
    cls=console.error_group("fedvlm"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

PolicyPath = Annotated[Path, typer.Argument(help="The policy's YAML file.")]
Nodes = Annotated[int | None, typer.Option("--nodes", min=1, help="Cohort size; the policy's smallest without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]


@app.command()
def check(policy_path: PolicyPath, nodes: Nodes = None, as_json: AsJson = False) -> None:
    """Validate a policy, check that it can be carried out, and print its hash."""
    policy = load_policy(policy_path)
    feasible = feasibility.check(policy, nodes if nodes is not None else policy.cohort.min_nodes)
    terms = feasible.terms
    fields: dict[str, object] = {
        "policy": policy.name,
        "policy_hash": policy_hash(policy).hex(),
        "nodes": terms.n,
        "colluding": terms.c,
        "threshold": terms.t,
        "min_survivors": terms.min_survivors,
        "lanes": feasible.lanes.per_word,
        "protection": policy.protection.method,
    }
    if not isinstance(policy.privacy, Distributed):  # there the scale is that of the clip, and needs the model's size
        fields["scale_bits"] = feasible.scale_bits
    if policy.protection.method == "none":
        console.warn("fedvlm", "UNPROTECTED: the aggregator sees every hospital's update in clear")
    projection = project(policy)
    if projection is not None:
        fields["privacy"] = projection.as_json()
        for warning in projection.warnings:
            console.warn("fedvlm", warning)
    if terms.warning:
        console.warn("fedvlm", f"{terms.n} hospitals, colluding {terms.c}: {terms.warning}")
    if as_json:
        console.emit_json(fields)
        return
    for name, value in (fields if projection is None else fields | _shown(projection)).items():
        console.say(f"{name}: {value}")


def _shown(projection: Projection) -> dict[str, object]:
    rounds = ", ".join(f"{cost:.2f}" for _, cost in projection.trajectory)
    return {"privacy": f"epsilon {rounds} by round at delta {projection.delta:g}, for one patient at one hospital"}


@app.command()
def explain(
    policy_path: PolicyPath,
    nodes: Nodes = None,
    coordinates: Annotated[
        int | None, typer.Option("--coordinates", min=1, help="Trained values, from `fedvlm models inspect`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say in plain words what leaves a hospital, who sees what, and what is not protected."""
    policy = load_policy(policy_path)
    explanation = explain_policy(policy, nodes if nodes is not None else policy.cohort.min_nodes, coordinates)
    digest = policy_hash(policy).hex()
    if as_json:
        paragraphs = {title: list(lines) for title, lines in explanation.paragraphs}
        console.emit_json({"policy": policy.name, "policy_hash": digest, "explanation": paragraphs})
        return
    for title, lines in explanation.paragraphs:
        console.say(title)
        for line in lines:
            console.say(f"  - {line}")
    console.say(f"policy hash {digest}")
