"""One stream of bytes that makes every decision of a fuzz case, so that a case is a file and can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads decisions off the front of `raw`; where it has ended every further decision is the first one."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def below(self, bound: int) -> int:
        """A number in [0, bound), bound <= 256."""
        byte = self._raw[self._at] if self._at < len(self._raw) else 0
        self._at += 1
        return byte % bound

    def pick(self, options: Sequence[T]) -> T:
        """One of up to 65,536 options."""
        at = self.below(256) if len(options) <= 256 else self.below(256) << 8 | self.below(256)
        return options[at % len(options)]

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        taken = self._raw[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(max(0, len(self._raw) - self._at))

    @property
    def spent(self) -> bool:
        """Nothing is left to decide."""
        return self._at >= len(self._raw)
