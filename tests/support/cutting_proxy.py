"""A TCP proxy on loopback that cuts connections: what a bad line or a restarted router does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CuttingProxy:
    """Forwards bytes to `target` and cuts each connection whose budget is spent.

    Args:
        target: `host:port`.
        budgets: bytes from the dialling side that each connection may pass, in order of arrival; later ones pass all.
    """

    def __init__(self, target: str, budgets: list[int]) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._budgets = list(budgets)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in [self._listener, *self._open]:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            budget = self._budgets.pop(0) if self._budgets else None
            threading.Thread(target=self._forward, args=(near, far, budget), daemon=True).start()
            threading.Thread(target=self._forward, args=(far, near, None), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        try:
            while budget is None or budget > 0:
                data = source.recv(1 << 16 if budget is None else min(1 << 16, budget))
                if not data:
                    break
                sink.sendall(data)
                budget = None if budget is None else budget - len(data)
            if budget == 0:
                self.cuts += 1
        except OSError:
            return  # the other direction was cut first
        finally:
            for one in (source, sink):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # already down


@contextmanager
def cutting(target: str, budgets: list[int]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(target, budgets)
    try:
        yield proxy
    finally:
        proxy.close()
