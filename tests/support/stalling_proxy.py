"""A TCP proxy on loopback that stops forwarding upstream after so many bytes: a link that stalls in mid-upload."""

from __future__ import annotations

import contextlib
import socket
import threading

CHUNK_BYTES = 4096


class StallingProxy:
    """Forwards one hospital's connections to the aggregator.

    Args:
        target: "host:port" of the aggregator.
        upstream_bytes: forwarded upstream in all before the stall.
    """

    def __init__(self, target: str, upstream_bytes: int) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._left = upstream_bytes
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Cut what was stalled; new connections pass."""
        self._released.set()

    def close(self) -> None:
        self._released.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            try:
                self._forward(source, sink, upstream)
            finally:  # a close alone waits for the other direction's thread; a shutdown ends both at once
                for end in (source, sink):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def _forward(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        while raw := source.recv(CHUNK_BYTES):
            if upstream and not self._released.is_set():
                self._left -= len(raw)
                if self._left < 0:
                    self.stalled.set()
                    self._released.wait()
                    return  # what the kernel still holds of the dead process never arrives
            sink.sendall(raw)
