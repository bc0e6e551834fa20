"""Keystore: a hospital's TLS key, Ed25519 identity, certificate and pinned roster. Private keys stay in it.

STATE/keys/        tls.key.pem identity.key.pem node.json
STATE/keys/renewal-N/  the same again, made by `fedvlm-node renew`; in use once the pinned roster names them
STATE/tls/         node.pem ca.pem
STATE/roster.toml  the pinned roster
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedvlm_secure.errors import IdentityError, StorageError
from fedvlm_secure.policy import identity, join
from fedvlm_secure.policy import roster as rosters
from fedvlm_secure.policy.join import JoinRequest
from fedvlm_secure.policy.private_file import make_private_folder, read_file, read_private, write_private
from fedvlm_secure.policy.roster import Roster, RosterChange
from fedvlm_secure.types import Digest, NodeId, node_id

_INIT_HINT = "run `fedvlm-node init` first, or name its folder with --state"


@dataclass(frozen=True)
class Keystore:
    """An opened keystore. `keys` is the folder of the keys in use: those that the pinned roster names."""

    state: Path
    node: NodeId
    keys: Path
    identity: ed25519.Ed25519PrivateKey = field(repr=False)
    _tls_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def tls_key_path(self) -> Path:
        return self.keys / "tls.key.pem"

    @property
    def certificate_path(self) -> Path:
        return self.state / "tls" / "node.pem"

    @property
    def ca_path(self) -> Path:
        return self.state / "tls" / "ca.pem"

    @property
    def roster_path(self) -> Path:
        return self.state / "roster.toml"

    @property
    def spki_sha256(self) -> Digest:
        return identity.spki_sha256(self._tls_key.public_key())

    def join_request(self, former: Keystore | None = None) -> JoinRequest:
        """What the hospital hands to the consortium: public keys, signed, also by the `former` ones they follow."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.node)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self._tls_key, hashes.SHA256())
        return join.request(self.node, csr, self.identity, None if former is None else former.identity)

    def is_named_in(self, roster: Roster) -> bool:
        """Whether the roster has these very keys for this hospital."""
        raw = identity.identity_bytes(self.identity.public_key())
        own = next((member for member in roster.members if member.node == self.node), None)
        return own is not None and own.identity == raw and own.spki_sha256 == self.spki_sha256

    def install(self, bundle: bytes, roster: bytes, now: datetime, *, accept_changes: bool = False) -> RosterChange:
        """Check and keep the certificate bundle and the roster that came back from the consortium.

        Args:
            bundle: PEM, this hospital's certificate and then the CA's.
            roster: the bytes of roster.toml.
            now: wall-clock time, with time zone.
            accept_changes: let keys that are pinned be replaced or removed, after a call to those concerned.

        Returns:
            What the roster changes against the pinned one.

        Raises:
            IdentityError: CERTIFICATE_FOREIGN, CERTIFICATE_EXPIRED, CERTIFICATE_NAME, NOT_IN_ROSTER, PIN_MISMATCH or
                ROSTER_CHANGED. Nothing is written then.
            PolicyError: ROSTER_INVALID.
        """
        new = rosters.parse_roster(roster, "the new roster")
        named = next((one for one in _all_keys(self.state) if one.is_named_in(new)), self)
        certificate, ca = named._checked_bundle(bundle, now)
        named._check_membership(new)
        change = self._change(new)
        if not change.only_adds and not accept_changes:
            names = ", ".join((*change.replaced, *(f"{node} (removed)" for node in change.removed)))
            raise IdentityError(
                "ROSTER_CHANGED",
                f"the new roster replaces or removes pinned keys: {names}",
                "call them; if they confirm the new fingerprints, repeat with --accept-changes",
            )
        make_private_folder(self.state / "tls")
        write_private(self.certificate_path, certificate.public_bytes(Encoding.PEM))
        write_private(self.ca_path, ca.public_bytes(Encoding.PEM))
        write_private(self.roster_path, roster)
        return change

    def _change(self, new: Roster) -> RosterChange:
        if self.roster_path.exists():
            return rosters.compare(rosters.load_roster(self.roster_path), new)
        return RosterChange(added=new.node_ids, removed=(), replaced=())

    def _check_membership(self, roster: Roster) -> None:
        roster.member(self.node)
        if not self.is_named_in(roster):
            raise IdentityError(
                "PIN_MISMATCH",
                f"the roster has other keys for {self.node}",
                "call the coordinator: somebody else joined",
            )

    def _checked_bundle(self, bundle: bytes, now: datetime) -> tuple[x509.Certificate, x509.Certificate]:
        try:
            certificate, ca = x509.load_pem_x509_certificates(bundle)
            certificate.verify_directly_issued_by(ca)
            authority = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            own = identity.spki_sha256(identity.tls_key(certificate)) == self.spki_sha256
        except (
            *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm),
            *(x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion),
        ) as error:
            raise _foreign(self.node) from error
        if not own or not authority or ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
            raise _foreign(self.node)
        if identity.certificate_node(certificate) != self.node:
            raise IdentityError("CERTIFICATE_NAME", f"the certificate names another hospital than {self.node}")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise IdentityError(
                "CERTIFICATE_EXPIRED", "the certificate is not valid today", "check the clock; have it admitted again"
            )
        return certificate, ca


def create_keystore(state: Path, node: NodeId) -> Keystore:
    """Make a hospital's keys.

    Raises:
        StorageError: KEYS_EXIST, they are never replaced; or a file cannot be written.
    """
    folder = state / "keys"
    if (folder / "node.json").exists():
        raise StorageError("KEYS_EXIST", f"{folder} holds keys; they are never replaced", "use another --state")
    make_private_folder(state)
    _make_keys(folder, node)
    return open_keystore(state)


def renew_keystore(state: Path) -> JoinRequest:
    """Make keys that follow those in use, beside them; a renewal that no roster names yet is handed out again.

    Raises:
        IdentityError, StorageError: as `open_keystore`, or a file cannot be written.
    """
    present = open_keystore(state)
    every = _all_keys(state)
    if every[-1].keys == present.keys:
        folder = state / "keys" / f"renewal-{len(every)}"
        _make_keys(folder, present.node)
        every = _all_keys(state)
    return every[-1].join_request(former=present)


def _make_keys(folder: Path, node: NodeId) -> None:
    make_private_folder(folder)
    # An interrupted call leaves no node.json: no key of it was used yet, so the next one starts over.
    for name, key in (
        ("tls", ec.generate_private_key(ec.SECP256R1())),
        ("identity", ed25519.Ed25519PrivateKey.generate()),
    ):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(folder / f"{name}.key.pem", pem)
    write_private(folder / "node.json", (json.dumps({"version": 1, "id": node}) + "\n").encode("ascii"), fresh=True)


def open_keystore(state: Path) -> Keystore:
    """Open what `create_keystore` made, or what `renew_keystore` added where the pinned roster names it.

    Raises:
        StorageError: FILE_MISSING, nothing is there.
        IdentityError: KEYS_DAMAGED, or KEY_FILE_OPEN when others on the machine can read a key.
        PolicyError: ROSTER_INVALID, after a renewal.
    """
    every = _all_keys(state)
    if len(every) == 1 or not every[0].roster_path.exists():
        return every[0]
    pinned = rosters.load_roster(every[0].roster_path)
    return next((one for one in every if one.is_named_in(pinned)), every[0])


def _all_keys(state: Path) -> list[Keystore]:
    """The first keys, then every completed renewal in order."""
    folders, number = [state / "keys"], 1
    while (state / "keys" / f"renewal-{number}" / "node.json").exists():
        folders.append(state / "keys" / f"renewal-{number}")
        number += 1
    return [_open_keys(state, folder) for folder in folders]


def _open_keys(state: Path, folder: Path) -> Keystore:
    try:
        node = node_id(json.loads(read_file(folder / "node.json", missing_hint=_INIT_HINT))["id"])
        tls_key, signing_key = (
            load_pem_private_key(read_private(folder / f"{name}.key.pem", missing_hint=_INIT_HINT), password=None)
            for name in ("tls", "identity")
        )
    except (ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm) as error:
        raise _damaged(folder) from error
    if not isinstance(tls_key, ec.EllipticCurvePrivateKey) or not isinstance(signing_key, ed25519.Ed25519PrivateKey):
        raise _damaged(folder)
    return Keystore(state, node, folder, signing_key, tls_key)


def _damaged(folder: Path) -> IdentityError:
    return IdentityError("KEYS_DAMAGED", f"{folder} does not hold a hospital's keys", "restore them from your backup")


def _foreign(node: NodeId) -> IdentityError:
    return IdentityError(
        "CERTIFICATE_FOREIGN",
        f"the bundle holds no certificate for the key of {node}",
        "install the ID.cert.pem that `aggregator admit` wrote for this hospital",
    )
