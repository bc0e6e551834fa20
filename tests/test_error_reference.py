"""docs/errors.md is what the source says."""

from __future__ import annotations

from tools import error_reference


def test_error_reference_is_up_to_date() -> None:
    stands = error_reference.REFERENCE.read_text(encoding="utf-8")
    assert stands == error_reference.render(), "run: python tools/error_reference.py"


def test_error_reference_finds_codes_of_every_kind() -> None:
    errors = {entry.error for entry in error_reference.entries()}
    assert {"PolicyError", "DataError", "ModelError", "PeerViolation", "IdentityError", "StorageError"} <= errors
