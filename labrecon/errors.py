"""What can go wrong with a scan, and the exit code that the command line gives it."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConformanceFailed",
    "Interrupted",
    "LabreconError",
    "ModelError",
    "NotReproduced",
    "ObjectsError",
    "OutputError",
    "RecipeError",
    "ReconstructionError",
    "ScanError",
    "ScansFailed",
    "TrainingError",
]


class LabreconError(Exception):
    """Something a user can mend; the message says what was given, expected, and what to do."""

    exit_code = 1


class RecipeError(LabreconError):
    """A recipe, or a name given on the command line, is wrong."""

    exit_code = 2


class ModelError(LabreconError):
    """A trained model is damaged, unknown, or was trained for something else."""

    exit_code = 2


class ScanError(LabreconError):
    """A scan can not be read, or its data can not be prepared."""

    exit_code = 3


class ObjectsError(LabreconError):
    """The objects to train on can not be read, or are not such as the operator takes."""

    exit_code = 3


class ReconstructionError(LabreconError):
    """The operator could not be built, or the solve failed."""

    exit_code = 4


class TrainingError(LabreconError):
    """Training failed: a loss that is not finite, no memory, nothing to train."""

    exit_code = 4


class OutputError(LabreconError):
    """The result can not be written."""

    exit_code = 5


class ConformanceFailed(LabreconError):
    """`labrecon check` found something that is wrong."""

    exit_code = 6


class NotReproduced(LabreconError):
    """`labrecon reproduce` got another volume than the one that was stored."""

    exit_code = 8


class ScansFailed(LabreconError):
    """A batch is finished, and some of its scans failed."""

    exit_code = 7


class Interrupted(LabreconError):
    """Ctrl-C in a solve; ``saved`` holds the state from which it can go on."""

    exit_code = 130

    def __init__(self, message: str, saved: Path) -> None:
        super().__init__(message)
        self.saved = saved
