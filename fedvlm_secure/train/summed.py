"""One round under shared noise: a hospital's clipped sum of gradients, before its share of the noise and the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlm_secure.train.private import clipped_sum
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.rows_of_patients import RowsOfPatients
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.types import Entropy, Float32Vector
from fedvlm_secure.vlm.data.rows import Row


def sum_gradients(
    loss: RowLoss,
    rows: Sequence[Row],
    settings: PrivateSettings,
    *,
    difference: Float32Vector,
    entropy: Entropy,
) -> LocalUpdate:
    """Draw patients, clip and round each one's gradient by itself, and add them up. No step is made here.

    The sum is exact and depends on patients: it goes to the one place where noise is added
    (`rounds.noised_sum`), before anything is stored or sent.

    Args:
        loss: of some rows; its model is put at `difference` first and stays there.
        rows: training rows, not empty.
        settings: sampling and clip; optimizer, divisor and noise are the server step's and the machine's.
        difference: float32 [d], the certified global state.
        entropy: this hospital's own, for sampling and rounding.

    Returns:
        `integers`, int64 [d] in grid steps: the *negative* sum of gradients of the summed loss, so that adding it
        lowers the loss. Nobody drawn gives zeros, as do patients whose gradients round to nothing: a round of noise
        alone, and no error, which others could see. (That the tensors hang on the loss at all, `admit` has shown on
        made-up rows.) Rows and loss are 0.

    Raises:
        ModelError: NON_FINITE_GRADIENT, NON_FINITE_STATE, DP_ROWS_MIXED, DP_LAYER_REFUSED or DP_STALE_PARAMETERS.
        ValueError: no rows.

    Source: McMahan et al. 2018, algorithm 1 with one gradient per patient; Kairouz, Liu, Steinke 2021, algorithm 1.
    """
    tuned = loss.tuned
    tuned.load_difference(difference)
    people = RowsOfPatients(rows)
    clip = settings.clip(tuned.layout.dimension)
    drawn = people.draw(settings.sampling_rate, settings.patient_cap, entropy)
    with RowGradients(loss) as gradients:
        total = clipped_sum(gradients, rows, drawn, settings.microbatch, clip, entropy)
    nothing: Float32Vector = np.zeros(0, dtype=np.float32)
    return LocalUpdate(nothing, rows=0, loss_sum=0.0, loss_count=0, integers=np.negative(total))
