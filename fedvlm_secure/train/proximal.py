"""FedProx's term in the local objective: mu/2 times the squared distance from where the round started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class ProximalTerm:
    """mu/2 * ||w - w_global||^2 over some parameters, as its gradient mu * (w - w_global).

    Args:
        parameters: at w_global now; the term pulls them back there.
        mu: 0 or more; 0 leaves every gradient as it is.

    Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], mu: float) -> None:
        self._mu = mu
        self._parameters = tuple(parameters) if mu > 0 else ()
        self._anchors = tuple(parameter.detach().clone() for parameter in self._parameters)

    def add_gradient(self) -> None:
        """Add the term's gradient to each parameter's, after the loss's and before the optimizer's step."""
        for parameter, anchor in zip(self._parameters, self._anchors, strict=True):
            if parameter.grad is not None:  # a parameter without gradient does not move, so the term is zero there
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._mu)
