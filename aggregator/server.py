"""The gRPC server on its port: mutual TLS 1.3, client certificates required, bounded in threads, streams and bytes.

Threads, not asyncio: each stream is a plain loop with back-pressure, file writes block nobody else, and a cohort of a
hundred needs a few hundred sleeping threads. The machine itself runs in one thread (driver.py).
"""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aggregator.calls import FederationCalls
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.types import Secret
from fedvlm_secure.wire.contract import CHANNEL_OPTIONS, SERVICE
from fedvlm_secure.wire.tls13 import grpc, require_only_tls13

_STOP_S = 2.0
_CALLS_PER_NODE = 4
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # otherwise a second server would share the port and take half of the nodes
    ("grpc.max_concurrent_streams", 8),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_time_ms", 4_000),  # gRPC answers where Python is too busy for its heartbeat; see lines.py
)


@dataclass(frozen=True)
class ServerTls:
    """PEM: the server's key and certificate (ECDSA), and the CA that signs the nodes' certificates."""

    key: Secret
    certificate: bytes
    node_ca: bytes


class FederationServer:
    """Listens from `start` to `stop`.

    Args:
        calls: what is served.
        tls: see there.
        nodes: size of the roster; bounds threads and calls.
    """

    def __init__(self, calls: FederationCalls, tls: ServerTls, *, nodes: int) -> None:
        require_only_tls13()
        most_calls = _CALLS_PER_NODE * nodes + 8
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=most_calls, thread_name_prefix="call"),
            options=tuple({**dict(CHANNEL_OPTIONS), **dict(_SERVER_OPTIONS)}.items()),
            maximum_concurrent_rpcs=most_calls,
        )
        handlers = {
            "Session": grpc.stream_stream_rpc_method_handler(calls.session),
            "Upload": grpc.stream_stream_rpc_method_handler(calls.upload),
            "Download": grpc.unary_stream_rpc_method_handler(calls.download),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._credentials = grpc.ssl_server_credentials(
            [(tls.key.reveal(), tls.certificate)], root_certificates=tls.node_ca, require_client_auth=True
        )

    def start(self, listen: str) -> str:
        """Bind and serve.

        Args:
            listen: `host:port`; port 0 takes a free one.

        Returns:
            The bound `host:port`.

        Raises:
            PolicyError: PORT_TAKEN, LISTEN_ADDRESS.
        """
        host, port = _split(listen)
        _check_free(host, port)
        try:
            bound = self._server.add_secure_port(listen, self._credentials)
        except RuntimeError as error:  # somebody was faster between the check and here
            raise _port_taken(listen) from error
        self._server.start()
        return f"{host}:{bound}"

    def stop(self) -> None:
        """Let running calls end for a moment, then cut them."""
        self._server.stop(_STOP_S).wait()


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise PolicyError("LISTEN_ADDRESS", f"{listen!r} is not host:port", "for example 0.0.0.0:7443")
    return host, int(port)


def _check_free(host: str, port: int) -> None:
    """gRPC says only that it could not bind; the system says why."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _port_taken(f"{host}:{port}") from error
        raise PolicyError(
            "LISTEN_ADDRESS", f"{host}:{port} cannot be listened on: {error.strerror}", "check --listen"
        ) from error


def _port_taken(listen: str) -> PolicyError:
    return PolicyError(
        "PORT_TAKEN",
        f"{listen} is in use by another process",
        "stop the other process, or choose another --listen port",
    )
