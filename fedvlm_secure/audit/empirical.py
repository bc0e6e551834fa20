"""EmpiricalAudit: what trials of a policy's mechanism showed, as one unsigned file beside a run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fedvlm_secure.audit.record import Count, Hash, Line, Number, Part, Share, Start, Time
from fedvlm_secure.errors import StorageError

FILE_NAME = "empirical-audit.json"
_MAX_BYTES = 1 << 16


class WhiteBoxShown(Part):
    """One step, many times, with and without one patient; as `train.white_box.WhiteBoxResult`."""

    claimed_mu: Number
    shown_mu: Number
    largest_mu: Number
    confidence: Share
    trials: Count
    judged: Count
    right: Count


class CanariesShown(Part):
    """Made-up patients in one run; as `train.canaries.CanaryResult`."""

    claimed_epsilon: Number
    shown_epsilon: Number
    largest_epsilon: Number
    delta: Share
    confidence: Share
    canaries: Count
    guesses: Count
    right: Count


class EmpiricalAudit(Part):
    """What was tried, under which policy and with which sources.

    Args:
        dimension: d of the small model that stood in for the policy's.
        noise_multiplier: as resolved for that d.
        canaries: None where no canary run was made.
    """

    format: Literal[1] = 1
    made_at: Time
    policy_name: Line
    policy_hash: Hash
    mechanism: Literal["dp_sgd"]
    version: Line
    code: Hash
    dimension: Count
    noise_multiplier: Number
    white_box: WhiteBoxShown
    canaries: CanariesShown | None = None

    @property
    def refuted(self) -> bool:
        """More was shown than is claimed."""
        one_run = self.canaries
        return self.white_box.shown_mu > self.white_box.claimed_mu or (
            one_run is not None and one_run.shown_epsilon > one_run.claimed_epsilon
        )

    def to_bytes(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(indent=1).encode("utf-8") + b"\n"

    def words(self) -> tuple[str, ...]:
        """What was shown, line by line."""
        seen = self.white_box
        lines = [
            f"white-box, {seen.trials} single steps: mu {seen.claimed_mu:.3f} is claimed, at least {seen.shown_mu:.3f} "
            f"is shown (confidence {seen.confidence:g}; at most {seen.largest_mu:.2f} could be)"
        ]
        if self.canaries is not None:
            run = self.canaries
            lines.append(
                f"black-box, one run with {run.canaries} canaries: epsilon {run.claimed_epsilon:.2f} is claimed at "
                f"delta {run.delta:g}, at least {run.shown_epsilon:.2f} is shown (confidence {run.confidence:g}; at "
                f"most {run.largest_epsilon:.2f} could be)"
            )
        return tuple(lines)

    @property
    def verdict(self) -> str:
        """One line, in words."""
        return (
            "REFUTED: the mechanism gives away more than is accounted for"
            if self.refuted
            else "not refuted; trials can refute a claim, never certify it"
        )

    def for_run(self, start: Start | None) -> str:
        """One line for the report of a run that began with `start`."""
        doubts = []
        if start is not None and start.policy_hash != self.policy_hash:
            doubts.append("made for ANOTHER policy")
        if start is not None and start.code != self.code:
            doubts.append("made with other sources than the run's")
        made = f"{self.made_at[:10]}, {'; '.join(self.words())}; {self.verdict}"
        return "; ".join([made, *doubts, "this file is not signed"])


def read_empirical(folder: Path) -> EmpiricalAudit | None:
    """The audit that stands in a run's folder, itself, not below it; None where there is none.

    Raises:
        StorageError: EMPIRICAL_UNREADABLE.
    """
    path = folder / FILE_NAME
    if not path.is_file() or path.is_symlink():
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        return EmpiricalAudit.model_validate_json(path.read_bytes())
    except (OSError, ValueError, ValidationError) as error:
        raise StorageError(
            "EMPIRICAL_UNREADABLE",
            f"{path} is no empirical audit of this version",
            "move it away, or write it again with `fedvlm audit empirical --out FOLDER`",
        ) from error
