"""What can go wrong, and what the caller can do about it.

    PolchainError
    ├── UsageError              2  the command or the call was wrong
    │   ├── RecipeError            the recipe does something that cannot be recorded or replayed
    │   └── PolicyError            the policy cannot be read, or contradicts itself
    ├── EvidenceError           1  what was shown is false or damaged
    │   ├── FormatError            bytes that are not canonical, not of the format, or over a limit
    │   ├── InclusionError         a leaf is not where the proof says
    │   ├── ConsistencyError       one tree does not extend the other
    │   ├── SignatureError         a signature does not verify, or the key is unsafe
    │   ├── KeyMismatchError       signed by another key than the one expected
    │   ├── ChainError             entries out of order, or not linked
    │   ├── ManifestError          tensors, manifest and entry disagree
    │   ├── ConflictError          another digest is already committed at that step
    │   ├── EquivocationError      one key signed two heads of a log that do not extend each other
    │   ├── AnchorError            evidence of time that is false, or of something else
    │   ├── ChallengeError         a challenge, or the answer to one, that is of another log, head or draw
    │   └── RolledBackError        the ledger is older than a head it has signed
    ├── UnavailableError        4  evidence or a service is missing
    │   ├── MissingFileError       a listed file is not there
    │   ├── DatasetError           the data is missing, or is not the data that was committed
    │   ├── DataSecretError        the secret of private data is missing, or is another one
    │   ├── CheckpointMissingError a state that is needed was not kept or not disclosed
    │   ├── RecipeChangedError     the run was started with another recipe
    │   ├── NotReproducedError     this machine does not reproduce what the run recorded
    │   ├── WorkerError            the process that replays died, stalled or talked nonsense
    │   ├── KeyUnavailableError    no key, no passphrase, or the wrong one
    │   ├── StorageError           the disk refused
    │   ├── AnchorUnavailableError the source of time cannot be reached, or refuses
    │   ├── RunLockedError         another process is writing to this run
    │   └── NotEnoughMemoryError   this machine has not enough memory for it
    └── (anything else)         70 a bug in polchain

The number is the exit code of the command line; a subclass has its parent's.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AnchorError",
    "AnchorUnavailableError",
    "BudgetError",
    "ChainError",
    "ChallengeError",
    "CheckpointMissingError",
    "ConflictError",
    "ConsistencyError",
    "DataSecretError",
    "DatasetError",
    "EquivocationError",
    "EvidenceError",
    "FormatError",
    "InclusionError",
    "KeyMismatchError",
    "KeyUnavailableError",
    "ManifestError",
    "MissingFileError",
    "NotEnoughMemoryError",
    "NotReproducedError",
    "PolchainError",
    "PolicyError",
    "RecipeChangedError",
    "RecipeError",
    "RolledBackError",
    "RunLockedError",
    "SignatureError",
    "StorageError",
    "UnavailableError",
    "UsageError",
    "WorkerError",
]


class PolchainError(Exception):
    """Base of every error that polchain raises on purpose.

    Attributes:
        hint: what the caller can do about it, one sentence, possibly empty.
        exit_code: what the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # what Python prints below the message of a script run by hand


class UsageError(PolchainError):
    """The command or the call was wrong."""

    exit_code: ClassVar[int] = 2


class RecipeError(UsageError):
    """The recipe does something that cannot be recorded or replayed."""


class PolicyError(UsageError):
    """The policy cannot be read, or contradicts itself."""


class BudgetError(UsageError):
    """The budget is less than what is replayed in any case."""


class EvidenceError(PolchainError):
    """What was shown is false or damaged."""

    exit_code: ClassVar[int] = 1


class FormatError(EvidenceError):
    """Bytes that are not canonical, not of the format, or over a limit."""


class InclusionError(EvidenceError):
    """A leaf is not where the proof says."""


class ConsistencyError(EvidenceError):
    """One tree does not extend the other."""


class SignatureError(EvidenceError):
    """A signature does not verify, or the key is unsafe."""


class KeyMismatchError(EvidenceError):
    """Signed by another key than the one expected."""


class ChainError(EvidenceError):
    """Entries out of order, or not linked."""


class ManifestError(EvidenceError):
    """Tensors, manifest and entry disagree."""


class ConflictError(EvidenceError):
    """Another digest is already committed at that step."""


class EquivocationError(EvidenceError):
    """One key signed two heads of a log that do not extend each other.

    Attributes:
        proof: both signed notes, whole, and what else somebody needs who has nothing but them. The message ends in it.
    """

    def __init__(self, message: str, *, proof: str = "", hint: str = "") -> None:
        super().__init__(f"{message}\n\n{proof}" if proof else message, hint=hint)
        self.proof = proof


class AnchorError(EvidenceError):
    """Evidence of time that is false, or of something else."""


class ChallengeError(EvidenceError):
    """A challenge, or the answer to one, that is of another log, head or draw, or that holds what nobody asked for."""


class RolledBackError(EvidenceError):
    """The ledger is older than a head it has signed."""


class UnavailableError(PolchainError):
    """Evidence or a service is missing."""

    exit_code: ClassVar[int] = 4


class MissingFileError(UnavailableError):
    """A listed file is not there."""


class DatasetError(UnavailableError):
    """The data is missing, or is not the data that was committed."""


class DataSecretError(UnavailableError):
    """The secret of private data is missing, or is another one."""


class CheckpointMissingError(UnavailableError):
    """A state that is needed was not kept or not disclosed."""


class RecipeChangedError(UnavailableError):
    """The run was started with another recipe."""


class NotReproducedError(UnavailableError):
    """This machine does not reproduce what the run recorded."""


class WorkerError(UnavailableError):
    """The process that replays died, stalled or talked nonsense."""


class KeyUnavailableError(UnavailableError):
    """No key, no passphrase, or the wrong one."""


class StorageError(UnavailableError):
    """The disk refused."""


class AnchorUnavailableError(UnavailableError):
    """The source of time cannot be reached, or refuses."""


class RunLockedError(UnavailableError):
    """Another process is writing to this run."""


class NotEnoughMemoryError(UnavailableError):
    """This machine has not enough memory for it."""
