"""Lines that fell silent: connections from which the kernel has received no byte for a while.

A firewall that forgot a connection, or a proxy that takes bytes and passes none on, leaves a line that looks alive from
here. Neither of gRPC's own means tells it from a slow one: messages and the echoes of pings queue behind the megabytes
that a slow line holds in its buffers, so that any deadline for them short enough to be of use cuts sound uploads (one
at 100 kB/s after a ping's deadline of 20 s). Bytes do not queue behind bytes, and the kernel notes when the last came.
A node's heartbeat sends some every few seconds.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from aggregator.sessions import Sessions
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import Clock

SILENT_S = 10.0
"""A session whose line is silent so long is ended; the node may connect again."""

_LOOK_S = 1.0
_DESCRIPTORS = Path("/proc/self/fd")
_INFO_BYTES = 104
_LAST_DATA_RECEIVED = 52  # offset of tcpi_last_data_recv in struct tcp_info (linux/tcp.h), u32, milliseconds

Endpoint = tuple[str, int]
"""Address and port of a connection's other end; an IPv4 address is written as such."""


class Lines:
    """Ends sessions over silent lines.

    Args:
        silence: seconds since the last byte, by endpoint; empty where the system does not tell, and then no session is
            ended here: its node counts as lost after the policy's `cohort.deadline`.
    """

    def __init__(
        self,
        sessions: Sessions,
        log: EventLog,
        clock: Clock,
        *,
        silent_s: float = SILENT_S,
        silence: Callable[[], Mapping[Endpoint, float]] | None = None,
    ) -> None:
        self._sessions, self._log, self._clock = sessions, log, clock
        self._silent_s, self._silence = silent_s, silence or tcp_silence
        self._looked_s = clock.now_s()

    def end_silent(self) -> None:
        """Look, at most once a second."""
        now_s = self._clock.now_s()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        silence = self._silence()
        for session in self._sessions.live():
            at = endpoint_of(session.peer)
            silent_s = 0.0 if at is None else silence.get(at, 0.0)
            if silent_s >= self._silent_s:
                self._log.event("silent", node=session.node, peer=session.peer, seconds=round(silent_s, 1))
                session.cancel()


def endpoint_of(peer: str) -> Endpoint | None:
    """The endpoint in gRPC's name of a peer, as `ipv4:10.0.0.1:443` or `ipv6:%5B::1%5D:443`; None if it has none."""
    host, colon, port = unquote(peer).partition(":")[2].rpartition(":")
    if not colon or not port.isdigit():
        return None
    return _plain(host.strip("[]")), int(port)


def tcp_silence() -> dict[Endpoint, float]:
    """Seconds since the last byte arrived, for each TCP connection of this process; Linux only, else empty."""
    found: dict[Endpoint, float] = {}
    if not hasattr(socket, "TCP_INFO"):
        return found
    try:
        names = os.listdir(_DESCRIPTORS)
    except OSError:  # another system, or no descriptor is left to look with
        return found
    for name in names:
        try:
            copy = os.dup(int(name))  # a copy stays what it is while gRPC closes its own
        except OSError:
            continue
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            continue
        with socket.socket(fileno=copy) as line:
            try:
                host, port = line.getpeername()[:2]
                info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            except (OSError, ValueError):  # listens, is gone, or is no TCP connection
                continue
        if len(info) >= _LAST_DATA_RECEIVED + 4:
            found[_plain(host), int(port)] = struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0] / 1000
    return found


def _plain(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
