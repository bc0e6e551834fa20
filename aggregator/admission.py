"""Admission: a hospital's join file to a client certificate and a line in the roster.

HOME/members/retired/ keeps the join files of keys that were renewed or replaced, and of hospitals that left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.authority import Authority
from fedvlm_secure.errors import IdentityError, PolicyError
from fedvlm_secure.policy import identity, join
from fedvlm_secure.policy.join import JoinRequest, member_digest
from fedvlm_secure.policy.private_file import make_private_folder, read_file, write_private
from fedvlm_secure.policy.roster import MAX_NODES, Member, Roster
from fedvlm_secure.types import NodeId

_RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Admission:
    """An admitted hospital. `bundle` is the file to hand back; `fresh` tells whether a certificate was issued now."""

    member: Member
    certificate: x509.Certificate
    bundle: Path
    fresh: bool


def admit(authority: Authority, request: JoinRequest, now: datetime, *, replace: bool = False) -> Admission:
    """Admit a hospital, or give an admitted one its bundle again.

    The same request gives the same certificate until it nears its end; then a new one for the same key. Other keys for
    an admitted id are taken only if its admitted identity signed for them, or on the coordinator's word.

    Args:
        replace: the coordinator's word, after a call, that the hospital lost its keys.

    Raises:
        IdentityError: JOIN_SIGNATURE; JOIN_ID_TAKEN, the id is admitted with other keys; RENEWAL_SIGNATURE;
            JOIN_KEY_TAKEN, a key belongs to another member.
        PolicyError: ROSTER_FULL.
        StorageError: a file cannot be written.
    """
    request.verify()
    members = admitted(authority)
    known = next((member for member in members if member.node == request.node), None)
    asked = Member(request.node, request.identity, request.spki_sha256)
    others = tuple(member for member in members if member.node != request.node)
    if known is None and len(members) >= MAX_NODES:
        raise PolicyError("ROSTER_FULL", f"the roster holds {MAX_NODES} hospitals, its limit")
    if known != asked:
        _check_taken(authority, others, asked)
    if known is not None and known != asked:
        _check_replacement(request, known, replace)
        _retire(authority, known)
    held = authority.home / "members" / f"{request.node}.pem"
    certificate = x509.load_pem_x509_certificate(read_file(held, missing_hint="")) if known == asked else None
    if certificate is not None and identity.spki_sha256(identity.tls_key(certificate)) != asked.spki_sha256:
        certificate = None  # of keys whose admission was interrupted
    fresh = certificate is None or certificate.not_valid_after_utc - now < _RENEW_BEFORE
    if certificate is None or fresh:
        certificate = authority.issue(request.node, identity.tls_key(request.csr), now)
        write_private(held, certificate.public_bytes(Encoding.PEM))
    bundle = authority.home / "outbox" / f"{request.node}.cert.pem"
    write_private(bundle, certificate.public_bytes(Encoding.PEM) + authority.ca.public_bytes(Encoding.PEM))
    if known != asked:  # the join file is the admission: it is written last, so that a crash before it admits nobody
        write_private(_join_path(authority, request.node), request.to_json(), fresh=known is None)
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


def remove(authority: Authority, node: NodeId) -> Member:
    """Take a hospital off the roster, from the next epoch on. Its join file is kept among the retired ones.

    Raises:
        IdentityError: NOT_IN_ROSTER.
        StorageError: a file cannot be written.
    """
    member = roster(authority).member(node)
    _retire(authority, member)
    for path in (_join_path(authority, node), authority.home / "members" / f"{node}.pem"):
        path.unlink(missing_ok=True)
    return member


def _check_taken(authority: Authority, others: tuple[Member, ...], asked: Member) -> None:
    taken = {authority.keys.identity, authority.keys.spki_sha256}
    taken.update(key for member in others for key in (member.identity, bytes(member.spki_sha256)))
    if asked.identity in taken or asked.spki_sha256 in taken:
        raise IdentityError(
            "JOIN_KEY_TAKEN",
            f"a key of {asked.node} belongs to another member",
            "each hospital runs `fedvlm-node init`",
        )


def _check_replacement(request: JoinRequest, known: Member, replace: bool) -> None:
    if request.renewal is not None and not replace:
        request.verify_renewal(known.identity)
    elif not replace:
        raise IdentityError(
            "JOIN_ID_TAKEN",
            f"{request.node} is admitted with other keys",
            "the hospital renews with fedvlm-node renew; if its keys are lost, call it, then admit with --replace",
        )


def _retire(authority: Authority, member: Member) -> None:
    folder = authority.home / "members" / "retired"
    make_private_folder(folder)
    digest = member_digest(member.node, member.identity, member.spki_sha256).hex()
    content = read_file(_join_path(authority, member.node), missing_hint="")
    write_private(folder / f"{member.node}-{digest[:16]}.join", content)


def _join_path(authority: Authority, node: NodeId) -> Path:
    return authority.home / "members" / f"{node}.join"
