"""The server step of a round: exact integers in, the next state out.

Every operation is an element-wise float64 add, subtract, multiply or divide (IEEE 754: correctly rounded on every
CPU), in separate calls; the model is rounded to float32 at the end. No reduction, power, BLAS or torch: these differ
between CPUs, and every node must come to the same bits.
"""

from __future__ import annotations

import numpy as np

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.types import Float64Vector, Int64Vector


def fedavg(state: ServerState, mean: Float64Vector) -> ServerState:
    """model + mean, float64 [d]; whatever else the state holds stays as it is.

    Source: McMahan et al. 2017, algorithm 1 (weighted average of client models, written as a step).
    """
    stepped = np.add(state.model.astype(np.float64), mean)
    return ServerState(stepped.astype(np.float32), state.slots, state.numbers)


def mean_update(total: Int64Vector, *, scale_bits: int, weight_total: int, weight_bits: int) -> Float64Vector:
    """Exact sum over the weight sum: float64 [d].

    Args:
        total: int64 [d], sum of weight * update in units of 2^-scale_bits.
        weight_total: sum of grid weights, in units of 2^-weight_bits.

    Raises:
        RunAborted: NO_WEIGHT, all survivors had weight zero.
    """
    if weight_total < 1:
        raise RunAborted("NO_WEIGHT", "the survivors' weights sum to zero", "at least one hospital must have rows")
    weights = np.ldexp(float(weight_total), -weight_bits)
    mean: Float64Vector = np.divide(np.ldexp(total.astype(np.float64), -scale_bits), weights)
    return mean
