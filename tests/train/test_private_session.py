"""A hospital's session trains privately without local settings, and never before its model was admitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train import admission, session
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.vlm.adapters import LoraSettings
from fedvlm_secure.vlm.base import shipped_base
from tests.support.entropy import entropy
from tests.train.private_bench import CONTRACT, DATA, SETTINGS


def member() -> LocalTraining:
    return LocalTraining(
        Tuning(shipped_base("tiny-fuyu"), None, "lora", LoraSettings(r=4, factors="ffa"), 1),
        CONTRACT,
        DATA,
        None,
        batch_order=np.random.default_rng,
        split_key=b"split",
    )


def test_rounds_train_from_the_state_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tests: list[float] = []
    real = admission.admit

    def counted(*given: Any) -> float:
        tests.append(real(*given))
        return tests[-1]

    monkeypatch.setattr(session, "admit", counted)
    one = member()
    start = np.zeros(one.layout.dimension, np.float32)
    first = one.train_private(1, start, SETTINGS, entropy("one"))
    second = one.train_private(2, first.update, SETTINGS, entropy("two"))
    assert len(tests) == 1
    np.testing.assert_allclose(one.tuned.read_difference(), first.update + second.update, atol=1e-6)
    again = member().train_private(1, start, SETTINGS, entropy("one"))
    assert np.array_equal(first.update, again.update)


def test_a_model_that_is_not_admitted_trains_on_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> float:
        raise ModelError("DP_FAMILY_REFUSED", "as if", "")

    monkeypatch.setattr(session, "admit", refuse)
    monkeypatch.setattr(session, "train_private", lambda *_, **__: pytest.fail("trained"))
    one = member()
    for _ in range(2):
        with pytest.raises(ModelError):
            one.train_private(1, np.zeros(one.layout.dimension, np.float32), SETTINGS, entropy("one"))


def test_plain_training_without_settings_is_our_mistake() -> None:
    one = member()
    with pytest.raises(ValueError, match="privately"):
        one.train(1, np.zeros(one.layout.dimension, np.float32))
