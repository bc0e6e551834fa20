"""`fedvlm-node renew`: new keys beside the old ones, for a roster that will name them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.policy.private_file import write_public
from node.keystore import renew_keystore

State = Annotated[Path, typer.Option("--state", envvar="FEDVLM_NODE_STATE", help="This hospital's private folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
DEFAULT_STATE = Path("node-state")


def add_renewal(app: typer.Typer) -> None:
    """Put the command on `app`."""

    @app.command("renew")
    def renew(
        state: State = DEFAULT_STATE,
        out: Annotated[Path | None, typer.Option("--out", help="Where to write the join file.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Make a new identity and TLS key; the old ones stay in use until a roster that names the new is installed."""
        request = renew_keystore(state)
        path = out if out is not None else Path(f"{request.node}.join")
        write_public(path, request.to_json())
        if as_json:
            console.emit_json({"node": request.node, "join": str(path), "fingerprint": request.fingerprint})
            return
        console.say(f"made new keys of {request.node} in {state}; the old ones stay in use until the roster changes")
        console.say(f"send {path} to the coordinator and read out this fingerprint: {request.fingerprint}")
