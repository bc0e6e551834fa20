"""Admission: a hospital's join file to a client certificate and a line in the roster. It only ever adds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.authority import Authority
from fedvlm_secure.errors import IdentityError, PolicyError
from fedvlm_secure.policy import identity, join
from fedvlm_secure.policy.join import JoinRequest
from fedvlm_secure.policy.private_file import read_file, write_private
from fedvlm_secure.policy.roster import MAX_NODES, Member, Roster

_RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Admission:
    """An admitted hospital. `bundle` is the file to hand back; `fresh` tells whether a certificate was issued now."""

    member: Member
    certificate: x509.Certificate
    bundle: Path
    fresh: bool


def admit(authority: Authority, request: JoinRequest, now: datetime) -> Admission:
    """Admit a hospital, or give an admitted one its bundle again.

    The same request gives the same certificate until it nears its end; then a new one for the same key.

    Raises:
        IdentityError: JOIN_SIGNATURE; JOIN_ID_TAKEN, the id is admitted with other keys; JOIN_KEY_TAKEN, a key belongs
            to another member.
        PolicyError: ROSTER_FULL.
        StorageError: a file cannot be written.
    """
    request.verify()
    members = admitted(authority)
    known = next((member for member in members if member.node == request.node), None)
    asked = Member(request.node, request.identity, request.spki_sha256)
    if known is None:
        _check_new(authority, members, asked)
    elif known != asked:
        raise IdentityError(
            "JOIN_ID_TAKEN",
            f"{request.node} is admitted with other keys",
            "a hospital that lost its keys joins under a new id",
        )
    held = authority.home / "members" / f"{request.node}.pem"
    certificate = x509.load_pem_x509_certificate(read_file(held, missing_hint="")) if known is not None else None
    fresh = certificate is None or certificate.not_valid_after_utc - now < _RENEW_BEFORE
    if certificate is None or fresh:
        certificate = authority.issue(request.node, identity.tls_key(request.csr), now)
        write_private(held, certificate.public_bytes(Encoding.PEM))
    bundle = authority.home / "outbox" / f"{request.node}.cert.pem"
    write_private(bundle, certificate.public_bytes(Encoding.PEM) + authority.ca.public_bytes(Encoding.PEM))
    if known is None:  # the join file is the admission: it is written last, so that a crash before it admits nobody
        write_private(_join_path(authority, request), request.to_json(), fresh=True)
    return Admission(asked, certificate, bundle, fresh)


def admitted(authority: Authority) -> tuple[Member, ...]:
    """Every admitted hospital, ordered by id, each from its own signed join file.

    Raises:
        IdentityError: JOIN_UNREADABLE or JOIN_SIGNATURE, a stored join file was changed.
    """
    members = []
    for path in sorted((authority.home / "members").glob("*.join")):
        request = join.parse(read_file(path, missing_hint=""), str(path))
        members.append(Member(request.node, request.identity, request.spki_sha256))
    return tuple(sorted(members, key=lambda member: member.node))


def roster(authority: Authority) -> Roster:
    """The roster to be pinned by every party."""
    return Roster(authority.consortium, authority.keys, admitted(authority))


def _check_new(authority: Authority, members: tuple[Member, ...], asked: Member) -> None:
    if len(members) >= MAX_NODES:
        raise PolicyError("ROSTER_FULL", f"the roster holds {MAX_NODES} hospitals, its limit")
    taken = {authority.keys.identity, authority.keys.spki_sha256}
    taken.update(key for member in members for key in (member.identity, bytes(member.spki_sha256)))
    if asked.identity in taken or asked.spki_sha256 in taken:
        raise IdentityError(
            "JOIN_KEY_TAKEN",
            f"a key of {asked.node} belongs to another member",
            "each hospital runs `fedvlm-node init`",
        )


def _join_path(authority: Authority, request: JoinRequest) -> Path:
    return authority.home / "members" / f"{request.node}.join"
