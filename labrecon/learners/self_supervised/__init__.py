"""Self-supervised learners: from measured scans alone."""

from labrecon.learners.self_supervised.dealing import Dealing, Part
from labrecon.learners.self_supervised.equivariance import Equivariance
from labrecon.learners.self_supervised.learner import SelfSupervised
from labrecon.learners.self_supervised.misfit import (
    Consistency,
    misfit,
    normalised_misfit,
    object_misfit,
)
from labrecon.learners.self_supervised.noise2inverse import Noise2Inverse, averaged
from labrecon.learners.self_supervised.scans import MeasuredScan, ScanBatch, ScanSamples
from labrecon.learners.self_supervised.ssdu import HeldOutMisfit
from labrecon.learners.self_supervised.sure import Risk
from labrecon.learners.self_supervised.term import Pass, Term

__all__ = [
    "Consistency",
    "Dealing",
    "Equivariance",
    "HeldOutMisfit",
    "MeasuredScan",
    "Noise2Inverse",
    "Part",
    "Pass",
    "Risk",
    "ScanBatch",
    "ScanSamples",
    "SelfSupervised",
    "Term",
    "averaged",
    "misfit",
    "normalised_misfit",
    "object_misfit",
]
