"""The error tree. The type says who is to blame; the code is stable; the hint says what to do.

`ValueError` and `TypeError` stay what they are in Python: a bug of ours, never the peer's or the operator's.
"""

from __future__ import annotations


class FedvlmError(Exception):
    """An error with a stable code, one clear cause and what to do about it.

    Args:
        code: stable upper-case identifier, documented in docs/errors.md.
        cause: one line: the quantity, its value and the bound that does not hold. Never update values or secrets.
        hint: what the reader can do; may be empty.
    """

    exit_code = 1

    def __init__(self, code: str, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.code = code
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.cause} [{self.code}]"


class PolicyError(FedvlmError):
    """The operator's policy, roster or configuration file is wrong or cannot be carried out."""

    exit_code = 2


class DataError(FedvlmError):
    """A hospital's rows or images do not fit the contract."""

    exit_code = 3


class ModelError(FedvlmError):
    """A base model is missing, has another fingerprint, or cannot be tuned as the policy asks."""

    exit_code = 4


class PeerViolation(FedvlmError):
    """A peer sent what the protocol does not allow."""

    exit_code = 5


class UnexpectedMessage(PeerViolation):
    """A peer sent a well-formed message that has no place in the present state."""

    def __init__(self, cause: str) -> None:
        super().__init__("UNEXPECTED_MESSAGE", cause, "the peer is out of step or replays; nothing was answered")


class IdentityError(FedvlmError):
    """A key, certificate or signature does not belong to who it claims to be."""

    exit_code = 6


class StorageError(FedvlmError):
    """Durable state could not be read or written."""

    exit_code = 7


class RunAborted(FedvlmError):
    """The run ended before its last round; the last certified model is kept."""

    exit_code = 8


class BudgetExhausted(FedvlmError):
    """A population's privacy budget does not cover the next round."""

    exit_code = 9
