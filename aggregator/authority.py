"""Authority: the consortium's CA, the server's certificate and the aggregator's identity, in one private folder.

HOME/authority/   ca.key.pem ca.pem server.key.pem server.pem identity.key.pem consortium.json
HOME/members/     ID.join, ID.pem
HOME/outbox/      ID.cert.pem, to be handed back to the hospital
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from aggregator import certificates
from fedvlm_secure.errors import IdentityError, PolicyError
from fedvlm_secure.policy import identity
from fedvlm_secure.policy.private_file import make_private_folder, read_file, read_private, write_private
from fedvlm_secure.policy.roster import AggregatorKeys
from fedvlm_secure.types import NodeId

ALWAYS_HOSTS = ("localhost", "127.0.0.1")
_INIT_HINT = "run `aggregator init` first, or name its folder with --home"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Authority:
    """An opened authority. `address` is `host:port` for the roster and may be empty."""

    home: Path
    consortium: str
    address: str
    ca: x509.Certificate
    server: x509.Certificate
    identity: ed25519.Ed25519PrivateKey = field(repr=False)
    _ca_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def ca_path(self) -> Path:
        return self.home / "authority" / "ca.pem"

    @property
    def server_certificate_path(self) -> Path:
        return self.home / "authority" / "server.pem"

    @property
    def server_key_path(self) -> Path:
        return self.home / "authority" / "server.key.pem"

    @property
    def keys(self) -> AggregatorKeys:
        """What the roster says about the aggregator."""
        raw = identity.identity_bytes(self.identity.public_key())
        return AggregatorKeys(raw, identity.spki_sha256(identity.tls_key(self.server)), self.address)

    def issue(self, node: NodeId, key: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
        """A client certificate for a hospital's TLS key."""
        return certificates.make_client(self.ca, self._ca_key, key, node, now)


def create_authority(
    home: Path, *, consortium: str, hosts: Sequence[str], address: str, now: datetime
) -> tuple[Authority, bool]:
    """Make the authority, or keep the one that is there.

    Keys are made once and never replaced. Called again, it renews the server's certificate for the same key, with
    `hosts` added to its names, so that no pin changes.

    Returns:
        The authority, and whether it is new.

    Raises:
        PolicyError: CONSORTIUM_NAME or HOST_NAME; AUTHORITY_EXISTS when `consortium` differs from the name it has.
        StorageError: a file cannot be written.
    """
    folder = home / "authority"
    if (folder / "consortium.json").exists():
        return _renew(open_authority(home), consortium, hosts, address, now), False
    if not consortium.isprintable() or not 1 <= len(consortium) <= 200:
        raise PolicyError("CONSORTIUM_NAME", "the consortium's name is not one printable line", "use --consortium NAME")
    for path in (home, folder, home / "members", home / "outbox"):
        make_private_folder(path)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = certificates.make_ca(ca_key, consortium, now)
    server = certificates.make_server(ca, ca_key, server_key.public_key(), _all_hosts(hosts), now)
    # An interrupted first call leaves no consortium.json: nothing was handed out yet, so the next one starts over.
    for name, key in (("ca", ca_key), ("server", server_key), ("identity", ed25519.Ed25519PrivateKey.generate())):
        write_private(folder / f"{name}.key.pem", _pem_of_key(key))
    write_private(folder / "ca.pem", ca.public_bytes(Encoding.PEM))
    write_private(folder / "server.pem", server.public_bytes(Encoding.PEM))
    _write_description(folder, consortium, address)
    return open_authority(home), True


def open_authority(home: Path) -> Authority:
    """Open what `create_authority` made.

    Raises:
        StorageError: FILE_MISSING, nothing is there.
        IdentityError: AUTHORITY_DAMAGED, a file does not hold what it should; KEY_FILE_OPEN.
    """
    folder = home / "authority"
    try:
        described = json.loads(read_file(folder / "consortium.json", missing_hint=_INIT_HINT))
        ca, server = (
            x509.load_pem_x509_certificate(read_file(folder / name, missing_hint=_INIT_HINT))
            for name in ("ca.pem", "server.pem")
        )
        ca_key, signing_key = (
            load_pem_private_key(read_private(folder / name, missing_hint=_INIT_HINT), password=None)
            for name in ("ca.key.pem", "identity.key.pem")
        )
        consortium, address = str(described["consortium"]), str(described["address"])
    except (ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _damaged(folder) from error
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or not isinstance(signing_key, ed25519.Ed25519PrivateKey):
        raise _damaged(folder)
    return Authority(home, consortium, address, ca, server, signing_key, ca_key)


def _renew(authority: Authority, consortium: str, hosts: Sequence[str], address: str, now: datetime) -> Authority:
    if consortium not in ("", authority.consortium):
        raise PolicyError(
            "AUTHORITY_EXISTS",
            f"{authority.home} holds the authority of {authority.consortium!r}; it is never replaced",
            "use another --home for another consortium",
        )
    names = _all_hosts((*certificates.server_hosts(authority.server), *hosts))
    key = identity.tls_key(authority.server)
    server = certificates.make_server(authority.ca, authority._ca_key, key, names, now)
    write_private(authority.server_certificate_path, server.public_bytes(Encoding.PEM))
    _write_description(authority.home / "authority", authority.consortium, address or authority.address)
    return open_authority(authority.home)


def _write_description(folder: Path, consortium: str, address: str) -> None:
    described = {"version": 1, "consortium": consortium, "address": address}
    write_private(folder / "consortium.json", (json.dumps(described, indent=2) + "\n").encode("ascii"))


def _all_hosts(hosts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*ALWAYS_HOSTS, *hosts)))


def _pem_of_key(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _damaged(folder: Path) -> IdentityError:
    return IdentityError("AUTHORITY_DAMAGED", f"{folder} does not hold an authority", "restore it from your backup")
