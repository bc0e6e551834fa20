"""The `fedvlm-node` command: a hospital's keys, its pinned roster, its approvals, and the service."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import IdentityError, PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import read_policy
from fedvlm_secure.policy.private_file import read_file, write_public
from fedvlm_secure.policy.roster import Roster, load_roster, parse_roster
from fedvlm_secure.types import NodeId, node_id
from node import approvals as approved
from node.approval_view import approval_view, usual_config
from node.check_commands import add_checks
from node.keystore import create_keystore, open_keystore
from node.kill_commands import add_kill_switch
from node.ledger_commands import ledger_app
from node.renew_commands import add_renewal

PROGRAM = "fedvlm-node"
app = typer.Typer(
    name=PROGRAM,
    help="A hospital's service: keys, approvals, data and training stay here.",
    cls=console.error_group(PROGRAM),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

State = Annotated[Path, typer.Option("--state", envvar="FEDVLM_NODE_STATE", help="This hospital's private folder.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines; needs --yes where asked.")]
DEFAULT_STATE = Path("node-state")


class SystemEntropy:
    """The operating system's."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SystemClock:
    """Seconds since some start, never going back."""

    def now_s(self) -> float:
        return time.monotonic()


@app.command()
def init(
    node: Annotated[str, typer.Option("--id", help="This hospital's id: a-z, 0-9 and -, at most 64.")],
    state: State = DEFAULT_STATE,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the join file; ID.join without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make this hospital's keys here and write the join file for the consortium. Private keys never leave."""
    keystore = create_keystore(state, _checked_id(node))
    path = out if out is not None else Path(f"{keystore.node}.join")
    request = keystore.join_request()
    write_public(path, request.to_json())
    if as_json:
        console.emit_json({"node": keystore.node, "join": str(path), "fingerprint": request.fingerprint})
        return
    console.say(f"made the keys of {keystore.node} in {state}")
    console.say(f"send {path} to the coordinator and read out this fingerprint: {request.fingerprint}")


@app.command()
def install(
    bundle: Annotated[Path, typer.Argument(help="The ID.cert.pem that `aggregator admit` wrote.")],
    roster: Annotated[Path, typer.Argument(help="The roster.toml that `aggregator roster` wrote.")],
    state: State = DEFAULT_STATE,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Let pinned keys be replaced or removed, after a call.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Check the certificate against this hospital's own key, show the roster's fingerprints, and pin the roster."""
    keystore = open_keystore(state)
    raw = read_file(roster, missing_hint="ask the coordinator for roster.toml")
    certificate = read_file(bundle, missing_hint=f"ask the coordinator for {keystore.node}.cert.pem")
    listed = parse_roster(raw, str(roster))
    if not as_json:
        _show_roster(listed)
    _ask("Did every party confirm its fingerprint by telephone?", yes, as_json)
    change = keystore.install(certificate, raw, datetime.now(UTC), accept_changes=accept_changes)
    if as_json:
        fields = {"node": keystore.node, "fingerprint": listed.fingerprint, "added": list(change.added)}
        console.emit_json({**fields, "removed": list(change.removed), "replaced": list(change.replaced)})
        return
    console.say(f"pinned the roster; new to it: {', '.join(change.added) or 'nobody'}")


@app.command()
def approve(
    policy: Annotated[Path, typer.Argument(help="The policy's YAML file.")],
    state: State = DEFAULT_STATE,
    config: Annotated[
        Path | None, typer.Option("--config", help="This hospital's node.yaml; ./node.yaml where it is of this state.")
    ] = None,
    expected: Annotated[str, typer.Option("--hash", help="Approve only if the policy has this hash.")] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Read the policy in plain words and approve it by its hash, for one run. The node keeps its own copy."""
    source = read_policy(policy)
    digest = policy_hash(source.policy).hex()
    if expected and expected.lower() != digest:
        raise PolicyError(
            "HASH_MISMATCH", f"{policy} has the hash {digest}, not the one given", "get the policy that was agreed on"
        )
    keystore = open_keystore(state)
    nodes = source.policy.cohort.min_nodes
    if keystore.roster_path.exists():
        members = load_roster(keystore.roster_path).members
        nodes = len(members)
        feasibility.check(source.policy, nodes, frozenset(member.node for member in members))
    view = approval_view(source.policy, nodes, usual_config(config, state), lambda: int(time.time()))
    if not as_json:
        for title, lines in view.explanation.paragraphs:
            console.say(title)
            for line in lines:
                console.say(f"  - {line}")
        console.say(f"policy hash {digest}")
    _ask("Approve this policy for one run?", yes, as_json)
    approval = approved.approve(state, source, datetime.now(UTC))
    if as_json:
        fields = {"node": keystore.node, "policy": approval.name, "policy_hash": digest, "approved": True}
        privacy = None if view.projection is None else view.projection.as_json()
        console.emit_json({**fields, "trained_values": view.trained_values, "privacy": privacy})
        return
    console.say(f"approved {approval.name} for one run")


@app.command("approvals")
def list_approvals(state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """List what was approved here, and which approvals a run has used up."""
    open_keystore(state)
    found = approved.approvals(state)
    if as_json:
        rows = [
            {
                "policy": approval.name,
                "policy_hash": approval.policy_hash.hex(),
                "number": approval.number,
                "approved_at": approval.approved_at,
                "used_by": approval.used_by.hex() if approval.used_by is not None else None,
            }
            for approval in found
        ]
        console.emit_json({"approvals": rows})
        return
    console.table(
        "approvals",
        ("policy", "hash", "approved", "state"),
        [
            (
                approval.name,
                approval.policy_hash.hex()[:16],
                approval.approved_at,
                "open" if approval.used_by is None else f"used by run {approval.used_by.hex()[:16]}",
            )
            for approval in found
        ],
    )


@app.command()
def serve(
    config: Annotated[Path, typer.Option("--config", help="This hospital's node.yaml.")],
    as_json: AsJson = False,
) -> None:
    """Run this hospital's service: dial out, take part in approved runs, resume after a crash."""
    from node.service import serve as serve_rounds

    raise typer.Exit(serve_rounds(config, as_json, clock=SystemClock(), entropy=SystemEntropy(), wall_s=time.time))


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="New folder for the adapter.")],
    state: State = DEFAULT_STATE,
    base: Annotated[Path | None, typer.Option("--base", help="This hospital's copy of the base model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the tuned adapter of the last run: a PEFT directory and connector.safetensors. Stop the service first."""
    open_keystore(state)
    from node.export import export_run

    files = [str(path) for path in export_run(state, out, base=base)]
    if as_json:
        console.emit_json({"files": files})
        return
    for name in files:
        console.say(name)


add_renewal(app)
add_kill_switch(app, lambda: datetime.now(UTC))
add_checks(app, SystemClock(), SystemEntropy(), lambda: datetime.now(UTC))
app.add_typer(ledger_app(SystemEntropy(), lambda: int(time.time())), name="ledger")


def _checked_id(text: str) -> NodeId:
    try:
        return node_id(text)
    except ValueError as error:
        raise IdentityError(
            "NODE_ID", str(error), "use lower-case letters, digits and -, such as hospital-a"
        ) from error


def _show_roster(roster: Roster) -> None:
    rows = [("aggregator", roster.aggregator.fingerprint)]
    rows += [(str(member.node), member.fingerprint) for member in roster.members]
    console.table(f"roster of {roster.consortium}", ("party", "fingerprint"), rows)
    console.say(f"roster fingerprint {roster.fingerprint}")


def _ask(question: str, yes: bool, as_json: bool) -> None:
    if not yes and (as_json or not typer.confirm(question)):  # with --json nobody sits there to answer
        raise PolicyError("NOT_CONFIRMED", "nothing was changed", "repeat when you have confirmed it, or use --yes")


if __name__ == "__main__":
    app(prog_name=PROGRAM)
