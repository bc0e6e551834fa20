"""Who is calling: read from the TLS handshake alone, never from what is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from cryptography import x509

from aggregator.sessions import Sessions
from fedvlm_secure.errors import FedvlmError, IdentityError, PeerViolation, UnexpectedMessage
from fedvlm_secure.policy.peers import node_behind
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire import tls13
from fedvlm_secure.wire.contract import CODE_METADATA
from fedvlm_secure.wire.tls13 import grpc


@dataclass(frozen=True)
class Caller:
    """The roster member behind a connection, and when its certificate ends (seconds since 1970)."""

    node: NodeId
    expires_s: float

    def check_current(self, now_s: float) -> None:
        """Refuse a certificate that has ended since the handshake, which is the last time TLS looked at it.

        Raises:
            IdentityError: CERTIFICATE_EXPIRED.
        """
        if now_s > self.expires_s:
            raise IdentityError(
                "CERTIFICATE_EXPIRED",
                f"the certificate of {self.node} ended while it was connected",
                "have it admitted again, install the new certificate, and restart the node",
            )


def caller_of(context: grpc.ServicerContext, roster: Roster) -> Caller:
    """The roster member behind a connection: the certificate's URI name, and its key as pinned.

    Raises:
        IdentityError: NO_CERTIFICATE, TLS_VERSION, or as `policy.peers.node_behind`.
    """
    auth = cast(Mapping[str, Sequence[bytes]], context.auth_context())  # the stubs know no sequences here
    certificates = auth.get("x509_pem_cert", ())
    if len(certificates) != 1:
        raise IdentityError("NO_CERTIFICATE", "the peer presented no certificate", "use the one that was admitted")
    versions = [version.decode("ascii", "replace") for version in auth.get("ssl_tls_version", ())]
    if versions not in ([], [tls13.VERSION]):  # older gRPC does not tell; its handshake cannot do less all the same
        raise IdentityError("TLS_VERSION", f"the connection speaks {versions}, not {tls13.VERSION}", "update the peer")
    node = node_behind(certificates[0], roster)
    return Caller(node, x509.load_pem_x509_certificate(certificates[0]).not_valid_after_utc.timestamp())


@contextmanager
def admitted(
    context: grpc.ServicerContext, roster: Roster, sessions: Sessions, log: EventLog, wall_s: Callable[[], float]
) -> Iterator[Caller]:
    """One call of a roster member: counted while it lasts; whatever it may not do ends it with one logged reason."""
    node: NodeId | None = None
    try:
        caller = caller_of(context, roster)
        node = caller.node
        caller.check_current(wall_s())
        sessions.enter_call(node)
        try:
            yield caller
        finally:
            sessions.leave_call(node)
    except FedvlmError as error:
        log.event("refused", node=node, peer=context.peer(), code=error.code, cause=error.cause)
        context.set_trailing_metadata(((CODE_METADATA, error.code),))
        context.abort(_status(error), f"{error.code}: {error.cause}")


def _status(error: FedvlmError) -> grpc.StatusCode:
    match error:
        case IdentityError(code="NOT_IN_ROSTER" | "OTHER_NODE"):
            return grpc.StatusCode.PERMISSION_DENIED
        case IdentityError(code="DUPLICATE_SESSION"):
            return grpc.StatusCode.ALREADY_EXISTS
        case IdentityError():
            return grpc.StatusCode.UNAUTHENTICATED
        case PeerViolation(code="TOO_MANY_CALLS"):
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case PeerViolation(code="TOO_SLOW"):
            return grpc.StatusCode.DEADLINE_EXCEEDED
        case UnexpectedMessage():
            return grpc.StatusCode.FAILED_PRECONDITION
        case PeerViolation():
            return grpc.StatusCode.INVALID_ARGUMENT
        case _:
            return grpc.StatusCode.UNAVAILABLE
