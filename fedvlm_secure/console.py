"""What a command prints: plain lines, tables on a terminal, one JSON object, and errors in two lines on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedvlm_secure.errors import FedvlmError

if TYPE_CHECKING:
    from typer.core import TyperGroup


def printable(text: str) -> str:
    """The text with every control character shown as `?`, so that no name can move the cursor or fake a line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def say(text: str = "") -> None:
    """One line for a reader, on stdout."""
    sys.stdout.write(printable(text) + "\n")


def warn(program: str, text: str) -> None:
    """One line on stderr: `PROGRAM: warning: ...`."""
    sys.stderr.write(f"{program}: warning: {printable(text)}\n")


def emit_json(fields: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout, ASCII, keys in the order given."""
    sys.stdout.write(json.dumps(fields, allow_nan=False) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: by Rich on a terminal, else lines with tabs between the columns."""
    clean = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *clean):
            say("  ".join(row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(*columns, title=title)
    for row in clean:
        drawn.add_row(*(escape(cell) for cell in row))
    Console().print(drawn)


def report_error(program: str, error: FedvlmError) -> int:
    """Print `PROGRAM: error: CAUSE [CODE]` and, where there is one, `PROGRAM: hint: HINT` on stderr.

    Returns:
        The exit code.
    """
    sys.stderr.write(f"{program}: error: {printable(error.cause)} [{printable(error.code)}]\n")
    if error.hint:
        sys.stderr.write(f"{program}: hint: {printable(error.hint)}\n")
    return error.exit_code


def error_group(program: str) -> type[TyperGroup]:
    """The Typer group class of a command line whose errors are printed by `report_error` and end with its exit code."""
    import typer
    from typer.core import TyperGroup

    class ErrorGroup(TyperGroup):
        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except FedvlmError as error:
                raise typer.Exit(report_error(program, error)) from error

    return ErrorGroup
