"""Names for what travels: node ids, digests, secrets, entropy and time."""

from __future__ import annotations

import re
from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

NodeId = NewType("NodeId", str)
Digest = NewType("Digest", bytes)
Signature = NewType("Signature", bytes)

Words = NDArray[np.uint64]
Float32Vector = NDArray[np.float32]
Float64Vector = NDArray[np.float64]
Int64Vector = NDArray[np.int64]

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64

_NODE_ID = re.compile(r"[a-z0-9-]{1,64}")


def node_id(text: str) -> NodeId:
    """Check a hospital's name.

    Raises:
        ValueError: `text` does not match `^[a-z0-9-]{1,64}$` (no path, control or markup character can pass).
    """
    if not isinstance(text, str) or _NODE_ID.fullmatch(text) is None:
        raise ValueError(f"node id must match ^[a-z0-9-]{{1,64}}$, got {str(text)[:80]!r}")
    return NodeId(text)


class Secret:
    """Bytes that do not show themselves in a log, a traceback or an equality test that leaks timing."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError("a secret holds bytes")
        self._value = value

    def reveal(self) -> bytes:
        """The bytes themselves; the name is long so that each use is seen in review."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"Secret(<{len(self._value)} bytes>)"

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare secrets by a commitment, not by value")

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> str:
        raise TypeError("a secret is not serialised by accident")


class Entropy(Protocol):
    """A source of uniform bytes. Command-line files name the operating system's; tests a seeded stream."""

    def bytes(self, count: int) -> bytes:
        """Return `count` uniform bytes."""
        ...


class Clock(Protocol):
    """Seconds from an arbitrary start, never going back. Only certificates use wall-clock time."""

    def now_s(self) -> float:
        """Seconds."""
        ...
