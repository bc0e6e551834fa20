"""The `fedvlm` command: each subcommand is a module that is imported only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated

import typer

import fedvlm_secure
from fedvlm_secure import console

PROGRAM = "fedvlm"
_COMMANDS = {
    "demo": "Three or more hospitals and an aggregator as real processes on this machine; ends with a report.",
    "simulate": "The same machines in one process, with any drop-outs; can compare with an unprotected run.",
    "policy": "Validate a policy and say what it means.",
    "audit": "Check a run's signed records offline; report what was spent; try a policy's mechanism.",
    "models": "Small base models from configs; what would be trained in a model.",
}
"""Name, which is also the module's, and its line of help."""

app = typer.Typer(
    name=PROGRAM,
    help="Hospitals tune one vision-language model together and nobody sees an update.",
    cls=console.error_group(PROGRAM),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.say(f"{PROGRAM} {fedvlm_secure.__version__}")
        raise typer.Exit()


@app.callback()
def fedvlm(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Hospitals tune one vision-language model together and nobody sees an update."""


def _forward(name: str) -> Callable[[typer.Context], None]:
    """A command that hands its arguments to the module's own Typer app, so that `--help` here stays fast."""

    def run(ctx: typer.Context) -> None:
        module = importlib.import_module(f"fedvlm_secure.cli.{name}")
        command = typer.main.get_command(module.app)
        with command.make_context(name, list(ctx.args), parent=ctx.parent) as inner:
            command.invoke(inner)

    return run


for _name, _help in _COMMANDS.items():
    app.command(
        _name,
        help=_help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    )(_forward(_name))


if __name__ == "__main__":
    app(prog_name=PROGRAM)
