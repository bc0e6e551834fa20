"""What a call is waited for, and how long: a peer that trickles or falls silent in mid-call is cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import Clock
from fedvlm_secure.wire.tls13 import grpc

FIRST_S = 30.0
"""For the first message of a call."""

CHUNK_S = 60.0
"""For one chunk, either way: 1 MiB in a minute is 140 kbit/s."""


@dataclass(eq=False)
class _Wait:
    cancel: Callable[[], object]
    until_s: float
    overdue: bool = False


class Patience:
    """Waits that have an end. Safe to use from any thread.

    A blocking read of gRPC knows no deadline of its own, so that another thread ends it: the driver's, at each tick.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()

    @contextmanager
    def at_most(self, seconds: float, what: str, cancel: Callable[[], object]) -> Iterator[None]:
        """Do one blocking step of a call.

        Args:
            what: is waited for; stands in the error.
            cancel: ends the call, and with it the step.

        Raises:
            PeerViolation: TOO_SLOW, the call was ended because the step took longer.
        """
        wait = _Wait(cancel, self._clock.now_s() + seconds)
        with self._lock:
            self._waits.add(wait)
        try:
            yield
        except (grpc.RpcError, PeerViolation):
            if not wait.overdue:
                raise
        finally:
            with self._lock:
                self._waits.discard(wait)
        if wait.overdue:  # a cancelled read raises, or looks like the peer's orderly end, with nothing said
            raise PeerViolation("TOO_SLOW", f"{what} did not come within {seconds:g} s", "resume; the call was ended")

    def end_overdue(self) -> None:
        """Cut every call off whose time is over."""
        now_s = self._clock.now_s()
        with self._lock:
            overdue = [wait for wait in self._waits if wait.until_s <= now_s and not wait.overdue]
            for wait in overdue:
                wait.overdue = True
        for wait in overdue:
            wait.cancel()
