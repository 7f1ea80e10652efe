"""The files of a training: checkpoints and logs."""

from labrecon.training.checkpoints import CheckpointFolder
from labrecon.training.logs import CsvLog, TensorBoardLog

__all__ = ["CheckpointFolder", "CsvLog", "TensorBoardLog"]
