"""gRPC, told to speak TLS 1.3 and nothing below. Take `grpc` from here, never by a plain import.

gRPC has no option for the lowest version from Python. Its list of cipher suites, however, concerns TLS 1.2 only
(BoringSSL fixes those of 1.3), and the federation's certificates are ECDSA: a list of nothing but RSA suites leaves
TLS 1.2 without a common cipher, and TLS 1.3 as it was. gRPC reads the list once, when it is imported. The aggregator
also reads the negotiated version from each peer's auth context; a test offers TLS 1.2 and is turned away.
"""

from __future__ import annotations

import os
import sys

from fedvlm_secure.errors import IdentityError

VERSION = "TLSv1.3"
_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"
_in_time = "grpc" not in sys.modules or os.environ.get(_VARIABLE) == _RSA_ONLY
os.environ[_VARIABLE] = _RSA_ONLY
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a refused handshake is logged by the service, in one line

import grpc  # noqa: E402  (the variable above must be set first)

__all__ = ["VERSION", "grpc", "require_only_tls13"]


def require_only_tls13() -> None:
    """Refuse to go on where gRPC was imported before it could be told.

    Raises:
        IdentityError: TLS_SETTING_LATE.
    """
    if not _in_time:
        raise IdentityError(
            "TLS_SETTING_LATE",
            "gRPC was imported before it could be told to refuse TLS 1.2",
            f"set {_VARIABLE}={_RSA_ONLY} in the environment",
        )
