"""One party's audit file of one run: records are appended, signed, chained and made durable one by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedvlm_secure.audit.record import GENESIS, AuditRecord, Draft, End, Round, Start
from fedvlm_secure.errors import IdentityError, StorageError
from fedvlm_secure.policy.identity import identity_key

FILE_NAME = "audit.jsonl"
MAX_BYTES = 1 << 29
_LINE_BYTES = 1 << 20
_FILE_MODE = 0o600


class AuditChain:
    """An open audit file of this party.

    A line that a crash cut is dropped; it was never acted on. Times never go back within a chain, whatever the clock
    says: a record gets the later of the clock's time and its predecessor's.

    Args:
        path: the file; its folder exists.
        role, party, run, run_hash: on every record.
        key: the party's Ed25519 identity.
        wall_s: seconds since 1970.

    Raises:
        StorageError: AUDIT_UNREADABLE, AUDIT_FOREIGN (the file is another run's or party's).
    """

    def __init__(
        self,
        path: Path,
        *,
        role: Literal["node", "aggregator"],
        party: str,
        run: str,
        run_hash: str,
        key: Ed25519PrivateKey,
        wall_s: Callable[[], float],
    ) -> None:
        self._path, self._key, self._wall_s = path, key, wall_s
        self.run = run
        self._role, self._party, self._run_hash = role, party, run_hash
        self._records = list(read_chain(path, torn_tail=True)) if path.exists() else []
        self._size_bytes = sum(len(record.to_line()) for record in self._records)
        for record in self._records[:1]:
            if (record.role, record.party, record.run, record.run_hash) != (role, party, run, run_hash):
                raise StorageError(
                    "AUDIT_FOREIGN", f"{path} is another run's or party's", "move it away and keep it; then restart"
                )

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        return tuple(self._records)

    @property
    def rounds(self) -> tuple[Round, ...]:
        return tuple(record.body for record in self._records if isinstance(record.body, Round))

    @property
    def start(self) -> Start | None:
        bodies = [record.body for record in self._records[:1]]
        return bodies[0] if bodies and isinstance(bodies[0], Start) else None

    def append(self, body: Start | Round | End) -> AuditRecord:
        """Sign, chain and write one record; durable on return.

        Raises:
            StorageError: AUDIT_UNWRITABLE; the file is as before.
        """
        last = self._records[-1] if self._records else None
        now = datetime.fromtimestamp(self._wall_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        draft = Draft(
            index=len(self._records),
            role=self._role,
            party=self._party,
            run=self.run,
            run_hash=self._run_hash,
            previous=GENESIS if last is None else last.digest.hex(),
            time=now if last is None else max(now, last.time),
            body=body,
        )
        record = sign(draft, self._key)
        line = record.to_line()
        self._write(line)
        self._records.append(record)
        self._size_bytes += len(line)
        return record

    def _write(self, line: bytes) -> None:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _FILE_MODE)
            try:
                os.ftruncate(handle, self._size_bytes)
                left = memoryview(line)
                while left:
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, self._size_bytes)
                raise
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(
                "AUDIT_UNWRITABLE",
                f"{self._path}: a record of {len(line)} bytes cannot be written: {error.strerror}",
                "free space or fix permissions, then restart: the record is written again",
            ) from error


def sign(draft: Draft, key: Ed25519PrivateKey) -> AuditRecord:
    """The record of a draft."""
    fields = {name: getattr(draft, name) for name in Draft.model_fields}
    return AuditRecord(**fields, signature=key.sign(draft.digest).hex())


def signature_holds(record: AuditRecord, identity: bytes) -> bool:
    """Whether a record was signed by this Ed25519 identity (32 bytes)."""
    try:
        identity_key(identity).verify(bytes.fromhex(record.signature), record.digest)
    except (InvalidSignature, IdentityError):
        return False
    return True


def read_chain(path: Path, *, torn_tail: bool = False) -> tuple[AuditRecord, ...]:
    """Every record of a file, parsed strictly: each line must be the one form of its record.

    Args:
        torn_tail: leave out what stands after the last line break (the party itself, after a crash).

    Raises:
        StorageError: AUDIT_UNREADABLE, or AUDIT_MALFORMED with the line's index and field.
    """
    raw = _read(path)
    whole, newline, tail = raw.rpartition(b"\n")
    if tail and not torn_tail:
        raise malformed(path, (whole + newline).count(b"\n"), "record", "the last line is cut")
    return tuple(_parse(path, at, line) for at, line in enumerate(whole.split(b"\n") if newline else []))


def malformed(path: Path, index: int, field: str, cause: str) -> StorageError:
    """AUDIT_MALFORMED: a line that is no record."""
    return StorageError(
        "AUDIT_MALFORMED", f"{path}: record {index}, field {field}: {cause}", "the file was altered or cut"
    )


def _parse(path: Path, index: int, line: bytes) -> AuditRecord:
    if len(line) > _LINE_BYTES:
        raise malformed(path, index, "record", f"longer than {_LINE_BYTES} bytes")
    try:
        record = AuditRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        skipped = ("body", "start", "round", "end")
        parts = [str(part) for at, part in enumerate(first["loc"]) if at > 1 or part not in skipped]
        raise malformed(path, index, ".".join(parts) or "body", first["msg"]) from error
    if record.to_line() != line + b"\n":
        raise malformed(path, index, "record", "not written in the one form of a record")
    return record


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(min(size, MAX_BYTES) + 1)  # what is asked for is allocated at once
    except OSError as error:
        raise StorageError("AUDIT_UNREADABLE", f"{path}: {error.strerror}", "check path and owner") from error
    if len(raw) > MAX_BYTES:
        raise StorageError("AUDIT_UNREADABLE", f"{path} is larger than {MAX_BYTES} bytes", "this is no audit file")
    return raw
