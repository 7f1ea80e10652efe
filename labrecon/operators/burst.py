"""Burst: frames of one scene taken in a row, each moved by a fraction of a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.operator import LinearityError, Operator
from labrecon.operators.interpolation import Kernel
from labrecon.operators.motion import Motion, motion_model
from labrecon.options import whole
from labrecon.space import Space, SpaceError

__all__ = ["Burst"]


class Burst(Operator):
    """``y_k = C W(p_k) x``: a camera ``C`` behind a motion that differs from frame to frame.

    The nuisance ``motion (frame, number)`` is counted in pixels of the *camera*, as
    [`Warp`][labrecon.operators.warp.Warp] does in those of the image: at pixel ``r`` frame ``k``
    sees what frame 0 sees at ``r + p_k``. It is
    usually unknown and differs from burst to burst: ``operator(x, motion=p)`` takes one per batch
    element ``(*batch, frame, number)``, and `labrecon.solvers.LucasKanade` finds it from the data.
    Motions of a fraction of a pixel are what lets a burst resolve more than a frame.

    Args:
        camera: one frame, from the fine image: `Decimation`, or a lab's own linear operator. The
            last two axes of its domain and of its range are y and x.
        frames: how many.
        motion: "translation" or "affine".
        kernel: of the interpolation, "linear" or "cubic".

    Raises:
        LinearityError: the camera is nonlinear.
        SpaceError: the camera does not map images to images, or an option is unknown.

    Example:
        >>> from labrecon.operators import Decimation
        >>> burst = Burst(Decimation(Space((4, 4)), 2), frames=3)
        >>> burst.range.shape, burst.range.axes, burst.current("motion")["motion"].shape
        ((3, 2, 2), ('frame', 'axis0', 'axis1'), torch.Size([3, 2]))
    """

    motion: Tensor
    scale: Tensor

    def __init__(
        self,
        camera: Operator,
        frames: int,
        *,
        motion: Motion = "translation",
        kernel: Kernel = "cubic",
    ) -> None:
        frames = whole("Burst: frames", frames, error=SpaceError)
        if not camera.linear:
            raise LinearityError(f"Burst needs a linear camera; {camera.name} is not")
        domain, one = camera.domain, camera.range
        if domain.ndim < 2 or one.ndim < 2:
            raise SpaceError(f"Burst: {camera.name} maps {domain} to {one}, not images to images")
        super().__init__(domain, Space((frames, *one.shape), one.dtype, ("frame", *one.axes)))
        self.adjoint_mismatch = camera.adjoint_mismatch
        self.camera = camera
        self.model = motion_model(motion, domain.shape, kernel)
        # Samples of the image per pixel, along the axis that each number moves.
        pitch = [n / m for n, m in zip(domain.shape[-2:], one.shape[-2:], strict=True)]
        scale = torch.tensor([pitch[axis] for axis in self.model.axis], dtype=domain.real_dtype)
        self.register_buffer("scale", scale)
        self.nuisance("motion", torch.zeros(frames, self.model.numbers, dtype=domain.real_dtype))

    @property
    def cell(self) -> int:
        """Pixels, along y and x, after which the camera's colours repeat."""
        return int(getattr(self.camera, "cell", 1))

    def forward(self, x: Tensor) -> Tensor:
        """``C W(p_k) x`` for each frame."""
        return self.camera(self.model.warp(x, self._samples(self.motion, self.range.shape[0])))

    def adjoint(self, y: Tensor) -> Tensor:
        """``Σ_k W(p_k)ᴴ Cᴴ y_k``."""
        motion = self._samples(self.motion, self.range.shape[0])
        return self.model.transpose(self.camera.adjoint(y), motion)

    def _samples(self, motion: Tensor, frames: int | None = None) -> Tensor:
        """Motions in samples of the image."""
        self.model.require(motion, frames)
        return self.scale * motion

    def jacobian(self, x: Tensor, motion: Tensor) -> Tensor:
        """``∂y_k/∂p_k``: the image's slopes as each frame sees them.

        ``(*batch, frame, number, *camera.range.shape)``.
        """
        slopes = self.model.slopes(x, self._samples(motion))
        columns = [
            factor * shape * slopes[axis]
            for axis, shape, factor in zip(
                self.model.axis, self.model.basis(x), self.scale, strict=True
            )
        ]
        return self.camera(torch.stack(columns, -self.domain.ndim - 1))

    @torch.no_grad()
    def inside(self, motion: Tensor) -> Tensor:
        """1 where a pixel sees nothing beyond the image's border, else 0.

        ``(*batch, frame, *camera.range.shape)``, in the dtype of the motion.
        """
        hidden = ~self.model.inside(self._samples(motion))
        border = int(getattr(self.camera, "border", 0))
        if border:
            edge = torch.ones_like(hidden)
            edge[..., border:-border, border:-border] = False
            hidden = hidden | edge
        batch, size = hidden.shape[:-2], hidden.shape[-2:]
        spread = hidden.reshape(*batch, *[1] * self.model.lead, *size)
        seen = self.camera(spread.expand(*batch, *self.domain.shape).to(self.domain.dtype)).abs()
        full = self.camera(torch.ones_like(self.domain.zeros(device=motion.device))).abs().amax()
        # What a filter by FFT leaves of nothing is not quite zero.
        return (seen <= 1e-3 * full).to(motion.dtype)
