"""`aggregator status` and `aggregator abort`: look at a run, or end it for everybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from aggregator.abort import AbortRequest
from aggregator.authority import open_authority
from aggregator.status import read_summaries
from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError

Home = Annotated[Path, typer.Option("--home", envvar="FEDVLM_AGGREGATOR_HOME", help="The aggregator's private folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
DEFAULT_HOME = Path("aggregator-home")


def add_run_commands(app: typer.Typer, now: Callable[[], datetime]) -> None:
    """Put both commands on `app`; the caller names the wall clock."""

    @app.command("status")
    def status(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
        """Show where the last run stands: phase, round, who is there, what is closed."""
        open_authority(home)
        summaries = read_summaries(home)
        if as_json:
            console.emit_json({"runs": len(summaries), "last": summaries[-1] if summaries else None})
            return
        if not summaries:
            console.say("no run yet")
            return
        last = summaries[-1]
        closed = last.get("summaries")
        rounds = closed if isinstance(closed, list) else []
        console.say(f"run {last.get('run')}: {last.get('phase')}, {len(rounds)} of {last.get('rounds')} rounds closed")
        for name in ("nodes", "connected", "uploaded"):
            named = last.get(name)
            console.say(f"{name}: {', '.join(named) if isinstance(named, list) and named else 'nobody'}")
        rows = [
            (
                str(int(one["round"]) + 1),
                "no result" if one["void"] else ", ".join(one["survivors"]),
                ", ".join(one.get("dropped", ())) or "nobody",
            )
            for one in rounds
        ]
        if rows:
            console.table("closed rounds", ("round", "took part", "missing"), rows)

    @app.command("abort")
    def abort(
        home: Home = DEFAULT_HOME,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """End the run in progress for every hospital. The last certified model is kept; it cannot be resumed."""
        open_authority(home)
        if not (home / "state").exists():
            raise PolicyError("NO_RUN", f"{home} has no run in progress", "see `aggregator status`")
        if not yes and (as_json or not typer.confirm("End the run for every hospital?")):
            raise PolicyError("NOT_CONFIRMED", "nothing was changed", "repeat when you have decided, or use --yes")
        AbortRequest(home).make(json.dumps({"since": now().isoformat(timespec="seconds")}))
        if as_json:
            console.emit_json({"home": str(home), "aborting": True})
            return
        console.say("the run ends within a second, or at the next `aggregator serve`")
