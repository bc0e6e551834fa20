"""The coordinator's CA admits by signed request, names nobody but the hospital, and only ever adds."""

from __future__ import annotations

import json
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator import admission
from aggregator.authority import create_authority, open_authority
from aggregator.certificates import server_hosts
from fedvlm_secure.errors import IdentityError, PolicyError, StorageError
from fedvlm_secure.policy import identity, join
from fedvlm_secure.policy.roster import format_roster, parse_roster
from fedvlm_secure.types import node_id
from node.keystore import create_keystore

Consortium = Any
A = node_id("hospital-a")
B = node_id("hospital-b")


def csr_for(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: x509.GeneralName
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aggregator")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_names_that_a_request_asks_for_are_ignored(consortium: Consortium, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wishes = (
        x509.UniformResourceIdentifier(identity.AGGREGATOR_URI),
        x509.UniformResourceIdentifier(identity.node_uri(B)),
        x509.DNSName("aggregator.example.org"),
    )
    request = join.request(A, csr_for(key, *wishes), ed25519.Ed25519PrivateKey.generate())
    certificate = admission.admit(consortium.authority, request, now).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://fedvlm/node/hospital-a")]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    common_name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert common_name == "hospital-a"


def test_admitting_one_hospital_touches_no_other(consortium: Consortium) -> None:
    first = consortium.admit(consortium.hospital("hospital-a"))
    before = {path: path.read_bytes() for path in consortium.authority.home.rglob("*") if path.is_file()}
    consortium.admit(consortium.hospital("hospital-b"))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [member.node for member in admission.admitted(consortium.authority)] == [first.member.node, B]


def test_the_same_request_gives_the_same_certificate(consortium: Consortium, now: datetime) -> None:
    keystore = consortium.hospital("hospital-a")
    first = consortium.admit(keystore)
    again = consortium.admit(keystore)  # a fresh CSR signature over the same keys
    assert (first.fresh, again.fresh) == (True, False)
    assert again.certificate == first.certificate
    late = admission.admit(consortium.authority, keystore.join_request(), now + timedelta(days=800))
    assert late.fresh
    assert late.certificate.public_key() == first.certificate.public_key()
    assert late.member == first.member


def test_a_taken_id_with_other_keys_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    consortium.admit(consortium.hospital("hospital-a"))
    impostor = create_keystore(tmp_path / "elsewhere", A)
    with pytest.raises(IdentityError) as caught:
        consortium.admit(impostor)
    assert caught.value.code == "JOIN_ID_TAKEN"
    assert len(admission.admitted(consortium.authority)) == 1


def test_a_key_cannot_serve_two_hospitals(consortium: Consortium, now: datetime) -> None:
    tls, other_tls = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    signing, other_signing = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    admission.admit(consortium.authority, join.request(A, csr_for(tls), signing), now)
    for csr, key in ((csr_for(tls), other_signing), (csr_for(other_tls), signing)):
        with pytest.raises(IdentityError) as caught:
            admission.admit(consortium.authority, join.request(B, csr, key), now)
        assert caught.value.code == "JOIN_KEY_TAKEN"
    own = consortium.authority.identity
    with pytest.raises(IdentityError):
        admission.admit(consortium.authority, join.request(B, csr_for(other_tls), own), now)


def test_a_request_changed_on_its_way_is_refused(consortium: Consortium) -> None:
    request = consortium.hospital("hospital-a").join_request()
    fields = json.loads(request.to_json())
    other = json.loads(consortium.hospital("hospital-b").join_request().to_json())
    changes = {"id": "hospital-c", "csr": other["csr"], "identity": other["identity"], "signature": other["signature"]}
    assert join.parse(request.to_json(), "a.join") == request
    for field, value in changes.items():
        with pytest.raises(IdentityError) as caught:
            join.parse(json.dumps({**fields, field: value}).encode(), "a.join")
        assert caught.value.code == "JOIN_SIGNATURE", field


def test_a_request_whose_tls_key_the_sender_does_not_hold_is_refused() -> None:
    """The CSR's own signature is broken; the identity signs it all the same."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    der = bytearray(csr_for(key).public_bytes(Encoding.DER))
    point = identity.tls_key(csr_for(key)).public_bytes(*_POINT)
    at = bytes(der).index(point)
    der[at : at + len(point)] = other.public_key().public_bytes(*_POINT)
    request = join.request(A, x509.load_der_x509_csr(bytes(der)), ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(IdentityError) as caught:
        request.verify()
    assert caught.value.code == "JOIN_SIGNATURE"


_POINT = (
    Encoding.X962,
    PublicFormat.UncompressedPoint,
)


def test_an_rsa_or_other_curve_tls_key_is_refused() -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        request = join.request(A, csr_for(key), ed25519.Ed25519PrivateKey.generate())
        with pytest.raises(IdentityError) as caught:
            request.verify()
        assert caught.value.code == "TLS_KEY_KIND"


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"version": 1}', b"[" * 5000])
def test_what_is_no_join_file_is_one_clear_error(raw: bytes) -> None:
    with pytest.raises(IdentityError) as caught:
        join.parse(raw, "x.join")
    assert caught.value.code == "JOIN_UNREADABLE"


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "a" * 65, "a\n"])
def test_a_join_file_cannot_carry_a_path(consortium: Consortium, name: str) -> None:
    fields = json.loads(consortium.hospital("hospital-a").join_request().to_json())
    with pytest.raises(IdentityError) as caught:
        join.parse(json.dumps({**fields, "id": name}).encode(), "x.join")
    assert caught.value.code == "JOIN_UNREADABLE"


def test_private_files_are_private(consortium: Consortium) -> None:
    consortium.admit(consortium.hospital("hospital-a"))
    for root in (consortium.authority.home, consortium.root / "hospital-a"):
        for path in (root, *root.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_init_again_keeps_every_key_and_renews_the_server_certificate(consortium: Consortium, now: datetime) -> None:
    home = consortium.authority.home
    later = now + timedelta(days=700)
    kept, fresh = create_authority(home, consortium="", hosts=["10.1.2.3"], address="agg:7443", now=later)
    assert not fresh
    assert kept.keys.fingerprint == consortium.authority.keys.fingerprint
    assert kept.ca == consortium.authority.ca
    assert set(server_hosts(kept.server)) == {"localhost", "127.0.0.1", "aggregator.example.org", "10.1.2.3"}
    assert kept.server.not_valid_after_utc > consortium.authority.server.not_valid_after_utc
    assert open_authority(home).keys.address == "agg:7443"
    with pytest.raises(PolicyError, match="never replaced"):
        create_authority(home, consortium="another", hosts=[], address="", now=now)


@pytest.mark.parametrize("host", ["a b", "host:7443", "", "-..x", "*.example.org", "x\x1b[2J"])
def test_a_host_that_is_no_host_is_refused(tmp_path: Path, now: datetime, host: str) -> None:
    with pytest.raises(PolicyError) as caught:
        create_authority(tmp_path / "home", consortium="c", hosts=[host], address="", now=now)
    assert caught.value.code == "HOST_NAME"


def test_an_authority_that_is_not_there_or_damaged_is_said_so(consortium: Consortium, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist") as missing:
        open_authority(tmp_path / "nowhere")
    assert "aggregator init" in missing.value.hint
    (consortium.authority.home / "authority" / "ca.key.pem").write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(IdentityError) as damaged:
        open_authority(consortium.authority.home)
    assert damaged.value.code == "AUTHORITY_DAMAGED"


def test_the_roster_lists_what_the_join_files_say(consortium: Consortium) -> None:
    requests = [consortium.hospital(name).join_request() for name in ("hospital-b", "hospital-a")]
    for request in requests:
        admission.admit(consortium.authority, request, datetime.fromisoformat("2026-03-01T12:00:00+00:00"))
    listed = parse_roster(format_roster(admission.roster(consortium.authority)), "roster.toml")
    assert {member.node: member.fingerprint for member in listed.members} == {
        request.node: request.fingerprint for request in requests
    }
