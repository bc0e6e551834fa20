"""An operator's own signing key: one file under a passphrase that only this person knows, kept by this person."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy.identity import identity_bytes
from fedvlm_secure.policy.private_file import read_private, write_private
from fedvlm_secure.types import Digest, Secret
from node.ledger_entries import Consent, Operator

SHORTEST_PASSPHRASE = 8
_LONGEST_NAME = 64


@dataclass(frozen=True)
class OperatorKey:
    """An opened key."""

    operator: Operator
    _key: Ed25519PrivateKey = field(repr=False)

    def consent(self, digest: Digest) -> Consent:
        """Agree to one decision, see `ledger_consent.decision_digest`."""
        return Consent(self.operator.name, self._key.sign(digest))


def create_operator_key(path: Path, name: str, passphrase: Secret) -> OperatorKey:
    """Make a key and write it, encrypted, to a new file of mode 0600.

    Args:
        name: how the ledger will call this person; at most 64 printable characters.
        passphrase: UTF-8, at least 8 bytes.

    Raises:
        IdentityError: OPERATOR_NAME, PASSPHRASE_SHORT.
        StorageError: FILE_EXISTS, FILE_UNWRITABLE.
    """
    if not (name.isprintable() and name.strip() == name and 1 <= len(name) <= _LONGEST_NAME):
        raise IdentityError(
            "OPERATOR_NAME", f"an operator's name has 1 to {_LONGEST_NAME} printable characters", "such as dr-lindner"
        )
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise IdentityError(
            "PASSPHRASE_SHORT",
            f"the passphrase has {len(passphrase)} bytes, at least {SHORTEST_PASSPHRASE} are needed",
            "a few words that nobody else knows",
        )
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.reveal()))
    fields = {"version": 1, "operator": name, "key": pem.decode("ascii")}
    write_private(path, (json.dumps(fields) + "\n").encode("ascii"), fresh=True)
    return OperatorKey(Operator(name, identity_bytes(key.public_key())), key)


def open_operator_key(path: Path, passphrase: Secret) -> OperatorKey:
    """Open what `create_operator_key` wrote.

    Raises:
        IdentityError: OPERATOR_KEY (no such file's content, or another passphrase), KEY_FILE_OPEN.
        StorageError: FILE_MISSING, FILE_UNREADABLE.
    """
    raw = read_private(path, missing_hint="make one with `fedvlm-node ledger operator NAME --out FILE`")
    try:
        fields = json.loads(raw)
        name, pem = str(fields["operator"]), str(fields["key"])
        key = load_pem_private_key(pem.encode("ascii"), password=passphrase.reveal())
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        raise _not_opened(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_opened(path)
    return OperatorKey(Operator(name, identity_bytes(key.public_key())), key)


def _not_opened(path: Path) -> IdentityError:
    return IdentityError(
        "OPERATOR_KEY",
        f"{path} is no operator's key, or this is not its passphrase",
        "try again; without the passphrase a key is lost",
    )
