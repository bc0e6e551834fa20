"""A hospital's keys stay at home, and only its own certificate and a roster that lists it are kept."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aggregator import admission, certificates
from aggregator.authority import create_authority
from fedvlm_secure.errors import FedvlmError, IdentityError, StorageError
from fedvlm_secure.policy.roster import format_roster, load_roster
from fedvlm_secure.types import node_id
from node.keystore import create_keystore, open_keystore

Consortium = Any


def test_a_join_file_holds_no_private_key(consortium: Consortium) -> None:
    keystore = consortium.hospital("hospital-a")
    sent = keystore.join_request().to_json()
    raw = keystore.identity.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    scalar = keystore._tls_key.private_numbers().private_value.to_bytes(32, "big")
    for secret in (raw, scalar):
        assert secret not in sent
        assert secret.hex().encode() not in sent
    assert b"PRIVATE" not in sent
    assert "PRIVATE" not in repr(keystore)


def test_keys_are_never_replaced(consortium: Consortium) -> None:
    keystore = consortium.hospital("hospital-a")
    before = keystore.tls_key_path.read_bytes()
    with pytest.raises(StorageError) as caught:
        create_keystore(keystore.state, node_id("hospital-a"))
    assert caught.value.code == "KEYS_EXIST"
    assert open_keystore(keystore.state).join_request().fingerprint == keystore.join_request().fingerprint
    assert keystore.tls_key_path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(consortium: Consortium, mode: int) -> None:
    keystore = consortium.hospital("hospital-a")
    keystore.tls_key_path.chmod(mode)
    with pytest.raises(IdentityError) as caught:
        open_keystore(keystore.state)
    assert caught.value.code == "KEY_FILE_OPEN"


def test_a_damaged_or_missing_keystore_is_said_so(consortium: Consortium, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as missing:
        open_keystore(tmp_path / "nowhere")
    assert "fedvlm-node init" in missing.value.hint
    keystore = consortium.hospital("hospital-a")
    keystore.tls_key_path.write_bytes(b"-----BEGIN")
    with pytest.raises(IdentityError) as damaged:
        open_keystore(keystore.state)
    assert damaged.value.code == "KEYS_DAMAGED"


def test_the_certificate_and_roster_that_come_back_are_kept(consortium: Consortium, now: datetime) -> None:
    keystore = consortium.hospital("hospital-a")
    bundle = consortium.admit(keystore).bundle.read_bytes()
    change = keystore.install(bundle, consortium.roster(), now)
    assert change.added == ("hospital-a",)
    assert load_roster(keystore.roster_path) == admission.roster(consortium.authority)
    assert keystore.certificate_path.read_bytes() + keystore.ca_path.read_bytes() == bundle


def test_foreign_or_expired_certificates_are_refused_and_nothing_is_written(
    consortium: Consortium, tmp_path: Path, now: datetime
) -> None:
    keystore, other = consortium.hospital("hospital-a"), consortium.hospital("hospital-b")
    own, others = consortium.admit(keystore).bundle.read_bytes(), consortium.admit(other).bundle.read_bytes()
    roster = consortium.roster()
    foreign, _ = create_authority(tmp_path / "foreign", consortium="other", hosts=[], address="", now=now)
    end = b"-----END CERTIFICATE-----\n"
    leaf, ca = (part + end for part in own.split(end)[:2])
    foreign_ca = foreign.ca.public_bytes(Encoding.PEM)
    tries = {
        "another hospital's": (others, now),
        "issued by another CA": (leaf + foreign_ca, now),
        "the CA itself": (ca + ca, now),
        "no CA": (leaf, now),
        "nothing": (b"", now),
        "expired": (own, now + timedelta(days=900)),
        "not yet valid": (own, now - timedelta(days=2)),
    }
    codes = {}
    for fault, (bundle, at) in tries.items():
        with pytest.raises(IdentityError) as caught:
            keystore.install(bundle, roster, at)
        codes[fault] = caught.value.code
    assert codes.pop("expired") == codes.pop("not yet valid") == "CERTIFICATE_EXPIRED"
    assert set(codes.values()) == {"CERTIFICATE_FOREIGN"}
    assert not keystore.roster_path.exists()
    assert not keystore.certificate_path.exists()


def test_a_roster_without_this_hospital_or_with_other_keys_for_it_is_refused(
    consortium: Consortium, tmp_path: Path, now: datetime
) -> None:
    keystore = consortium.hospital("hospital-a")
    empty = consortium.roster()
    bundle = consortium.admit(keystore).bundle.read_bytes()
    other_authority, _ = create_authority(tmp_path / "other", consortium="trial", hosts=[], address="", now=now)
    impostor = create_keystore(tmp_path / "impostor", node_id("hospital-a"))
    swapped = type(consortium)(tmp_path, other_authority)
    swapped.admit(impostor)
    for roster, code in ((empty, "NOT_IN_ROSTER"), (swapped.roster(), "PIN_MISMATCH"), (b"x", "ROSTER_INVALID")):
        with pytest.raises(FedvlmError) as caught:
            keystore.install(bundle, roster, now)
        assert caught.value.code == code
    assert not keystore.roster_path.exists()


def test_a_certificate_for_this_key_but_another_name_or_use_is_refused(consortium: Consortium, now: datetime) -> None:
    keystore = consortium.hospital("hospital-a")
    consortium.admit(keystore)
    authority, key = consortium.authority, keystore._tls_key.public_key()
    ca = authority.ca.public_bytes(Encoding.PEM)
    other_name = authority.issue(node_id("hospital-b"), key, now).public_bytes(Encoding.PEM)
    server = certificates.make_server(authority.ca, authority._ca_key, key, ["localhost"], now)
    tries = ((other_name, "CERTIFICATE_NAME"), (server.public_bytes(Encoding.PEM), "CERTIFICATE_FOREIGN"))
    for certificate, code in tries:
        with pytest.raises(IdentityError) as caught:
            keystore.install(certificate + ca, consortium.roster(), now)
        assert caught.value.code == code


def test_another_hospitals_certificate_does_not_serve_as_a_ca(consortium: Consortium, now: datetime) -> None:
    keystore, other = consortium.hospital("hospital-a"), consortium.hospital("hospital-b")
    consortium.admit(keystore)
    issuer = consortium.admit(other).certificate
    made = certificates.make_client(issuer, other._tls_key, keystore._tls_key.public_key(), keystore.node, now)
    bundle = made.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM)
    with pytest.raises(IdentityError) as caught:
        keystore.install(bundle, consortium.roster(), now)
    assert caught.value.code == "CERTIFICATE_FOREIGN"


@pytest.mark.parametrize("swapped", ["identity", "spki_sha256"])
def test_a_roster_with_one_of_this_hospitals_two_keys_swapped_is_refused(
    consortium: Consortium, now: datetime, swapped: str
) -> None:
    keystore = consortium.hospital("hospital-a")
    bundle = consortium.admit(keystore).bundle.read_bytes()
    true = admission.roster(consortium.authority)
    other = consortium.hospital("hospital-b").join_request()
    member = dataclasses.replace(true.members[0], **{swapped: getattr(other, swapped)})
    with pytest.raises(IdentityError) as caught:
        keystore.install(bundle, format_roster(dataclasses.replace(true, members=(member,))), now)
    assert caught.value.code == "PIN_MISMATCH"


def test_a_grown_roster_is_pinned_but_a_replaced_key_has_to_be_accepted(
    consortium: Consortium, tmp_path: Path, now: datetime
) -> None:
    keystore, second = consortium.hospital("hospital-a"), consortium.hospital("hospital-b")
    bundle = consortium.admit(keystore).bundle.read_bytes()
    keystore.install(bundle, consortium.roster(), now)
    consortium.admit(second)
    grown = consortium.roster()
    assert keystore.install(bundle, grown, now).added == ("hospital-b",)
    (consortium.authority.home / "members" / "hospital-b.join").unlink()
    consortium.admit(create_keystore(tmp_path / "new-b", node_id("hospital-b")))
    replaced = consortium.roster()
    with pytest.raises(IdentityError, match="hospital-b") as caught:
        keystore.install(bundle, replaced, now)
    assert caught.value.code == "ROSTER_CHANGED"
    assert keystore.roster_path.read_bytes() == grown
    keystore.install(bundle, replaced, now, accept_changes=True)
    assert keystore.roster_path.read_bytes() == replaced
