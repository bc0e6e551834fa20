"""Masks expanded while training runs, in one thread of their own: what is left to do afterwards is one addition."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from fedvlm_secure.secagg.attempt_masks import AttemptMasks, ExpandedMask
from fedvlm_secure.types import Digest


class MasksAhead:
    """At most one attempt's mask, 0.67 of the update's size in memory and never on disk.

    It is lost with the process and dropped with its attempt; the machine can make the same mask again from its journal.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._begun: tuple[Digest, Future[ExpandedMask]] | None = None

    def follow(self, masks: AttemptMasks | None) -> None:
        """Expand the masks of the attempt that the machine is in; those of another one are dropped."""
        if masks is not None and self._begun is not None and self._begun[0] == masks.ctx:
            return
        self._drop()
        if masks is not None:
            self._begun = (masks.ctx, self._pool.submit(masks.expand))

    def take(self) -> ExpandedMask | None:
        """Hand the mask over, for one use; waits until it is whole."""
        begun, self._begun = self._begun, None
        return None if begun is None else begun[1].result()

    def close(self) -> None:
        """Drop what there is and end the thread."""
        self._drop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drop(self) -> None:
        if self._begun is not None:
            self._begun[1].cancel()
            self._begun = None
