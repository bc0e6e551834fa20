"""The hospital's kill switch: a file that the service looks at between two steps, whoever else is reachable or not.

STATE/paused.json     no further step until `fedvlm-node pause --off`; the run may go on here afterwards
STATE/withdrawn.json  leave the present run for good; removed once the journal says so
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from fedvlm_secure.errors import RunAborted, StorageError
from fedvlm_secure.policy.private_file import write_private

_PAUSED, _WITHDRAWN = "paused.json", "withdrawn.json"


class KillSwitch:
    """Both switches of one hospital.

    Args:
        state: the node's folder.
    """

    def __init__(self, state: Path) -> None:
        self._paused, self._withdrawn = state / _PAUSED, state / _WITHDRAWN

    @property
    def paused(self) -> bool:
        """Whether the service must not take another step."""
        return self._paused.exists()

    @property
    def withdrawn(self) -> bool:
        """Whether the operator asked to leave the present run for good."""
        return self._withdrawn.exists()

    @property
    def thrown(self) -> bool:
        """Either of them."""
        return self.paused or self.withdrawn

    def pause(self, now: datetime) -> bool:
        """Pause; False where it was paused before.

        Raises:
            StorageError: the file cannot be written.
        """
        return self._throw(self._paused, now)

    def resume(self) -> bool:
        """Go on; False where it was not paused.

        Raises:
            StorageError: FILE_UNWRITABLE.
        """
        return _remove(self._paused)

    def withdraw(self, now: datetime) -> bool:
        """Ask to leave the run for good; False where that was asked before.

        Raises:
            StorageError: the file cannot be written.
        """
        return self._throw(self._withdrawn, now)

    def withdrawal_done(self) -> None:
        """The journal says it now.

        Raises:
            StorageError: FILE_UNWRITABLE.
        """
        _remove(self._withdrawn)

    def _throw(self, path: Path, now: datetime) -> bool:
        if path.exists():
            return False
        write_private(path, (json.dumps({"since": now.isoformat(timespec="seconds")}) + "\n").encode("ascii"))
        return True


def is_paused() -> RunAborted:
    """NODE_PAUSED: what a paused service ends with."""
    return RunAborted(
        "NODE_PAUSED",
        "this hospital is paused by its operator",
        "fedvlm-node pause --off, then start the service again",
    )


def has_withdrawn() -> RunAborted:
    """NODE_WITHDREW: what a service ends with whose operator left the run."""
    return RunAborted(
        "NODE_WITHDREW",
        "this hospital withdrew from the run; what it had sent cannot be taken out of the model, and stays charged",
        "to take part in another run, approve a policy again",
    )


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(
            "FILE_UNWRITABLE", f"{path}: {error.strerror}", "check owner and mode of the folder"
        ) from error
    return True
