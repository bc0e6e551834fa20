"""Keyed hashes of patient ids: the same patient is recognised, and nobody without the key can tell who it is."""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Iterable

from fedvlm_secure import canonical
from fedvlm_secure.errors import DataError
from fedvlm_secure.types import Secret

_LABEL = canonical.LABEL_PREFIX + "ledger-patient"


def patient_hashes(patients: Iterable[str], key: Secret) -> set[bytes]:
    """HMAC-SHA256 of each patient id, 32 bytes.

    Case, outer blanks and Unicode spelling are ignored, so that a second export of the same patients is recognised.
    Two patients that this makes equal share one purse, which only ever costs more.

    Raises:
        DataError: PATIENT_ID_MISSING: an id is empty.
    """
    hashes = set()
    for patient in patients:
        name = unicodedata.normalize("NFKC", patient).strip().casefold()
        if not name:
            raise DataError(
                "PATIENT_ID_MISSING",
                "a row has no patient id; a budget per patient cannot be kept",
                "export the rows with a pseudonym per patient",
            )
        hashes.add(hmac.digest(key.reveal(), canonical.encode([_LABEL, name]), "sha256"))
    return hashes
