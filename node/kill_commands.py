"""`fedvlm-node pause` and `fedvlm-node withdraw`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError
from node.keystore import open_keystore
from node.pause import KillSwitch

State = Annotated[Path, typer.Option("--state", envvar="FEDVLM_NODE_STATE", help="This hospital's private folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
DEFAULT_STATE = Path("node-state")


def add_kill_switch(app: typer.Typer, now: Callable[[], datetime]) -> None:
    """Put both commands on `app`; the caller names the wall clock."""

    @app.command("pause")
    def pause(
        state: State = DEFAULT_STATE,
        off: Annotated[bool, typer.Option("--off", help="Go on: the service may be started again.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Stop this hospital's service after the step under way; nothing is sent until `pause --off`."""
        node = open_keystore(state).node
        switch = KillSwitch(state)
        changed = switch.resume() if off else switch.pause(now())
        if as_json:
            console.emit_json({"node": node, "paused": not off, "changed": changed})
            return
        said = "no longer paused; start the service again" if off else "paused; a running service ends within a second"
        console.say(f"{node}: {said}" if changed else f"{node}: was {'not paused' if off else 'paused already'}")

    @app.command("withdraw")
    def withdraw(
        state: State = DEFAULT_STATE,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Leave the present run for good. What was released stays charged; what was reserved for later is freed."""
        node = open_keystore(state).node
        if not yes and (as_json or not typer.confirm("Leave the present run for good?")):
            raise PolicyError("NOT_CONFIRMED", "nothing was changed", "repeat when you have decided, or use --yes")
        changed = KillSwitch(state).withdraw(now())
        if as_json:
            console.emit_json({"node": node, "withdrawn": True, "changed": changed})
            return
        console.say(f"{node}: leaves the run within a second, or at the next start of its service")
