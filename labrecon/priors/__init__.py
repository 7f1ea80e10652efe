"""Priors: penalties with their proximal maps."""

from labrecon.priors.box import Box, NonNegative
from labrecon.priors.l1 import L1, GroupL1
from labrecon.priors.tgv import TGV
from labrecon.priors.tikhonov import Tikhonov
from labrecon.priors.tv import TV
from labrecon.priors.wavelet import WaveletL1

__all__ = ["L1", "TGV", "TV", "Box", "GroupL1", "NonNegative", "Tikhonov", "WaveletL1"]
