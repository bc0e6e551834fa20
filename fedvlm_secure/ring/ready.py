"""ReadyIntegers: integers that come clipped and noised, and are only packed."""

from __future__ import annotations

from fedvlm_secure.ring.keystream import CACHE_WORDS
from fedvlm_secure.ring.lanes import LaneFormat
from fedvlm_secure.types import Int64Vector


class ReadyIntegers:
    """What `UpdateEncoder` reads in the place of a quantiser.

    Args:
        integers: int64 [d], noise included. They are read, never changed.
        lanes: of the vector.

    Raises:
        ValueError: an integer outside its lane's room. Cutting it here would be a second clip, behind the noise.
    """

    def __init__(self, integers: Int64Vector, lanes: LaneFormat) -> None:
        if max(-int(integers.min()), int(integers.max())) > lanes.largest:
            raise ValueError("a noised value left its lane")  # unreachable while head-room is what the policy computed
        self._integers = integers

    def span(self, start: int, stop: int) -> ReadySpan:
        """A reader of coordinates `start` to `stop`, from the first on."""
        return ReadySpan(self._integers[start:stop])


class ReadySpan:
    """Reads one span in order."""

    def __init__(self, integers: Int64Vector) -> None:
        self._integers, self._at = integers, 0

    def next(self, most: int) -> Int64Vector:
        """The next integers, at most `most` and at most CACHE_WORDS, none past the span; the caller's to change."""
        part = self._integers[self._at : self._at + min(most, CACHE_WORDS)].copy()
        self._at += len(part)
        return part
