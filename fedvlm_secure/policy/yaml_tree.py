"""YAML text to a tree of nodes that know their line; nothing is converted and nothing is constructed.

Conversion waits for the declared type of each field (`binding`), because YAML 1.1 alone reads `no` as False, `1e-5`
as text and lets the second of two equal keys win.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from fedvlm_secure.errors import PolicyError

MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 16
_MAX_NODES = 100_000


class _TreeReader(yaml.SafeLoader):
    """Composes nodes only, and refuses whatever lets a small file mean something large or hidden."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(
                event.start_mark.line,
                "anchors and aliases are not allowed",
                "write the value out",
            )
        if getattr(event, "tag", None) is not None:
            raise _Refused(event.start_mark.line, "tags (!...) are not allowed", "remove the tag")
        self._nodes += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise _Refused(
                event.start_mark.line,
                "nested too deeply or too large",
                "no field goes that deep",
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Refused(Exception):
    def __init__(self, line: int, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.line, self.cause, self.hint = line, cause, hint


def line_of(node: yaml.Node) -> int:
    """The node's first line, counted from 1."""
    return int(node.start_mark.line) + 1


def read_bounded(path: Path, noun: str) -> bytes:
    """The bytes of a small text file.

    Raises:
        PolicyError: FILE_UNREADABLE, or FILE_TOO_LARGE beyond 1 MiB.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            "FILE_UNREADABLE",
            f"{path}: cannot read the {noun}: {error.strerror}",
            "check the path and its permissions",
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise PolicyError(
            "FILE_TOO_LARGE",
            f"{path}: the {noun} is larger than {MAX_FILE_BYTES} bytes",
        )
    return raw


def read_tree(raw: bytes, origin: str) -> yaml.MappingNode:
    """Parse one YAML document whose top is a mapping.

    Args:
        raw: the file's bytes, UTF-8.
        origin: what to call the file in errors.

    Raises:
        PolicyError: YAML_SYNTAX with file and line; YAML_REFUSED for anchors, aliases, tags, or excessive nesting.
    """
    try:
        reader = _TreeReader(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PolicyError("YAML_SYNTAX", f"{origin}:{line}: not UTF-8 text", "save the file as UTF-8") from error
    except yaml.YAMLError as error:
        raise PolicyError("YAML_SYNTAX", f"{origin}: contains control characters", "remove them") from error
    try:
        top = reader.get_single_node()
    except _Refused as error:
        raise PolicyError("YAML_REFUSED", f"{origin}:{error.line + 1}: {error.cause}", error.hint) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}" if mark is not None else origin
        raise PolicyError(
            "YAML_SYNTAX",
            f"{where}: not valid YAML: {error.problem or error.context}",
            "look at this line's indentation",
        ) from error
    finally:
        reader.dispose()
    if not isinstance(top, yaml.MappingNode):
        raise PolicyError(
            "YAML_SYNTAX",
            f"{origin}:1: the file must hold `key: value` lines",
            "see policies/fedavg.yaml",
        )
    return top
