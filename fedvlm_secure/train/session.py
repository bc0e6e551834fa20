"""One hospital's model and data, ready to train and to be scored round after round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedvlm_secure import canonical
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.train.admission import admit
from fedvlm_secure.train.patient_scores import PatientTotals, by_patient, patient_totals
from fedvlm_secure.train.plain import train_plain
from fedvlm_secure.train.private import train_private
from fedvlm_secure.train.private_gradients import RowLoss
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.settings import LocalSettings, LocalUpdate
from fedvlm_secure.train.summed import sum_gradients
from fedvlm_secure.types import Entropy, Float32Vector
from fedvlm_secure.vlm.adapters import LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import load_base
from fedvlm_secure.vlm.contract import Contract, check_vocabulary
from fedvlm_secure.vlm.data.rows import SCORED_TASKS, HospitalData, Pictures, Row
from fedvlm_secure.vlm.data.splitting import require_patients, split_rows
from fedvlm_secure.vlm.device import device_faults
from fedvlm_secure.vlm.export import export_adapter
from fedvlm_secure.vlm.tasks.answers import answer_questions
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from fedvlm_secure.vlm.tasks.scores import Evaluation, score_answers


@dataclass(frozen=True)
class Tuning:
    """What the policy says about the model.

    Args:
        base_dir: this hospital's copy of the base.
        base_sha256: the pinned fingerprint, or None in a study.
        strategy: what trains.
        lora: rank, scale, factors.
        seed: gives the common start.
        device: where the model computes, as `vlm.device.prepare_device` found it.
    """

    base_dir: Path
    base_sha256: str | None
    strategy: Strategy
    lora: LoraSettings
    seed: int
    device: str = "cpu"


class LocalTraining:
    """Model and data of one hospital.

    Args:
        tuning: base, strategy and seed.
        contract: what the data must fit.
        data: all rows of the hospital; split here.
        settings: local optimizer of `train`; None where only `train_private` is used.
        batch_order: round number -> generator of that round's batch order, made by the caller from seed and label.
        split_key: key of the patient hash, used where rows carry no split.
        tasks: kinds that train and are scored; rows of other kinds are left out.
        min_patients: on the train side.

    Raises:
        DataError: rows, split, vocabulary or number of patients do not fit.
        ModelError: base or strategy do not fit, or DEVICE_MEMORY; each method may fail with that or DEVICE_FAILED.
    """

    def __init__(
        self,
        tuning: Tuning,
        contract: Contract,
        data: HospitalData,
        settings: LocalSettings | None,
        *,
        batch_order: Callable[[int], np.random.Generator],
        split_key: bytes,
        tasks: Sequence[str] = SCORED_TASKS,
        min_patients: int = 1,
    ) -> None:
        import torch

        kept = [row for row in data.rows if row.task in frozenset(tasks)]
        split = split_rows(kept, key=split_key)
        self.patients = require_patients(split.train, minimum=min_patients)
        check_vocabulary(contract, split.train)
        self.train_rows, self.test_rows = split.train, split.test
        self._contract, self._pictures, self._settings = contract, data.pictures, settings
        self._batch_order = batch_order
        self._device = torch.device(tuning.device)
        with device_faults(self._device):
            base = load_base(tuning.base_dir, sha256=tuning.base_sha256, device=tuning.device)
            self.tuned = TunedModel(base, strategy=tuning.strategy, lora=tuning.lora, seed=tuning.seed)
        self._codec = PromptCodec(base, contract)
        self._admitted = False

    @property
    def layout(self) -> UpdateLayout:
        """Names and shapes of the flat vector [d]."""
        return self.tuned.layout

    @property
    def base_fingerprint(self) -> str:
        """64 hexadecimal digits, see `vlm.base`."""
        return self.tuned.base.fingerprint

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        """Train one round (1..rounds) from the global state; see `train_plain`.

        Raises:
            ValueError: this session was made without settings.
        """
        if self._settings is None:
            raise ValueError("a session without local settings trains privately or not at all")
        with device_faults(self._device):
            return train_plain(
                self.tuned,
                self._codec,
                self.train_rows,
                self._pictures,
                self._settings,
                round_number=round_number,
                difference=difference,
                rng=self._batch_order(round_number),
            )

    def train_private(
        self, round_number: int, difference: Float32Vector, settings: PrivateSettings, entropy: Entropy
    ) -> LocalUpdate:
        """Train one round (1..rounds) by DP-SGD; see `train.private`. The model is put to `admit` before the first one.

        Args:
            round_number: decides the learning rate alone.
            difference: float32 [d], the certified global state.
            settings: public mechanism and optimizer.
            entropy: this hospital's own, never the policy's seed.

        Raises:
            ModelError: DP_FAMILY_REFUSED with the reason, and those of `train_private`.
        """
        with device_faults(self._device):
            loss = self._row_loss()
            return train_private(
                loss, self.train_rows, settings, round_number=round_number, difference=difference, entropy=entropy
            )

    def sum_gradients(self, difference: Float32Vector, settings: PrivateSettings, entropy: Entropy) -> LocalUpdate:
        """One round's clipped sum of gradients before noise, see `train.summed`; arguments as for `train_private`.

        Raises:
            ModelError: DP_FAMILY_REFUSED with the reason, and those of `sum_gradients`.
        """
        with device_faults(self._device):
            return sum_gradients(self._row_loss(), self.train_rows, settings, difference=difference, entropy=entropy)

    def _row_loss(self) -> RowLoss:
        """The loss of rows of a model that was admitted, before its first private round."""
        if not self._admitted:
            admit(self.tuned, self._codec, self._contract)
            self._admitted = True
        return RowLoss(self.tuned, self._codec, self._pictures)

    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> Evaluation:
        """Score the test rows at a global state.

        Args:
            difference: float32 [d].
            limit: at most so many questions, the same ones in every round; None asks all.
        """
        self.tuned.load_difference(difference)
        return self._scores(sampled(self.test_rows, limit))

    def score_patients(self, difference: Float32Vector, tasks: Sequence[str]) -> PatientTotals:
        """Sums over every test patient, for a noised release.

        All of them are asked, each in batches of its own: no other patient's presence decides which questions are
        asked (as a limit would), nor turns a tie in a shared batch.

        Args:
            difference: float32 [d].
            tasks: kinds of questions released.
        """
        self.tuned.load_difference(difference)
        patients = by_patient(self.test_rows)
        return patient_totals((self._scores(rows) for rows in patients), tasks)

    def export(self, difference: Float32Vector, out_dir: Path) -> tuple[Path, ...]:
        """Write the tuned adapter at a global state; see `vlm.export`."""
        self.tuned.load_difference(difference)
        return export_adapter(self.tuned, out_dir)

    def _scores(self, rows: Sequence[Row]) -> Evaluation:
        with device_faults(self._device):
            return score_rows(self.tuned, self._codec, self._contract, rows, self._pictures)


def score_rows(
    tuned: TunedModel, codec: PromptCodec, contract: Contract, rows: Sequence[Row], pictures: Pictures
) -> Evaluation:
    """Generate and score answers at the model's present state.

    Args:
        rows: questions to ask; allowed answers are a row's choices, else the contract's vocabulary.
        pictures: uint8 [n, side, side, 3] that the rows point into.
    """
    if not rows:
        return Evaluation({}, {})
    pixels = codec.pixels(pictures[[row.picture for row in rows]])
    answers = answer_questions(
        tuned.model,
        codec,
        [row.question for row in rows],
        pixels,
        [row.choices or contract.vocabulary for row in rows],
    )
    return score_answers(rows, answers)


def sampled(rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """A fixed subset that does not depend on the order of other rows: the `limit` smallest hashes of row numbers."""
    if limit is None or limit >= len(rows):
        return tuple(rows)
    marks = {number: hashlib.sha256(canonical.encode(["test-subset", number])).digest() for number in range(len(rows))}
    chosen = sorted(sorted(marks, key=lambda number: marks[number])[:limit])
    return tuple(rows[number] for number in chosen)
