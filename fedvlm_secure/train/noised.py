"""A hospital's training under a policy's privacy section: the rounds that a worker asks for, each one with noise."""

from __future__ import annotations

from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.session import LocalTraining
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.types import Entropy, Float32Vector
from fedvlm_secure.vlm.tasks.scores import Evaluation


class NoisedTraining:
    """`LocalTraining` whose rounds are private.

    Args:
        training: model and data.
        settings: mechanism and optimizer, this hospital's expected patients among them.
        entropy: of sampling, rounding and noise; never a policy's seed.
    """

    def __init__(self, training: LocalTraining, settings: PrivateSettings, entropy: Entropy) -> None:
        self._training, self._settings, self._entropy = training, settings, entropy

    @property
    def layout(self) -> UpdateLayout:
        """Names and shapes of the flat vector [d]."""
        return self._training.layout

    @property
    def base_fingerprint(self) -> str:
        """64 hexadecimal digits."""
        return self._training.base_fingerprint

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        """One private round (1..rounds) from the global state, float32 [d]; see `LocalTraining.train_private`."""
        return self._training.train_private(round_number, difference, self._settings, self._entropy)

    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> Evaluation:
        """Score the test rows here; the scores are exact and stay at this hospital."""
        return self._training.evaluate(difference, limit)
