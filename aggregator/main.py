"""The `aggregator` command: consortium authority, admission, roster, and the service."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from aggregator import admission
from aggregator.authority import create_authority, open_authority
from aggregator.run_commands import add_run_commands
from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import join
from fedvlm_secure.policy.exposure import check_exposure
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.private_file import read_file, write_public
from fedvlm_secure.policy.roster import format_roster

PROGRAM = "aggregator"
app = typer.Typer(
    name=PROGRAM,
    help="The coordinator's service: it relays, adds and publishes.",
    cls=console.error_group(PROGRAM),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Home = Annotated[Path, typer.Option("--home", envvar="FEDVLM_AGGREGATOR_HOME", help="The aggregator's private folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
DEFAULT_HOME = Path("aggregator-home")


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
    home: Home = DEFAULT_HOME,
    consortium: Annotated[str, typer.Option("--consortium", help="The consortium's name, for the roster.")] = "",
    host: Annotated[
        list[str] | None, typer.Option("--host", help="A name or address that hospitals dial; may be repeated.")
    ] = None,
    address: Annotated[str, typer.Option("--address", help="HOST:PORT to write into the roster.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the consortium's CA, server certificate and aggregator identity; again: renew the server certificate."""
    exists = (home / "authority" / "consortium.json").exists()
    name = consortium if consortium or exists else "consortium"
    authority, fresh = create_authority(home, consortium=name, hosts=host or [], address=address, now=datetime.now(UTC))
    fingerprint = authority.keys.fingerprint
    expires = authority.server.not_valid_after_utc.date().isoformat()
    if as_json:
        fields = {"consortium": authority.consortium, "fresh": fresh, "fingerprint": fingerprint, "expires": expires}
        console.emit_json({**fields, "home": str(home)})
        return
    console.say(f"{'made' if fresh else 'kept'} the authority of {authority.consortium} in {home}")
    console.say(f"aggregator fingerprint {fingerprint}")
    console.say(f"server certificate valid until {expires}")


@app.command()
def admit(
    request: Annotated[list[Path], typer.Argument(help="NODE.join files from `fedvlm-node init`.")],
    home: Home = DEFAULT_HOME,
    replace: Annotated[
        bool, typer.Option("--replace", help="The hospital lost its keys: take these in their place, after a call.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Admit hospitals, or their renewed keys; each gets a NODE.cert.pem to be handed back. No other is touched."""
    authority = open_authority(home)
    rows = []
    for path in request:
        asked = join.parse(read_file(path, missing_hint="name the .join file that the hospital sent"), str(path))
        done = admission.admit(authority, asked, datetime.now(UTC), replace=replace)
        rows.append(
            {
                "node": done.member.node,
                "fingerprint": done.member.fingerprint,
                "serial": f"{done.certificate.serial_number:x}",
                "bundle": str(done.bundle),
                "fresh": done.fresh,
            }
        )
    if as_json:
        console.emit_json({"admitted": rows})
        return
    for row in rows:
        console.say(f"{row['node']}: fingerprint {row['fingerprint']}; hand back {row['bundle']}")
    console.say("compare each fingerprint with the hospital by telephone, then write the roster: aggregator roster")


@app.command()
def remove(
    node: Annotated[str, typer.Argument(help="The id of the hospital that leaves.")],
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a hospital off the roster, from the next epoch on. A run in progress goes on with it until then."""
    authority = open_authority(home)
    member = admission.roster(authority).member(node)
    if not yes and (as_json or not typer.confirm(f"Take {member.node} off the roster?")):
        raise PolicyError("NOT_CONFIRMED", "nothing was changed", "repeat when you have decided, or use --yes")
    removed = admission.remove(authority, member.node)
    if as_json:
        console.emit_json({"removed": removed.node, "fingerprint": removed.fingerprint})
        return
    console.say(f"{removed.node} is off the roster; write it anew and have it pinned: aggregator roster")


@app.command()
def roster(
    home: Home = DEFAULT_HOME,
    out: Annotated[Path, typer.Option("--out", help="Where to write the roster.")] = Path("roster.toml"),
    as_json: AsJson = False,
) -> None:
    """Write roster.toml, which every party pins, and print its fingerprints."""
    listed = admission.roster(open_authority(home))
    write_public(out, format_roster(listed))
    if as_json:
        members = [{"node": member.node, "fingerprint": member.fingerprint} for member in listed.members]
        fields = {"roster": str(out), "consortium": listed.consortium, "fingerprint": listed.fingerprint}
        console.emit_json({**fields, "aggregator": listed.aggregator.fingerprint, "members": members})
        return
    rows = [("aggregator", listed.aggregator.fingerprint)]
    rows += [(str(member.node), member.fingerprint) for member in listed.members]
    console.table(f"roster of {listed.consortium}", ("party", "fingerprint"), rows)
    console.say(f"wrote {out}; roster fingerprint {listed.fingerprint}")


@app.command()
def serve(
    policy: Annotated[Path, typer.Option("--policy", help="The policy to run.")],
    home: Home = DEFAULT_HOME,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to listen on.")] = "127.0.0.1:7443",
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Go on with other members: gather everybody admitted by now. Give once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a policy with the hospitals of the roster; resumes after a crash."""
    checked = load_policy(policy)
    check_exposure(checked, listen)
    if checked.protection.method == "none":
        console.warn(PROGRAM, "UNPROTECTED: every hospital's update arrives here in clear")
    from aggregator.service import serve as serve_rounds

    clock, entropy = SystemClock(), SystemEntropy()
    code = serve_rounds(
        policy, home, listen, as_json, clock=clock, entropy=entropy, wall_s=time.time, new_epoch=new_epoch
    )
    raise typer.Exit(code)


add_run_commands(app, lambda: datetime.now(UTC))

if __name__ == "__main__":
    app(prog_name=PROGRAM)
