"""The anchor: the ledger's head and charges in a second place, so that an older copy gives itself away."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import from_record, to_record
from fedvlm_secure.errors import FedvlmError, StorageError
from fedvlm_secure.store.private_files import private_folder, write_whole
from fedvlm_secure.types import Digest, Secret
from node.ledger_book import Book, untally
from node.ledger_entries import Floor, Operator

_LABEL = canonical.LABEL_PREFIX + "ledger-anchor"


@dataclass(frozen=True)
class Anchor:
    """The head that was last made public here, and what every population was charged by then."""

    sequence: int
    head: Digest
    floors: tuple[Floor, ...]
    operators: tuple[Operator, ...] = ()


def anchor_of(book: Book, sequence: int, head: Digest) -> Anchor:
    """The anchor for a state of the book."""
    floors = tuple(
        Floor(
            name,
            population.delta,
            population.epsilon_limit,
            untally(population.spent),
            population.unprotected,
            b"".join(sorted(population.withdrawn)),
        )
        for name, population in sorted(book.populations.items())
        if population.merged_into is None
    )
    return Anchor(sequence, head, floors, book.operators)


def write_anchor(path: Path, anchor: Anchor, key: Secret) -> None:
    """Replace the anchor; durable when it returns.

    Raises:
        StorageError: the old one still stands.
    """
    fields = _fields(anchor)
    if not path.parent.is_dir():
        private_folder(path.parent)
    text = json.dumps({**fields, "mac": _mac(fields, key).hex()}, allow_nan=False)
    write_whole(path, text.encode("ascii") + b"\n")


def read_anchor(path: Path, key: Secret) -> Anchor | None:
    """The anchor, or None if there is no such file.

    Raises:
        StorageError: LEDGER_TAMPERED: unreadable, or not written with this key.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        mac = bytes.fromhex(fields.pop("mac"))
        if hmac.compare_digest(mac, _mac(fields, key)):
            floors = tuple(_floor(floor) for floor in fields["floors"])
            operators = tuple(
                Operator(each["name"], bytes.fromhex(each["public"])) for each in fields.get("operators", [])
            )
            return Anchor(fields["sequence"], Digest(bytes.fromhex(fields["head"])), floors, operators)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FedvlmError) as error:
        raise _altered(path) from error
    raise _altered(path)


def _floor(fields: Mapping[str, Any]) -> Floor:
    withdrawn = bytes.fromhex(fields.get("withdrawn", ""))  # an anchor of an earlier version names nobody
    return Floor(**{**fields, "event": from_record(fields["event"]), "withdrawn": withdrawn})


def _altered(path: Path) -> StorageError:
    return StorageError(
        "LEDGER_TAMPERED",
        f"{path} is not the anchor that was written with this hospital's ledger key",
        "find out who changed it; then `fedvlm-node ledger restore` with the other parties' records",
    )


def _fields(anchor: Anchor) -> dict[str, Any]:
    floors = [
        {
            "population": floor.population,
            "delta": floor.delta,
            "epsilon_limit": floor.epsilon_limit,
            "event": to_record(floor.event),
            "unprotected": floor.unprotected,
            "withdrawn": floor.withdrawn.hex(),
        }
        for floor in anchor.floors
    ]
    operators = [{"name": operator.name, "public": operator.public.hex()} for operator in anchor.operators]
    head = {"version": 1, "sequence": anchor.sequence, "head": anchor.head.hex()}
    return {**head, "floors": floors, "operators": operators}


def _mac(fields: Mapping[str, Any], key: Secret) -> bytes:
    return hmac.digest(key.reveal(), canonical.encode([_LABEL, dict(fields)]), "sha256")
