"""An image between its pixels, by splines of the fifth degree."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Spline"]

DEGREE = 5


class Spline:
    """Values of an image (y, x) at pixels that may lie between its own; its rim goes on outside.

    Cubic convolution (`labrecon_coronagraph.derotation.sampled`) draws a peak of 3.5 pixels' width
    towards the pixels, by up to 0.08 of one: enough for maps, not for the star's place.

    Args:
        image: (y, x), finite.
    """

    def __init__(self, image: Tensor) -> None:
        from scipy.ndimage import spline_filter

        values = image.detach().cpu().double().numpy()
        self.coefficients = spline_filter(values, DEGREE, mode="mirror")

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        """Values of the shape of ``y`` and ``x``."""
        from scipy.ndimage import map_coordinates

        places = torch.stack([y.double(), x.double()]).numpy()
        values = map_coordinates(
            self.coefficients, places, order=DEGREE, mode="mirror", prefilter=False
        )
        return torch.from_numpy(values)
