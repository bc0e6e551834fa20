"""Keys are renewed on the former keys' word, or the coordinator's; the old ones serve until a roster names the new."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from aggregator import admission
from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy import join
from fedvlm_secure.types import node_id
from node.keystore import Keystore, create_keystore, open_keystore, renew_keystore

Consortium = Any


def installed(consortium: Consortium, now: datetime) -> tuple[Keystore, admission.Admission]:
    keystore = consortium.hospital("hospital-a")
    done = consortium.admit(keystore)
    keystore.install(done.bundle.read_bytes(), consortium.roster(), now)
    return keystore, done


def test_renewed_keys_serve_once_the_pinned_roster_names_them_and_the_old_ones_until_then(
    consortium: Consortium, now: datetime
) -> None:
    old, first = installed(consortium, now)
    request = renew_keystore(old.state)
    assert open_keystore(old.state).join_request().fingerprint == old.join_request().fingerprint
    again = admission.admit(consortium.authority, request, now)
    assert again.fresh
    assert again.member.fingerprint == request.fingerprint != first.member.fingerprint
    with pytest.raises(IdentityError) as caught:  # as for any other key that changes, after a call
        open_keystore(old.state).install(again.bundle.read_bytes(), consortium.roster(), now)
    assert caught.value.code == "ROSTER_CHANGED"
    open_keystore(old.state).install(again.bundle.read_bytes(), consortium.roster(), now, accept_changes=True)
    new = open_keystore(old.state)
    assert new.join_request().fingerprint == request.fingerprint
    assert new.tls_key_path != old.tls_key_path
    assert old.tls_key_path.exists()


def test_renewal_that_no_roster_names_yet_is_handed_out_again(consortium: Consortium, now: datetime) -> None:
    old, _ = installed(consortium, now)
    assert renew_keystore(old.state).fingerprint == renew_keystore(old.state).fingerprint


def test_second_renewal_follows_the_first(consortium: Consortium, now: datetime) -> None:
    old, _ = installed(consortium, now)
    prints = {old.join_request().fingerprint}
    for _ in range(2):
        request = renew_keystore(old.state)
        done = admission.admit(consortium.authority, request, now)
        open_keystore(old.state).install(done.bundle.read_bytes(), consortium.roster(), now, accept_changes=True)
        prints.add(open_keystore(old.state).join_request().fingerprint)
    assert len(prints) == 3
    retired = list((consortium.authority.home / "members" / "retired").glob("hospital-a-*.join"))
    assert len(retired) == 2


def test_other_keys_without_the_former_signature_are_not_taken(
    consortium: Consortium, now: datetime, tmp_path: Any
) -> None:
    old, _ = installed(consortium, now)
    stranger = create_keystore(tmp_path / "stranger", node_id("hospital-a"))
    before = consortium.roster()
    plain = stranger.join_request()
    forged = dataclasses.replace(plain, renewal=bytes(64))
    other = join.request(plain.node, plain.csr, stranger.identity, former=ed25519.Ed25519PrivateKey.generate())
    moved = dataclasses.replace(plain, renewal=renew_keystore(old.state).renewal)
    for request, code in (
        (plain, "JOIN_ID_TAKEN"),
        (forged, "RENEWAL_SIGNATURE"),
        (other, "RENEWAL_SIGNATURE"),
        (moved, "RENEWAL_SIGNATURE"),
    ):
        with pytest.raises(IdentityError) as caught:
            admission.admit(consortium.authority, request, now)
        assert caught.value.code == code
    assert consortium.roster() == before


def test_lost_keys_are_replaced_on_the_coordinators_word_only(
    consortium: Consortium, now: datetime, tmp_path: Any
) -> None:
    installed(consortium, now)
    fresh = create_keystore(tmp_path / "again", node_id("hospital-a"))
    done = admission.admit(consortium.authority, fresh.join_request(), now, replace=True)
    assert admission.roster(consortium.authority).member("hospital-a").fingerprint == done.member.fingerprint


def test_renewal_to_keys_of_another_member_is_refused_on_anybodys_word(consortium: Consortium, now: datetime) -> None:
    old, _ = installed(consortium, now)
    other = consortium.hospital("hospital-b")
    consortium.admit(other)
    taken = join.request(old.node, other.join_request().csr, other.identity, former=old.identity)
    for replace in (False, True):
        with pytest.raises(IdentityError) as caught:
            admission.admit(consortium.authority, taken, now, replace=replace)
        assert caught.value.code == "JOIN_KEY_TAKEN"


def test_admission_that_was_interrupted_does_not_hand_the_new_certificate_to_the_old_key(
    consortium: Consortium, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, first = installed(consortium, now)
    request = renew_keystore(old.state)
    with monkeypatch.context() as patched:
        patched.setattr(join.JoinRequest, "to_json", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            admission.admit(consortium.authority, request, now)
    again = consortium.admit(old)
    assert again.certificate.public_key() == first.certificate.public_key()


def test_hospital_that_leaves_is_off_the_roster_and_may_come_back(consortium: Consortium, now: datetime) -> None:
    old, first = installed(consortium, now)
    consortium.admit(consortium.hospital("hospital-b"))
    removed = admission.remove(consortium.authority, old.node)
    assert removed == first.member
    assert [str(member.node) for member in admission.roster(consortium.authority).members] == ["hospital-b"]
    with pytest.raises(IdentityError) as caught:
        admission.remove(consortium.authority, old.node)
    assert caught.value.code == "NOT_IN_ROSTER"
    assert consortium.admit(old).member == first.member


def test_join_file_with_a_renewal_that_is_no_signature_is_unreadable(consortium: Consortium, now: datetime) -> None:
    old, _ = installed(consortium, now)
    fields = json.loads(renew_keystore(old.state).to_json())
    assert join.parse(json.dumps(fields).encode(), "x").renewal is not None
    for fault in ("AA==", 7, None, ["AA=="]):
        with pytest.raises(IdentityError) as caught:
            join.parse(json.dumps({**fields, "renewal": fault}).encode(), "x")
        assert caught.value.code == "JOIN_UNREADABLE"
