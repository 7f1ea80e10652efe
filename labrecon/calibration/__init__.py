"""Calibration: nuisances of an operator estimated jointly with the object, with their errors."""

from labrecon.calibration.conclusion import conclude
from labrecon.calibration.information import Information, information
from labrecon.calibration.projection import calibrate
from labrecon.calibration.result import Calibration, Estimate
from labrecon.calibration.uncertainty import Uncertainty, uncertainty
from labrecon.calibration.unknowns import Unknowns

__all__ = [
    "Calibration",
    "Estimate",
    "Information",
    "Uncertainty",
    "Unknowns",
    "calibrate",
    "conclude",
    "information",
    "uncertainty",
]
