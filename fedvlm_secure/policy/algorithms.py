"""The server algorithms a policy can name, and their numbers. Each works on the aggregate alone.

`reference_compat: true` asks for the forms of OpenFedLLM (`federated_learning/fed_global.py`, commit 9ee5d04), the code
base that the study FedVLMBench (arXiv 2506.09638) builds on, for comparison with its figures and for nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedvlm_secure.policy.section import Section

ServerRate = Annotated[float, Field(gt=0, le=100)]
Adaptivity = Annotated[float, Field(ge=1e-9, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class FedAvg(Section):
    """The new model is the old one plus the weighted mean of the updates. Source: McMahan et al. 2017, algorithm 1."""

    TAG = "name"

    name: Literal["fedavg"] = "fedavg"


class FedProx(Section):
    """FedAvg, with mu/2 times the squared distance from the round's start added to every hospital's local objective.

    Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2.
    """

    TAG = "name"

    name: Literal["fedprox"]
    mu: float = Field(default=0.01, gt=0, le=1000)


class FedAvgM(Section):
    """Server momentum: m = momentum * m + mean, model + server_lr * m.

    Source: Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", section 4.3.
    `reference_compat`: m = momentum * m + (1 - momentum) * mean, and m = mean in the first round.
    """

    TAG = "name"

    name: Literal["fedavgm"]
    server_lr: ServerRate = 1.0
    momentum: Decay = 0.9
    reference_compat: bool = False


class FedAdagrad(Section):
    """Model + server_lr * m / (sqrt(v) + tau), v the running sum of squared means.

    Source: Reddi et al. 2021, algorithm 2; beta1 0 as in its experiments.
    """

    TAG = "name"

    name: Literal["fedadagrad"]
    server_lr: ServerRate
    tau: Adaptivity = 1e-3
    beta1: Decay = 0.0


class FedAdam(Section):
    """As FedAdagrad with v a decaying average of squared means. Source: Reddi et al. 2021, algorithm 2.

    `reference_compat`: v averages the squares of m instead, and m = mean in the first round.
    """

    TAG = "name"

    name: Literal["fedadam"]
    server_lr: ServerRate
    tau: Adaptivity = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    reference_compat: bool = False


class FedYogi(Section):
    """As FedAdam, but v moves by (1 - beta2) * mean^2 towards mean^2. Source: Reddi et al. 2021, algorithm 2.

    `reference_compat`: the square of m stands for that of the mean, and m = mean in the first round.
    """

    TAG = "name"

    name: Literal["fedyogi"]
    server_lr: ServerRate
    tau: Adaptivity = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    reference_compat: bool = False


Algorithm = FedAvg | FedProx | FedAvgM | FedAdagrad | FedAdam | FedYogi
