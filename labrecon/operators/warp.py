"""Warp: one image as it is seen in each frame, moved by a fraction of a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.operators.interpolation import Kernel
from labrecon.operators.motion import Motion, motion_model
from labrecon.options import whole
from labrecon.space import Space, SpaceError

__all__ = ["Warp"]


class Warp(Operator):
    """``y_k(r) = x(r + d_k(r))``: an image in ``frames`` that move, interpolated between samples.

    Motions are a nuisance ``motion (frame, number)`` in pixels, by default zero: ``p_y, p_x`` of a
    translation, or the six displacements of an
    [affine motion][labrecon.operators.motion.AffineMotion]. ``at(motion=…)`` replaces them, also by
    one set per batch element ``(*batch, frame, number)``, and is differentiable in them. What a
    frame sees beyond the image's border continues its edge samples, which is a guess: `inside`
    tells where.

    Args:
        domain: of the image, whose last two axes move.
        frames: how many.
        motion: "translation" or "affine".
        kernel: "linear", or "cubic" with continuous derivatives, exact for parabolas. Both are
            exact for whole pixels.

    Raises:
        SpaceError: the domain has fewer than two axes, or an option is unknown.

    Example:
        >>> warp = Warp(Space((1, 4)), 2, kernel="linear")
        >>> motion = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
        >>> warp(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), motion=motion)[:, 0].tolist()
        [[1.0, 2.0, 3.0, 3.0], [0.5, 1.5, 2.5, 3.0]]
    """

    motion: Tensor

    def __init__(
        self,
        domain: Space,
        frames: int,
        *,
        motion: Motion = "translation",
        kernel: Kernel = "cubic",
    ) -> None:
        frames = whole("Warp: frames", frames, error=SpaceError)
        target = Space((frames, *domain.shape), domain.dtype, ("frame", *domain.axes))
        super().__init__(domain, target)
        self.model = motion_model(motion, domain.shape, kernel)
        self.nuisance("motion", torch.zeros(frames, self.model.numbers, dtype=domain.real_dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The image in each frame."""
        self.model.require(self.motion, self.range.shape[0])
        return self.model.warp(x, self.motion)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each sample given back to its neighbours, summed over the frames."""
        self.model.require(self.motion, self.range.shape[0])
        return self.model.transpose(y, self.motion)

    def inside(self, motion: Tensor) -> Tensor:
        """Where a frame sees nothing beyond the border: ``(*batch, frame, y, x)``, boolean."""
        self.model.require(motion)
        return self.model.inside(motion)
