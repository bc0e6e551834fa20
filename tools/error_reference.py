"""Writes docs/errors.md from the source: every stable error code with its blame, cause and hint as they stand there.

python tools/error_reference.py            write the file
python tools/error_reference.py --check    exit 1 if it is out of date
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fedvlm_secure.errors

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "errors.md"
PACKAGES = ("fedvlm_secure", "node", "aggregator")
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
WORD = re.compile(r"[A-Z]{4,}")
"""A code too, where it is the first argument of an error itself."""

HEAD = """# Error codes

Every error is two lines, `PROGRAM: error: CAUSE [CODE]` and `PROGRAM: hint: WHAT TO DO`, and a non-zero exit code.
Codes are stable; texts may improve. `…` stands for a value. This page is made from the source by
`make error-reference`; a test compares.

| error | exit code | who is to blame |
|---|---|---|
{blame}

| code | error | cause | what to do |
|---|---|---|---|
"""
BLAME = {
    "FedvlmError": "see the cause",
    "PolicyError": "a policy, roster, configuration file or option",
    "DataError": "a hospital's rows or images",
    "ModelError": "a base model, or training from it",
    "PeerViolation": "a peer",
    "UnexpectedMessage": "a peer that is out of step",
    "IdentityError": "a key, certificate or signature",
    "StorageError": "a disk",
    "RunAborted": "nobody here: the run ended early",
    "BudgetExhausted": "nobody: a population's budget is used up",
}


@dataclass(frozen=True, order=True)
class Entry:
    code: str
    error: str
    cause: str
    hint: str


def entries() -> list[Entry]:
    """One entry per code and error, the first cause in file order."""
    found: dict[tuple[str, str], Entry] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "generated" not in path.parts:
                for entry in _entries_of(ast.parse(path.read_text(encoding="utf-8"))):
                    found.setdefault((entry.code, entry.error), entry)
    return sorted(found.values())


def _entries_of(tree: ast.Module) -> Iterator[Entry]:
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        for at, value in enumerate(values):
            if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
                continue
            if CODE.fullmatch(value.value) or (name in BLAME and at == 0 and WORD.fullmatch(value.value)):
                texts = [_text(argument) for argument in values[at + 1 :]]
                cause, hint = (*[text for text in texts if text is not None], "", "")[:2]
                error = name if name in BLAME else _maker(tree, name)
                if error and cause:
                    yield Entry(value.value, error, cause, hint)


def _maker(tree: ast.Module, name: str) -> str:
    """The error that a small function or subclass of the same file makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return next((base.id for base in node.bases if isinstance(base, ast.Name) and base.id in BLAME), "")
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return next((n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in BLAME), "")
        if isinstance(node, ast.ClassDef) and name == "__init__":
            return next((base.id for base in node.bases if isinstance(base, ast.Name) and base.id in BLAME), "")
    return ""


def _text(node: ast.expr) -> str | None:
    """A string or f-string with `…` for what is filled in; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "" if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(left=left, right=right):
            return (_text(left) or "") + (_text(right) or "")
        case ast.IfExp(body=body):
            return _text(body)
        case ast.Name():
            return "…"
        case _:
            return None


def render() -> str:
    """The whole page."""
    classes = [
        (name, cls)
        for name, cls in inspect.getmembers(fedvlm_secure.errors, inspect.isclass)
        if issubclass(cls, fedvlm_secure.errors.FedvlmError)
    ]
    blame = "\n".join(f"| {name} | {cls.exit_code} | {BLAME[name]} |" for name, cls in classes)
    rows = "".join(f"| `{e.code}` | {e.error} | {_cell(e.cause)} | {_cell(e.hint)} |\n" for e in entries())
    return HEAD.format(blame=blame) + rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 0 if REFERENCE.read_text(encoding="utf-8") == render() else 1
    REFERENCE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
