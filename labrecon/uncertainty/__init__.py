"""Error bars on images: a heuristic deviation, and the factor that makes intervals of it cover."""

from labrecon.uncertainty.calibrate import Calibrated, calibrate_intervals
from labrecon.uncertainty.conformal import CalibrationError, conformal_factor, fewest_objects

__all__ = [
    "Calibrated",
    "CalibrationError",
    "calibrate_intervals",
    "conformal_factor",
    "fewest_objects",
]
