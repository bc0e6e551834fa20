"""Binding: a tree of YAML nodes to a typed record, each scalar read by its field's declared type.

Every failure is one PolicyError that names file, line and key path and says what to do. Nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import scalars, suggestions
from fedvlm_secure.policy.declared import Declared, alternatives
from fedvlm_secure.policy.section import Section
from fedvlm_secure.policy.yaml_tree import line_of

AnySection = TypeVar("AnySection", bound=Section)
_SHOWN_CHARACTERS = 60


class Binder:
    """Reads one file.

    Args:
        origin: what to call the file in errors.
        noun: what a key of it is called, such as "policy field".
        folder: where relative `Path` fields start.
        not_yet: (key path, value) to the reason why this version refuses a value that a later one may accept.
        guide: the hint where there is no better one: where the fields are explained.
    """

    def __init__(
        self, origin: str, noun: str, folder: Path, not_yet: Mapping[tuple[str, str], str], guide: str
    ) -> None:
        self._origin = origin
        self._noun = noun
        self._folder = folder
        self._not_yet = not_yet
        self._guide = guide
        self._lines: dict[str, int] = {}
        self._root: type[Section] = Section

    def bind(self, top: yaml.MappingNode, cls: type[AnySection]) -> AnySection:
        """Read the whole file as `cls`.

        Raises:
            PolicyError: FIELD_UNKNOWN, FIELD_DUPLICATE, FIELD_MISSING, FIELD_TYPE, FIELD_VALUE or NOT_IN_THIS_VERSION.
        """
        self._root = cls
        return self._section(top, cls, "")

    def place(self, path: str) -> str:
        """`file:line` of a key path, or of the nearest section above it that the file has."""
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return f"{self._origin}:{self._lines.get(path, 1)}"

    def _fail(self, code: str, path: str, cause: str, hint: str = "", line: int | None = None) -> NoReturn:
        where = self.place(path) if line is None else f"{self._origin}:{line}"
        raise PolicyError(code, f"{where}: {cause}", hint or self._guide)

    def _entries(self, node: yaml.MappingNode, prefix: str) -> dict[str, yaml.Node]:
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            line = line_of(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._fail("FIELD_TYPE", prefix, "a key must be a plain word", line=line)
            key = _shown(key_node.value)
            if key in entries:
                first = self._lines[prefix + key]
                self._fail(
                    "FIELD_DUPLICATE",
                    prefix,
                    f"{prefix}{key} is given twice",
                    f"it stands at line {first} too",
                    line,
                )
            entries[key] = value
            self._lines[prefix + key] = line
        return entries

    def _section(self, node: yaml.MappingNode, cls: type[AnySection], prefix: str) -> AnySection:
        entries = self._entries(node, prefix)
        for key in entries:
            if key not in cls.model_fields:
                hint = suggestions.key_hint(key, prefix, cls.model_fields, self._root)
                self._fail(
                    "FIELD_UNKNOWN",
                    prefix + key,
                    f"{prefix}{key} is not a {self._noun}",
                    hint,
                )
        values = {
            key: self._value(value, alternatives(cls.model_fields[key].annotation), prefix + key)
            for key, value in entries.items()
        }
        return self._build(cls, values, prefix)

    def _build(self, cls: type[AnySection], values: dict[str, object], prefix: str) -> AnySection:
        try:
            return cls(**values)
        except ValidationError as error:
            self._invalid(error.errors(include_url=False)[0], prefix)

    def _invalid(self, details: ErrorDetails, prefix: str) -> NoReturn:
        context = details.get("ctx", {})
        field = str(context.get("field") or (details["loc"][0] if details["loc"] else ""))
        path = prefix + field
        if details["type"] == "missing":
            self._fail(
                "FIELD_MISSING",
                prefix.rstrip("."),
                f"{path} is missing",
                f"add a line `{field}: ...`",
            )
        if details["type"] == "contradiction":
            self._fail(
                "FIELD_VALUE",
                path,
                f"{path} {context['message']}",
                str(context["hint"]),
            )
        message = details["msg"].replace("Input should be", "must be").replace("String should", "must")
        self._fail("FIELD_VALUE", path, f"{path}: {message}")

    def _value(self, node: yaml.Node, declared: Declared, path: str) -> object:
        if isinstance(node, yaml.MappingNode):
            if declared.sections:
                return self._section(node, self._chosen(node, declared.sections, path), path + ".")
            if declared.values is not None:
                entries = self._entries(node, path + ".")
                value_type = alternatives(declared.values)
                return {key: self._value(value, value_type, f"{path}.{key}") for key, value in entries.items()}
            self._fail(
                "FIELD_TYPE",
                path,
                f"{path} must be {_expected(declared)}, got a section",
            )
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, declared, path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, declared, path)
        raise TypeError(f"no such YAML node: {type(node).__name__}")

    def _sequence(self, node: yaml.SequenceNode, declared: Declared, path: str) -> object:
        short = next((cls for cls in declared.sections if cls.SHORTHAND), None)
        if declared.items is None and short is None:
            self._fail("FIELD_TYPE", path, f"{path} must be {_expected(declared)}, got a list")
        if declared.items is None and short is not None:
            items = alternatives(short.model_fields[short.SHORTHAND].annotation).items
        else:
            items = declared.items
        item_type = alternatives(items)
        values = []
        for index, item in enumerate(node.value):
            item_path = f"{path}[{index}]"
            self._lines[item_path] = line_of(item)
            values.append(self._value(item, item_type, item_path))
        if declared.items is None and short is not None:
            return self._build(short, {short.SHORTHAND: tuple(values)}, path + ".")
        return tuple(values)

    def _scalar(self, node: yaml.ScalarNode, declared: Declared, path: str) -> object:
        for kind in declared.scalars:
            try:
                return scalars.read_scalar(node, kind, self._folder)
            except scalars.Unreadable:
                continue
        return self._unreadable(node, declared, path)

    def _unreadable(self, node: yaml.ScalarNode, declared: Declared, path: str) -> NoReturn:
        if reason := self._not_yet.get((path, node.value)):
            cause = f"{path}: {_shown(node.value)} is not in this version"
            self._fail("NOT_IN_THIS_VERSION", path, cause, reason)
        choices = [str(choice) for kind in declared.scalars for choice in get_args(kind)]
        got = "nothing" if scalars.is_null(node) else repr(_shown(node.value))
        quoted = " (in quotes)" if node.style in ("'", '"') and str not in declared.scalars else ""
        hint = suggestions.value_hint(node.value, choices)
        self._fail("FIELD_TYPE", path, f"{path} must be {_expected(declared)}, got {got}{quoted}", hint)

    def _chosen(self, node: yaml.MappingNode, candidates: tuple[type[Section], ...], path: str) -> type[Section]:
        """The one section among the declared ones that this mapping is: by its tag, else by the keys it has."""
        entries = self._entries(node, path + ".")
        tag = candidates[0].TAG
        if tag and tag in entries:
            found = {_tag_value(cls): cls for cls in candidates}
            kinds = tuple(get_args(cls.model_fields[tag].annotation) for cls in candidates)
            choices = tuple(choice for kind in kinds for choice in kind)
            declared = Declared((), (_literal(choices),))
            return found[str(self._value(entries[tag], declared, f"{path}.{tag}"))]
        if tag or len(candidates) == 1:
            return candidates[0]
        matching = [cls for cls in candidates if any(key in cls.model_fields for key in entries)]
        if len(matching) > 1:
            names = " and ".join(f"{path}.{key}" for key in entries)
            self._fail("FIELD_VALUE", path, f"{names} exclude each other", "keep one of them")
        if not matching:
            known = [key for cls in candidates for key in cls.model_fields]
            if not entries:
                self._fail("FIELD_MISSING", path, f"{path} is empty", f"give one of {', '.join(known)}")
            key = next(iter(entries))
            hint = suggestions.key_hint(key, path + ".", known, self._root)
            self._fail(
                "FIELD_UNKNOWN",
                f"{path}.{key}",
                f"{path}.{key} is not a {self._noun}",
                hint,
            )
        return matching[0]


def _tag_value(cls: type[Section]) -> str:
    return str(get_args(cls.model_fields[cls.TAG].annotation)[0])


def _literal(choices: tuple[object, ...]) -> Any:
    return Literal[choices]


def _expected(declared: Declared) -> str:
    kinds = [scalars.expectation(kind) for kind in declared.scalars]
    if declared.items is not None or any(cls.SHORTHAND for cls in declared.sections):
        kinds.append("a list")
    if declared.sections or declared.values is not None:
        keys = [key for cls in declared.sections for key in cls.model_fields]
        kinds.append(f"a section ({', '.join(keys)})" if keys else "a section")
    return " or ".join(kinds)


def _shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= _SHOWN_CHARACTERS else printable[:_SHOWN_CHARACTERS] + "..."
