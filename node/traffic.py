"""Bytes that left this hospital, counted where they are handed to gRPC."""

from __future__ import annotations

import threading


class SentBytes:
    """Counts of control messages and of uploads. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control = 0
        self._upload = 0

    def control(self, raw: bytes) -> bytes:
        """Count a control message and pass it on."""
        with self._lock:
            self._control += len(raw)
        return raw

    def upload(self, raw: bytes) -> bytes:
        """Count a part of an upload and pass it on."""
        with self._lock:
            self._upload += len(raw)
        return raw

    def take(self) -> tuple[int, int]:
        """Control and upload bytes since the last call."""
        with self._lock:
            counts = self._control, self._upload
            self._control = self._upload = 0
            return counts
