"""The network of a simulated federation: what becomes of each message, and which one arrives next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage
from fedvlm_secure.types import NodeId

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Parcel:
    """A message under way. `due_s`: earliest arrival, virtual seconds; `place`: in the order of sending."""

    direction: Direction
    node: NodeId
    message: NodeMessage | AggregatorMessage
    attachment: StoredVector | None
    due_s: float
    place: int


@dataclass(frozen=True)
class Fate:
    """What the network does with one message.

    Attributes:
        delays_s: one copy arrives per entry, so many virtual seconds later; none: it is lost.
        cut: the connection breaks right after, and takes with it whatever is still under way on it.
        chunks: of an upload, so many chunks pass before the break; all of them without one.
    """

    delays_s: tuple[float, ...] = (0.0,)
    cut: bool = False
    chunks: int | None = None


class Network(Protocol):
    """Decides for every message. A connection is a stream: nothing is lost from it without it breaking."""

    def fate(self, direction: Direction, node: NodeId, message: NodeMessage | AggregatorMessage) -> Fate:
        """What becomes of a message that is sent now."""
        ...

    def choose(self, arrived: Sequence[Parcel]) -> Parcel:
        """The next one to be handed over; `arrived` holds at least one, at most one per connection and direction
        unless the network reorders."""
        ...

    @property
    def reorders(self) -> bool:
        """Whether a later message of a connection may overtake an earlier one."""
        ...

    def reconnect_s(self) -> float:
        """Virtual seconds until a broken connection stands again."""
        ...


class PerfectNetwork:
    """Everything arrives at once and in order; what goes up goes first, then what goes down, by the node's name."""

    reorders = False

    def fate(self, direction: Direction, node: NodeId, message: NodeMessage | AggregatorMessage) -> Fate:
        return Fate()

    def choose(self, arrived: Sequence[Parcel]) -> Parcel:
        return min(
            arrived, key=lambda parcel: (0, parcel.place, "") if parcel.direction == "up" else (1, 0, parcel.node)
        )

    def reconnect_s(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Weather:
    """How bad a network is: chances per message, and mean virtual seconds."""

    delay_s: float = 0.2
    slow: float = 0.02
    slow_s: float = 20.0
    duplicate: float = 0.05
    cut: float = 0.02
    overtake: bool = False
    reconnect_s: float = 3.0


CALM = Weather(delay_s=0.01, slow=0.0, duplicate=0.0, cut=0.0, reconnect_s=0.0)
"""Nothing goes wrong any more."""


class RoughNetwork:
    """Delays, repeats, reorders and cuts by chance; equal generators give equal schedules.

    Args:
        rng: seeded by the caller.
        weather: how bad.
    """

    def __init__(self, rng: np.random.Generator, weather: Weather) -> None:
        self._rng, self._weather = rng, weather

    @property
    def reorders(self) -> bool:
        return self._weather.overtake

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self._weather = CALM

    def fate(self, direction: Direction, node: NodeId, message: NodeMessage | AggregatorMessage) -> Fate:
        draw, weather = self._rng.random(3), self._weather
        mean_s = weather.slow_s if draw[0] < weather.slow else weather.delay_s
        copies = 2 if draw[1] < weather.duplicate else 1
        delays_s = tuple(float(delay) for delay in self._rng.exponential(mean_s, copies))
        if draw[2] >= weather.cut:
            return Fate(delays_s)
        return Fate(delays_s[: int(self._rng.integers(0, 2))], cut=True, chunks=int(self._rng.integers(0, 4)))

    def choose(self, arrived: Sequence[Parcel]) -> Parcel:
        return arrived[int(self._rng.integers(len(arrived)))]

    def reconnect_s(self) -> float:
        return float(self._rng.exponential(self._weather.reconnect_s))
