"""The server algorithms: what each remembers, and its step on the aggregate alone.

Element-wise float64 in separate calls, like everything in `fl.server`: add, subtract, multiply, divide, sqrt and sign
are correctly rounded (or exact) on every CPU, so that all nodes come to the same bits. There is no bias correction in
Reddi et al. 2021, hence no beta^t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedvlm_secure.fl.server import fedavg
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.types import Float32Vector, Float64Vector

MOMENTUM = "m"
SECOND_MOMENT = "v"
STEPS = "steps"


class ServerAlgorithm(Protocol):
    """Args of both: `model` float32 [d], `mean` float64 [d], the weighted mean of the survivors' updates.

    `noise_variance`: that of the known noise in each coordinate of `mean`, 0.0 where there is none or none is known.
    """

    def begin(self, model: Float32Vector) -> ServerState:
        """A model with the memory that the algorithm starts from."""
        ...

    def step(self, state: ServerState, mean: Float64Vector, noise_variance: float = 0.0) -> ServerState:
        """The state after a round. Numbers of the state that are not the algorithm's stay as they are."""
        ...


@dataclass(frozen=True)
class PlainAverage:
    """FedAvg, and the server's side of FedProx, whose term is in the local objective."""

    def begin(self, model: Float32Vector) -> ServerState:
        return ServerState(model)

    def step(self, state: ServerState, mean: Float64Vector, noise_variance: float = 0.0) -> ServerState:
        return fedavg(state, mean)


@dataclass(frozen=True)
class ServerMomentum:
    """FedAvgM: m = momentum * m + mean; model + server_lr * m.

    Args:
        server_lr: above 0.
        momentum: in [0, 1).
        damped: m = momentum * m + (1 - momentum) * mean, the first m being the mean itself.

    Source: Hsu et al. 2019 (arXiv 1909.06335), section 4.3; `damped`: OpenFedLLM, federated_learning/fed_global.py.
    """

    server_lr: float
    momentum: float
    damped: bool = False

    def begin(self, model: Float32Vector) -> ServerState:
        return ServerState(model, {MOMENTUM: np.zeros(model.shape)}, {STEPS: 0.0} if self.damped else {})

    def step(self, state: ServerState, mean: Float64Vector, noise_variance: float = 0.0) -> ServerState:
        if self.damped:
            momentum = _average(state, mean, self.momentum, first_is_mean=True)
        else:
            momentum = np.add(np.multiply(state.slots[MOMENTUM], self.momentum), mean)
        return _moved(state, np.multiply(momentum, self.server_lr), {MOMENTUM: momentum})


SecondMoment = Callable[[Float64Vector, Float64Vector, float], Float64Vector]
"""(v float64 [d], square float64 [d], beta2) -> next v."""


def adagrad(v: Float64Vector, square: Float64Vector, beta2: float) -> Float64Vector:
    """v + square; `beta2` has no part in it."""
    return np.add(v, square)


def adam(v: Float64Vector, square: Float64Vector, beta2: float) -> Float64Vector:
    """beta2 * v + (1 - beta2) * square."""
    return np.add(np.multiply(v, beta2), np.multiply(square, 1.0 - beta2))


def yogi(v: Float64Vector, square: Float64Vector, beta2: float) -> Float64Vector:
    """v - (1 - beta2) * square * sign(v - square). A square is never negative, nor is v then: it shrinks only where
    it is above. With the variance of known noise taken off, either may be negative."""
    return np.subtract(v, np.multiply(np.multiply(square, 1.0 - beta2), np.sign(np.subtract(v, square))))


@dataclass(frozen=True)
class Adaptive:
    """FedAdagrad, FedAdam, FedYogi: m = beta1 * m + (1 - beta1) * mean; model + server_lr * m / (sqrt(v) + tau).

    Args:
        second_moment: `adagrad`, `adam` or `yogi`, of the squared mean.
        server_lr: above 0.
        tau: adaptivity, above 0; v starts at tau^2, the smallest start that the paper allows.
        beta1, beta2: in [0, 1).
        momentum_squared: v follows m^2 instead of mean^2, and the first m is the mean itself.
        corrected: the known noise is taken off mean^2 before v (and Yogi's sign) sees it, and the step is
            m / sqrt(max(v, tau^2)): without that v would be noise, the same everywhere, and the step plain momentum.

    Source: Reddi et al. 2021 (arXiv 2003.00295), algorithm 2; `momentum_squared`: OpenFedLLM,
    federated_learning/fed_global.py; `corrected`: Tang, Shpilevskiy, Lecuyer 2024 (arXiv 2312.14334), algorithm 1.
    """

    second_moment: SecondMoment
    server_lr: float
    tau: float
    beta1: float
    beta2: float
    momentum_squared: bool = False
    corrected: bool = False

    def begin(self, model: Float32Vector) -> ServerState:
        slots = {MOMENTUM: np.zeros(model.shape), SECOND_MOMENT: np.full(model.shape, self.tau * self.tau)}
        return ServerState(model, slots, {STEPS: 0.0} if self.momentum_squared else {})

    def step(self, state: ServerState, mean: Float64Vector, noise_variance: float = 0.0) -> ServerState:
        momentum = _average(state, mean, self.beta1, first_is_mean=self.momentum_squared)
        squared = momentum if self.momentum_squared else mean
        square = np.multiply(squared, squared)
        if self.corrected:
            square = np.subtract(square, noise_variance)
        v = self.second_moment(state.slots[SECOND_MOMENT], square, self.beta2)
        scaled = np.divide(np.multiply(momentum, self.server_lr), self._root(v))
        return _moved(state, scaled, {MOMENTUM: momentum, SECOND_MOMENT: v})

    def _root(self, v: Float64Vector) -> Float64Vector:
        return np.sqrt(np.maximum(v, self.tau * self.tau)) if self.corrected else np.add(np.sqrt(v), self.tau)


def _average(state: ServerState, mean: Float64Vector, decay: float, *, first_is_mean: bool) -> Float64Vector:
    if first_is_mean and state.numbers[STEPS] == 0.0:
        return mean
    return np.add(np.multiply(state.slots[MOMENTUM], decay), np.multiply(mean, 1.0 - decay))


def _moved(state: ServerState, step: Float64Vector, slots: Mapping[str, Float64Vector]) -> ServerState:
    model = np.add(state.model.astype(np.float64), step).astype(np.float32)
    numbers = dict(state.numbers)
    if STEPS in numbers:
        numbers[STEPS] += 1.0
    return ServerState(model, slots, numbers)
