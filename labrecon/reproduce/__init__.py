"""Outputs made again from what their provenance says, and compared."""

from labrecon.reproduce.comparison import Comparison, compare
from labrecon.reproduce.run import Reproduction, finished_scans, reproduce

__all__ = ["Comparison", "Reproduction", "compare", "finished_scans", "reproduce"]
