"""Rows of patients who took back their consent are left out: of what is loaded, and of every later round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.types import Float32Vector
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.ledger_patients import patient_hashes

if TYPE_CHECKING:
    from fedvlm_secure.train.session import LocalTraining
    from fedvlm_secure.train.settings import LocalUpdate
    from fedvlm_secure.vlm.data.rows import HospitalData, Row
    from fedvlm_secure.vlm.tasks.scores import Evaluation

Takes = Callable[[str], bool]
"""Whether the rows of a patient with this id may be used."""


class Rounds(Protocol):
    """`train.session.LocalTraining` or `train.noised.NoisedTraining`."""

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate: ...
    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> Evaluation: ...


def consent_of(config: NodeConfig) -> Takes:
    """Who has not withdrawn from this hospital's population, as its ledger stands now.

    Raises:
        StorageError: the ledger is there and in doubt: then nobody's consent can be told.
    """
    paths = ledger_paths(config.state, config.ledger_anchor)
    if not paths.ledger.exists():
        return lambda patient: True  # nobody withdrew yet; a lost ledger is refused where the budget is opened
    ledger = Ledger(paths, _no_entry)
    gone = ledger.withdrawn(config.population)
    if not gone:
        return lambda patient: True
    return lambda patient: not patient_hashes([patient], ledger.key) & gone


def without_withdrawn(data: HospitalData, takes: Takes) -> HospitalData:
    """The same data without the rows and pictures of patients who withdrew."""
    rows = tuple(row for row in data.rows if takes(row.patient))
    if len(rows) == len(data.rows):
        return data
    kept = sorted({row.picture for row in rows})
    place = {picture: at for at, picture in enumerate(kept)}
    return replace(
        data, rows=tuple(replace(row, picture=place[row.picture]) for row in rows), pictures=data.pictures[kept]
    )


class ConsentingTraining:
    """Rounds that look at the ledger first, so that a withdrawal holds from the next round on, without a restart.

    What stays public stays: expected patients and sampling rate are the policy's, so that neither the divisor nor the
    noise tells that somebody left.

    Args:
        rounds: trains and scores on the rows of `training`.
        training: model and data.
        consent: asked before each round.
        min_patients: on the train side; with fewer there is no round.
    """

    def __init__(
        self, rounds: Rounds, training: LocalTraining, consent: Callable[[], Takes], min_patients: int
    ) -> None:
        self._rounds, self._training = rounds, training
        self._consent, self._min_patients = consent, min_patients

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        """One round (1..rounds) from the global state, float32 [d].

        Raises:
            DataError: TOO_FEW_PATIENTS are left.
            StorageError: the ledger is in doubt.
            ModelError: as the rounds themselves.
        """
        from fedvlm_secure.vlm.data.splitting import require_patients

        self._leave_out()
        require_patients(self._training.train_rows, minimum=self._min_patients)
        return self._rounds.train(round_number, difference)

    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> Evaluation:
        """Score the test rows here."""
        self._leave_out()
        return self._rounds.evaluate(difference, limit)

    def _leave_out(self) -> None:
        takes = self._consent()
        self._training.train_rows = _kept(self._training.train_rows, takes)
        self._training.test_rows = _kept(self._training.test_rows, takes)


def _kept(rows: Iterable[Row], takes: Takes) -> tuple[Row, ...]:
    return tuple(row for row in rows if takes(row.patient))


def _no_entry() -> int:
    raise ValueError("consent is read, never written")
