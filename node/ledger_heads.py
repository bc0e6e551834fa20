"""Ledger heads that this hospital signed into its audit records: its ledger must have come after each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from fedvlm_secure.audit.chain import FILE_NAME, read_chain, signature_holds
from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.audit.record import AuditRecord, Round
from fedvlm_secure.types import Digest
from node.keystore import Keystore
from node.ledger import Ledger
from node.ledger_chain import set_back


def require_signed_heads(ledger: Ledger, folders: Iterable[Path], keystore: Keystore | None = None) -> int:
    """Refuse a ledger that lacks what a signed record says of it.

    Args:
        folders: with audit.jsonl files in or below them; one that does not exist holds none.
        keystore: count only records that this identity signed, as among those collected from other parties. None:
            all, as in the node's own folder.

    Returns:
        How many files name a head.

    Raises:
        StorageError: LEDGER_ROLLED_BACK, AUDIT_MALFORMED, AUDIT_UNREADABLE.
    """
    checked = 0
    for path, head in _heads(folders, keystore):
        if not ledger.holds(head):
            raise set_back(ledger.paths.ledger, head.sequence, path)
        checked += 1
    return checked


def _heads(folders: Iterable[Path], keystore: Keystore | None) -> Iterator[tuple[Path, LedgerHead]]:
    """The last head that each file names: the ledger held the earlier ones when it was written."""
    for folder in folders:
        for path in sorted(folder.rglob(FILE_NAME)):
            for record in reversed(read_chain(path, torn_tail=True)):
                head = _head(record)
                if head is not None and (keystore is None or _is_own(record, keystore)):
                    yield path, head
                    break


def _is_own(record: AuditRecord, keystore: Keystore) -> bool:
    return record.party == keystore.node and signature_holds(record, keystore.identity.public_key().public_bytes_raw())


def _head(record: AuditRecord) -> LedgerHead | None:
    purse = record.body.spending.purse if isinstance(record.body, Round) and record.body.spending else None
    named = None if purse is None else purse.head
    return None if named is None else LedgerHead(named.sequence, Digest(bytes.fromhex(named.digest)))
