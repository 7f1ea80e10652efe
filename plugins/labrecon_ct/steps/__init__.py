"""Preparation of CT scans, from raw counts to line integrals that are ready to reconstruct."""

from labrecon_ct.steps.bad_pixels import bad_pixels
from labrecon_ct.steps.centre import centre
from labrecon_ct.steps.flat_field import flat_field
from labrecon_ct.steps.noise_level import noise_level
from labrecon_ct.steps.paganin import paganin
from labrecon_ct.steps.rings import rings
from labrecon_ct.steps.views import bin_detector, crop, subset
from labrecon_ct.steps.zingers import zingers

__all__ = [
    "bad_pixels",
    "bin_detector",
    "centre",
    "crop",
    "flat_field",
    "noise_level",
    "paganin",
    "rings",
    "subset",
    "zingers",
]
