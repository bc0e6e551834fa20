"""Roster: the consortium's members and their keys, exchanged out of band and pinned by every party."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvlm_secure import canonical
from fedvlm_secure.errors import FedvlmError, IdentityError, PolicyError
from fedvlm_secure.policy import identity, suggestions
from fedvlm_secure.policy.join import member_digest
from fedvlm_secure.policy.yaml_tree import read_bounded
from fedvlm_secure.types import DIGEST_BYTES, Digest, NodeId, node_id

MAX_NODES = 1024
_MOST_DOTS = 256


@dataclass(frozen=True)
class AggregatorKeys:
    """The aggregator's Ed25519 identity (32 bytes), TLS key pin, and where it listens (`host:port`, may be empty)."""

    identity: bytes
    spki_sha256: Digest
    address: str = ""

    @property
    def fingerprint(self) -> str:
        return identity.fingerprint(canonical.digest("roster-aggregator", self.identity, self.spki_sha256))


@dataclass(frozen=True)
class Member:
    """One hospital: Ed25519 identity (32 bytes) and TLS key pin."""

    node: NodeId
    identity: bytes
    spki_sha256: Digest

    @property
    def fingerprint(self) -> str:
        return identity.fingerprint(member_digest(self.node, self.identity, self.spki_sha256))


@dataclass(frozen=True)
class Roster:
    """The closed list of who may take part, members ordered by id.

    Raises:
        ValueError: members out of order, or an id, identity or TLS key that occurs twice.
    """

    consortium: str
    aggregator: AggregatorKeys
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        ids = [member.node for member in self.members]
        if ids != sorted(ids):
            raise ValueError("members are ordered by id")
        _distinct("id", ids)
        _distinct("identity", [self.aggregator.identity, *(member.identity for member in self.members)])
        _distinct("TLS key", [self.aggregator.spki_sha256, *(member.spki_sha256 for member in self.members)])

    @property
    def node_ids(self) -> tuple[NodeId, ...]:
        return tuple(member.node for member in self.members)

    @property
    def digest(self) -> Digest:
        """Over names and keys; not over the aggregator's address, which is no ground of trust."""
        return canonical.digest(
            "roster",
            self.consortium,
            [self.aggregator.identity, self.aggregator.spki_sha256],
            [[member.node, member.identity, member.spki_sha256] for member in self.members],
        )

    @property
    def fingerprint(self) -> str:
        return identity.fingerprint(self.digest)

    def member(self, node: str) -> Member:
        """The member of that id.

        Raises:
            IdentityError: NOT_IN_ROSTER.
        """
        for member in self.members:
            if member.node == node:
                return member
        raise IdentityError("NOT_IN_ROSTER", f"{node[:64]!r} is not in the roster", "admit it and pin the new roster")


def _distinct(what: str, values: list[Any]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"an {what} occurs twice" if what == "identity" else f"a {what} occurs twice")


@dataclass(frozen=True)
class RosterChange:
    """What a new roster makes of a pinned one. Additions are ordinary; replaced or removed keys need a reason."""

    added: tuple[NodeId, ...]
    removed: tuple[NodeId, ...]
    replaced: tuple[str, ...]

    @property
    def only_adds(self) -> bool:
        return not self.removed and not self.replaced


def compare(pinned: Roster, new: Roster) -> RosterChange:
    """Compare by id; the aggregator's keys and the consortium's name count as replaced under those words."""
    old = {member.node: member for member in pinned.members}
    now = {member.node: member for member in new.members}
    replaced = [str(node) for node in old if node in now and old[node] != now[node]]
    if pinned.aggregator.fingerprint != new.aggregator.fingerprint:
        replaced.append("the aggregator")
    if pinned.consortium != new.consortium:
        replaced.append("the consortium's name")
    added = tuple(node for node in now if node not in old)
    return RosterChange(added, tuple(node for node in old if node not in now), tuple(replaced))


def load_roster(path: Path) -> Roster:
    """Read roster.toml.

    Raises:
        PolicyError: ROSTER_INVALID with the file and the entry at fault.
    """
    return parse_roster(read_bounded(path, "roster"), str(path))


def parse_roster(raw: bytes, origin: str) -> Roster:
    """As `load_roster`, from the file's bytes."""
    try:
        if any(line.count(b".") > _MOST_DOTS for line in raw.splitlines()):  # tomllib takes minutes for a long a.a.a...
            raise ValueError(f"a line holds more than {_MOST_DOTS} dots")
        table = tomllib.loads(raw.decode("utf-8"))
        _only(table, {"version", "consortium", "aggregator", "nodes"}, "")
        if table["version"] != 1 or isinstance(table["version"], bool):
            raise ValueError("version must be 1")
        consortium = _text(table, "consortium", "")
        aggregator = _aggregator(_table(table["aggregator"], "aggregator"))
        nodes = table.get("nodes", [])
        if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
            raise ValueError(f"nodes must be at most {MAX_NODES} [[nodes]] tables")
        members = [_member(_table(entry, f"nodes[{at}]"), f"nodes[{at}]") for at, entry in enumerate(nodes)]
        return Roster(consortium, aggregator, tuple(sorted(members, key=lambda member: member.node)))
    except KeyError as error:
        raise _invalid(origin, f"{error.args[0]} is missing") from error
    except FedvlmError as error:
        raise _invalid(origin, error.cause) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise _invalid(origin, str(error)) from error


def format_roster(roster: Roster) -> bytes:
    """The one text of a roster, with every fingerprint as a comment; `parse_roster` reads it back."""
    lines = [
        "# Pinned by every party. Compare the fingerprints with each hospital by telephone before you use it.",
        f"# roster: {roster.fingerprint}",
        "version = 1",
        f"consortium = {_quote(roster.consortium)}",
        "",
        "[aggregator]",
        f"# {roster.aggregator.fingerprint}",
        f"identity = {_quote(identity.encode_identity(roster.aggregator.identity))}",
        f"spki_sha256 = {_quote(roster.aggregator.spki_sha256.hex())}",
    ]
    if roster.aggregator.address:
        lines.append(f"address = {_quote(roster.aggregator.address)}")
    for member in roster.members:
        lines += [
            "",
            "[[nodes]]",
            f"# {member.fingerprint}",
            f"id = {_quote(member.node)}",
            f"identity = {_quote(identity.encode_identity(member.identity))}",
            f"spki_sha256 = {_quote(member.spki_sha256.hex())}",
        ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _aggregator(table: Mapping[str, Any]) -> AggregatorKeys:
    _only(table, {"identity", "spki_sha256", "address"}, "aggregator.")
    address = _text(table, "address", "aggregator.") if "address" in table else ""
    return AggregatorKeys(_identity(table, "aggregator."), _spki(table, "aggregator."), address)


def _member(table: Mapping[str, Any], prefix: str) -> Member:
    _only(table, {"id", "identity", "spki_sha256"}, prefix + ".")
    return Member(node_id(_text(table, "id", prefix + ".")), _identity(table, prefix + "."), _spki(table, prefix + "."))


def _identity(table: Mapping[str, Any], prefix: str) -> bytes:
    try:
        return identity.decode_identity(_text(table, "identity", prefix))
    except IdentityError as error:
        raise ValueError(f"{prefix}identity: {error.cause}") from error


def _spki(table: Mapping[str, Any], prefix: str) -> Digest:
    text = _text(table, "spki_sha256", prefix)
    if len(text) != 2 * DIGEST_BYTES or any(character not in "0123456789abcdef" for character in text):
        raise ValueError(f"{prefix}spki_sha256 must be {2 * DIGEST_BYTES} lower-case hex digits")
    return Digest(bytes.fromhex(text))


def _table(value: object, path: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path} must be a table")


def _text(table: Mapping[str, Any], key: str, prefix: str) -> str:
    if key not in table:
        raise ValueError(f"{prefix}{key} is missing")
    value = table[key]
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= 256:
        raise ValueError(f"{prefix}{key} must be one printable line of at most 256 characters")
    return value


def _only(table: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            shown = key[:64] if key.isprintable() else "?"
            raise ValueError(f"{prefix}{shown} is not a roster field; {suggestions.near(shown, prefix, known)}")


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _invalid(origin: str, cause: str) -> PolicyError:
    return PolicyError(
        "ROSTER_INVALID", f"{origin}: {cause}", "use the roster.toml that `aggregator roster` wrote, unchanged"
    )
