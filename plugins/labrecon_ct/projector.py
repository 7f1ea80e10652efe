"""The CT projector: line integrals of the attenuation, by one of three backends."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from labrecon import Operator, Space, linear_function
from labrecon.design import Box
from labrecon_ct.backends import cache
from labrecon_ct.backends.rays import RayBackend
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.poses import poses

__all__ = ["CTMemoryError", "CTProjector"]

log = logging.getLogger("labrecon_ct")
GIB = 2.0**30
#: Relative error of ASTRA's CUDA back-projection against the transpose of its projection, for
#: smooth arrays (white noise: 14 %). Emulated: see docs/instruments/ct.md.
CUDA_MISMATCH = 0.03
BackendName = Literal["auto", "matrix", "astra", "rays"]


class CTMemoryError(MemoryError):
    """The geometry needs more memory than there is."""


class Backend(Protocol):
    """A linear map from ``(batch, *image)`` to ``(batch, *data)`` and its transpose."""

    def forward(self, x: Tensor) -> Tensor: ...
    def backward(self, y: Tensor) -> Tensor: ...


class CTProjector(Operator):
    """``p(θ, u) = ∫ μ dl``: attenuation μ in 1/mm to dimensionless line integrals.

    Domain ``(y, x)`` or ``(z, y, x)``, range ``(angle, detector)`` or ``(row, angle, column)``.
    A parallel 3D geometry whose rows match slices is computed slice by slice with a 2D backend.

    Backends:
        matrix: ASTRA's CPU matrix as a sparse tensor; all slices at once, exact adjoint. Cached
            on disk by geometry (``$LABRECON_CACHE``).
        astra: ASTRA's projectors; on CUDA its back-projection is not the exact adjoint, which
            `adjoint_mismatch` states.
        rays: torch only; any dtype and device, 2D and 3D; slow and exact.
        auto: CUDA data: astra. Else 2D: matrix within ``memory_budget``, otherwise astra. Else
            rays. The choice and its reason are in `backend` and `reason`.

    ``angles`` (rad) is a design parameter and ``centre`` (offset of the rotation axis in columns) a
    nuisance. With the rays backend their gradients are those of the interpolated integrals; with
    the others they follow the rotation generator, ``∂_θ P_θ f = P_θ(x ∂_y f − y ∂_x f)``, and
    ``∂_c p = −∂_s p``: right for smooth objects to about 1 %, where pixel-exact derivatives of a
    line kernel are useless for descent. New values of either rebuild the projector.

    Args:
        geometry: the acquisition.
        backend: see above.
        kernel: "line" (Siddon), "strip" (area of the ray) or "linear" (Joseph, parallel only) for
            the CPU backends.
        memory_budget: GiB that the matrix may take.
        dtype: float32; the rays backend takes float64 too.
        device: of the data.
        debug: look for unwritten output of ASTRA.

    Raises:
        CTMemoryError: volume and data do not fit in memory; said before anything is allocated.
        ValueError: the backend can not do this geometry.
    """

    def __init__(
        self,
        geometry: CTGeometry,
        *,
        backend: BackendName = "auto",
        kernel: Literal["line", "strip", "linear"] = "line",
        memory_budget: float = 3.0,
        filter: str = "ramp",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        debug: bool = False,
    ) -> None:
        self._built: tuple[Tensor, Tensor, Backend] | None = None
        names = ("z", "y", "x")[-geometry.ndim :]
        data_names = ("angle", "detector") if geometry.ndim == 2 else ("row", "angle", "column")
        super().__init__(
            Space(geometry.volume_shape, dtype, names),
            Space(geometry.data_shape, dtype, data_names),
        )
        _require_memory(self.domain, self.range)
        self.geometry = geometry
        self.flat = geometry.slice_geometry() if geometry.slicewise else geometry
        self.kernel = kernel
        self.filter = filter
        self.debug = debug
        self.memory_budget = memory_budget
        self.asked: str = backend
        self._select(torch.device(device))
        angles = torch.tensor(geometry.angles, dtype=torch.float64)
        self.design("angles", angles, Box(unit="rad"))
        self.nuisance("centre", torch.tensor(geometry.centre_offset, dtype=torch.float64))
        self._start = (angles.clone(), self.centre.detach().clone())
        if torch.device(device).type != "cpu":
            self.to(device)

    def _select(self, device: torch.device) -> None:
        self.backend, self.reason = _choose(
            self.flat, self.asked, self.kernel, self.memory_budget, self.domain.dtype, device
        )
        log.info("CT backend %s: %s", self.backend, self.reason)
        unmatched = self.backend == "astra" and device.type == "cuda"
        self.adjoint_mismatch = CUDA_MISMATCH if unmatched else 0.0
        self._built = None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move to another device: choose the backend again."""
        before = self.angles.device
        super()._apply(fn, recurse)
        if self.angles.device != before:
            self._select(self.angles.device)
        return self

    # -- the map -------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals of ``x``."""
        batch = self.domain.batch(x)
        images = x.reshape(-1, *self.flat.volume_shape)
        if self.backend == "rays" and self._learns:
            centre = self.centre.to(self.angles)
            lines = RayBackend(self.flat, poses(self.flat, self.angles, centre)).project(images)
        else:
            at = self._at()
            lines = linear_function(images, at.forward, at.backward)
            if self._learns:
                lines = self._with_derivatives(lines, images, at)
        return self._stacked(lines).reshape(*batch, *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projection ``Aᵀ y`` (unfiltered)."""
        if self._learns:
            return Operator.adjoint(self, y)
        at = self._at()
        lines = self._sliced(y.reshape(-1, *self.range.shape))
        images = linear_function(lines, at.backward, at.forward)
        return images.reshape(*self.range.batch(y), *self.domain.shape)

    def initial(self, y: Tensor) -> Tensor:
        """Filtered back-projection (FBP, fan FBP or FDK) with the projector's ``filter``."""
        from labrecon_ct.filtering import filtered_backprojection

        if self.geometry.vectors is not None:
            return super().initial(y)
        return filtered_backprojection(self, y, self.filter)

    @property
    def _learns(self) -> bool:
        wanted = self.angles.requires_grad or self.centre.requires_grad
        return wanted and torch.is_grad_enabled()

    def _stacked(self, lines: Tensor) -> Tensor:
        """``(batch · row, angle, column)`` as ``(batch, row, angle, column)`` where slicewise."""
        return lines.reshape(-1, *self.range.shape)

    def _sliced(self, data: Tensor) -> Tensor:
        return data.reshape(-1, *self.flat.data_shape)

    # -- derivatives by angle and centre -------------------------------------------------------

    def _with_derivatives(self, lines: Tensor, images: Tensor, at: Backend) -> Tensor:
        """Add terms that are 0 in value and carry the derivatives by angle and centre."""
        if self.angles.requires_grad:
            turned = linear_function(self._rotation(images), at.forward, at.backward)
            delta = (self.angles - self.angles.detach()).to(lines.dtype)
            lines = lines + delta[:, None] * turned
        if self.centre.requires_grad:
            slope = torch.gradient(lines, dim=-1)[0]
            lines = lines - (self.centre - self.centre.detach()).to(lines.dtype) * slope
        return lines

    def _rotation(self, images: Tensor) -> Tensor:
        """``x ∂_y f − y ∂_x f`` by central differences, y up."""
        ny, nx = images.shape[-2:]
        options = {"dtype": images.dtype, "device": images.device}
        x = torch.arange(nx, **options) - (nx - 1) / 2
        y = (ny - 1) / 2 - torch.arange(ny, **options)
        d_row, d_x = torch.gradient(images, dim=(-2, -1))
        return -x * d_row - y[:, None] * d_x

    # -- backends ------------------------------------------------------------------------------

    def _at(self) -> Backend:
        """The backend for the present angles and centre, rebuilt where they have changed."""
        angles, centre = self.angles.detach(), self.centre.detach()
        if self._built is not None:
            known_angles, known_centre, at = self._built
            if torch.equal(known_angles, angles) and torch.equal(known_centre, centre):
                return at
        at = self._build(angles, centre)
        self._built = angles.clone(), centre.clone(), at
        return at

    def _build(self, angles: Tensor, centre: Tensor) -> Backend:
        pose = poses(self.flat, angles, centre.to(angles))
        if self.backend == "rays":
            return RayBackend(self.flat, pose)
        from labrecon_ct.backends.direct import AstraBackend
        from labrecon_ct.backends.matrix import MatrixBackend

        if self.kernel == "strip" and self.flat.beam == "cone" and not self._as_built(
            angles, centre
        ):
            raise ValueError('a fan\'s strip kernel can not change its angles: take kernel="line"')
        values = pose.cpu().numpy()
        if self.backend == "matrix":
            keep = self._as_built(angles, centre)
            return MatrixBackend(self.flat, values, self.kernel, keep=keep)
        cuda = angles.is_cuda
        return AstraBackend(self.flat, values, self.kernel, cuda=cuda, debug=self.debug)

    def _as_built(self, angles: Tensor, centre: Tensor) -> bool:
        return torch.equal(self._start[0], angles.cpu()) and torch.equal(
            self._start[1], centre.cpu()
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the backend, which holds handles of another library."""
        return {**self.__dict__, "_built": None}


def _choose(
    geometry: CTGeometry,
    wanted: str,
    kernel: str,
    budget: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[str, str]:
    """The backend's name and why."""
    from labrecon_ct.backends.astra_geometry import cuda_available
    from labrecon_ct.backends.matrix import BUILD_FACTOR, matrix_bytes

    if wanted not in ("auto", "matrix", "astra", "rays"):
        raise ValueError(f"backend is auto, matrix, astra or rays, got {wanted!r}")
    cuda = device.type == "cuda"
    if dtype != torch.float32:
        if wanted not in ("auto", "rays"):
            raise ValueError(f"ASTRA computes in float32; {dtype} needs backend='rays'")
        return "rays", f"{dtype} (ASTRA has float32 only)"
    if wanted == "rays":
        return "rays", "asked for"
    if geometry.ndim == 3 and not (cuda and cuda_available()):
        if wanted == "auto":
            return "rays", f"{geometry.kind} needs ASTRA with CUDA, which is not here"
        raise ValueError(
            f"the {wanted} backend can not do {geometry.kind} without CUDA (ASTRA has no 3D CPU "
            "projector); take backend='rays'"
        )
    if wanted == "astra" or (cuda and wanted == "auto"):
        return "astra", "asked for" if wanted == "astra" else "the data are on CUDA"
    if geometry.ndim == 3 or cuda:
        raise ValueError("the matrix backend computes 2D geometries on the CPU")
    need = matrix_bytes(geometry, kernel) / GIB
    free = cache.available_memory() / GIB
    fits = need <= budget and need * BUILD_FACTOR / 2 <= free
    about = f"the matrix takes about {need:.2f} GiB (budget {budget:g}, free memory {free:.1f})"
    if wanted == "matrix" and not fits:
        raise CTMemoryError(f"{about}: raise memory_budget or take backend='astra'")
    return ("matrix", about) if fits else ("astra", f"{about}, too much")


def _require_memory(domain: Space, data: Space) -> None:
    size = domain.dtype.itemsize
    need = (domain.size + data.size) * size / GIB
    free = cache.available_memory() / GIB
    if need > free or math.isinf(need):
        raise CTMemoryError(
            f"a volume {domain.shape} and data {data.shape} take {need:.1f} GiB, and "
            f"{free:.1f} GiB are free: bin or crop the data, or set a smaller volume_shape"
        )
