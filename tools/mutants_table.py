"""The table of guards: attacks of the threat page, and one way to take each guard out of the source."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "support" / "mutants"


class TableFault(ValueError):
    """The table does not fit the source or itself; the text names the mutant and what is wrong."""


@dataclass(frozen=True)
class Attack:
    """One row of the threat page.

    Attributes:
        number: `A1` to `A25`.
        outside: why no mutant is asked for; empty where one is.
    """

    number: str
    attack: str
    defence: str
    outside: str


@dataclass(frozen=True)
class Mutant:
    """One guard, taken out by an exact replacement in one file.

    Attributes:
        name: unique.
        attacks: numbers of the attacks that the guard stands against.
        guard: the guard in words.
        file: path inside the checkout.
        find: text that stands exactly once in that file.
        replace: what takes its place.
        tests: pytest selections (`path` or `path::function`), at least one of which has to fail.
    """

    name: str
    attacks: tuple[str, ...]
    guard: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The file's source without the guard.

        Raises:
            TableFault: the pattern does not stand there exactly once, or what comes out is no Python.
        """
        path = root / self.file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = source.count(self.find)
        if found != 1:
            raise TableFault(f"{self.name}: the pattern stands {found} times in {self.file}, not once")
        mutated = source.replace(self.find, self.replace)
        try:
            same = ast.dump(ast.parse(source)) == ast.dump(ast.parse(mutated))
        except SyntaxError as error:
            raise TableFault(f"{self.name}: {self.file} is no Python any more: {error.msg}") from error
        if same:
            raise TableFault(f"{self.name}: the replacement changes nothing in {self.file}")
        return mutated


def load_attacks(folder: Path = TABLE) -> tuple[Attack, ...]:
    """The attacks of `attacks.toml`, in order.

    Raises:
        TableFault: a field is missing, or more than is known.
    """
    entries = _entries(folder / "attacks.toml", "attack")
    try:
        return tuple(Attack(**{"outside": "", **entry}) for entry in entries)
    except TypeError as error:
        raise TableFault(f"attacks.toml: {error}") from error


def load_mutants(folder: Path = TABLE) -> tuple[Mutant, ...]:
    """The mutants of every other file in the folder, in order; `each` makes one of every word in it.

    Raises:
        TableFault: a field is missing, or a name stands twice.
    """
    mutants = [
        mutant
        for path in sorted(folder.glob("*.toml"))
        if path.name != "attacks.toml"
        for entry in _entries(path, "mutant")
        for mutant in _mutants(path.name, entry)
    ]
    names = [mutant.name for mutant in mutants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableFault(f"names that stand twice: {', '.join(twice)}")
    return tuple(mutants)


def uncovered(attacks: Iterable[Attack], mutants: Iterable[Mutant]) -> list[str]:
    """Numbers of attacks in scope that no mutant stands for."""
    covered = {number for mutant in mutants for number in mutant.attacks}
    return [attack.number for attack in attacks if not attack.outside and attack.number not in covered]


def _entries(path: Path, kind: str) -> list[dict[str, Any]]:
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TableFault(f"{path.name}: {error}") from error
    entries: list[dict[str, Any]] = read.get(kind, [])
    return entries


def _mutants(file: str, entry: dict[str, Any]) -> list[Mutant]:
    fields = dict(entry)
    each: list[str] | None = fields.pop("each", None)
    try:
        plain = Mutant(attacks=tuple(fields.pop("attacks")), tests=tuple(fields.pop("tests")), **fields)
    except (KeyError, TypeError) as error:
        raise TableFault(f"{file}: {entry.get('name', 'a mutant without a name')}: {error}") from error
    if each is None:
        return [plain]
    return [
        Mutant(
            f"{plain.name}-{word.replace('_', '-')}",
            plain.attacks,
            f"{plain.guard}: {word}",
            plain.file,
            plain.find.replace("{each}", word),
            plain.replace.replace("{each}", word),
            plain.tests,
        )
        for word in each
    ]
