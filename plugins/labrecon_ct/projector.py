"""The CT projector: line integrals of the attenuation, by one of three backends."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from labrecon import Operator, Space, linear_function
from labrecon.design import Box
from labrecon_ct.backends.choice import (
    MATRIX_PAYS,
    BackendName,
    choose,
    require_memory,
)
from labrecon_ct.backends.rays import RayBackend
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.motion import Backend, Motion, backproject, project
from labrecon_ct.poses import poses

__all__ = ["CTProjector"]

log = logging.getLogger("labrecon_ct")
#: Relative error of ASTRA's CUDA back-projection against the transpose of its projection, for
#: smooth arrays (white noise: 14 %). Emulated: see docs/instruments/ct.md.
CUDA_MISMATCH = 0.03
Values = tuple[Tensor, Tensor, Tensor]


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
        auto: CUDA data: astra. Else 2D: matrix within ``memory_budget`` if it pays for ``uses``,
            otherwise astra. Else rays. The choice and its reason are in `backend` and `reason`.

    ``angles`` (rad) is a design parameter; ``centre`` (offset of the rotation axis in columns) and,
    in 3D, ``tilt`` (rotation of the detector in its plane, in degrees) are nuisances. With the rays
    backend their gradients are those of the interpolated integrals; with
    the others they follow the rotation generator, ``∂_θ P_θ f = P_θ(x ∂_y f − y ∂_x f)``, and
    ``∂_c p = −∂_s p``: right for smooth objects to about 1 %, where pixel-exact derivatives of a
    line kernel are useless for descent. They are differentiable again, to any order.

    A tilted detector's rows see several slices: then, and while gradients of the tilt are on, the
    volume is projected as one, by ASTRA on CUDA and else by rays.

    At other values than the geometry's, the matrix backend works through ASTRA's projector of the
    same kernel, which needs no building, and makes a matrix for values that it is applied at for
    long; `settled` gives a projector with a matrix for them. A geometry given by vectors has no
    design ``angles``.

    Args:
        geometry: the acquisition.
        backend: see above.
        kernel: "line" (Siddon), "strip" (area of the ray) or "linear" (Joseph, parallel only) for
            the CPU backends.
        memory_budget: GiB that the matrix may take.
        uses: about how many times it will be applied: "auto" makes no matrix for a few slices that
            are projected once or twice.
        dtype: float32; the rays backend takes float64 too.
        device: of the data.
        debug: look for unwritten output of ASTRA.

    Raises:
        CTMemoryError: volume and data do not fit in memory; said before anything is allocated.
        ValueError: the backend can not do this geometry.
    """

    angles: Tensor
    centre: Tensor
    tilt: Tensor

    def __init__(
        self,
        geometry: CTGeometry,
        *,
        backend: BackendName = "auto",
        kernel: Literal["line", "strip", "linear"] = "line",
        memory_budget: float = 3.0,
        uses: int = 1000,
        filter: str = "ramp",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        debug: bool = False,
    ) -> None:
        self._built: Backend | None = None
        self._moved: _Moved | None = None
        names = ("z", "y", "x")[-geometry.ndim :]
        data_names = ("angle", "detector") if geometry.ndim == 2 else ("row", "angle", "column")
        super().__init__(
            Space(geometry.volume_shape, dtype, names),
            Space(geometry.data_shape, dtype, data_names),
        )
        require_memory(self.domain, self.range)
        self.geometry = geometry
        self._slice = geometry.slice_geometry() if geometry.slicewise else None
        self.kernel = kernel
        self.filter = filter
        self.debug = debug
        self.memory_budget = memory_budget
        self.uses = uses
        self.asked: BackendName = backend
        angles = torch.tensor(geometry.angles, dtype=torch.float64)
        if geometry.vectors is None:
            self.design("angles", angles, Box(unit="rad"))
        else:
            self.register_buffer("angles", angles)
        centre = torch.tensor(geometry.centre_offset, dtype=torch.float64)
        self.nuisance("centre", centre, Box(unit="columns"))
        tilt = torch.tensor(math.degrees(geometry.detector_tilt), dtype=torch.float64)
        if geometry.ndim == 3 and geometry.vectors is None:
            self.nuisance("tilt", tilt, Box(unit="deg"))
        else:
            self.register_buffer("tilt", tilt)
        self._start = angles.clone(), centre.clone(), tilt.clone()
        self._select(torch.device(device))
        if torch.device(device).type != "cpu":
            self.to(device)

    def only(self, axis: str, members: Sequence[int]) -> CTProjector | None:
        """The projector of some views, with the nuisances that this one has."""
        flat = self.geometry
        moved = not torch.equal(self.angles.detach(), self._start[0].to(self.angles.device))
        learned = self.centre.requires_grad or self.tilt.requires_grad
        if axis != "angle" or flat.vectors is not None or moved or learned:
            return None
        dose = flat.dose and tuple(flat.dose[i] for i in members)
        angles = tuple(flat.angles[i] for i in members)
        fewer = CTGeometry.model_validate({**dict(flat), "angles": angles, "dose": dose})
        made = CTProjector(
            fewer,
            backend=self.asked,
            kernel=self.kernel,
            memory_budget=self.memory_budget,
            uses=self.uses,
            filter=self.filter,
            dtype=self.domain.dtype,
            device=self.centre.device,
        )
        with torch.no_grad():
            made.centre.copy_(self.centre)
            made.tilt.copy_(self.tilt)
        return made

    @property
    def flat(self) -> CTGeometry:
        """What is projected at the present tilt: a slice where each row sees its own, or all."""
        tilt = float(self.tilt.detach())
        learned = self.tilt.requires_grad and torch.is_grad_enabled()
        if self._slice is not None and tilt == 0 and not learned:
            return self._slice
        if torch.equal(self._start[2].to(self.tilt), self.tilt):
            return self.geometry
        return self.geometry.model_copy(update={"detector_tilt": math.radians(tilt)})

    def _select(self, device: torch.device) -> None:
        slices = math.prod(self.geometry.volume_shape) // math.prod(self.flat.volume_shape)
        self.backend, self.reason = choose(
            self.flat,
            self.asked,
            self.kernel,
            self.memory_budget,
            self.uses * slices,
            self.domain.dtype,
            device,
        )
        log.info("CT backend %s: %s", self.backend, self.reason)
        unmatched = self.backend == "astra" and device.type == "cuda"
        self.adjoint_mismatch = CUDA_MISMATCH if unmatched else 0.0
        self._built = self._moved = None

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
        batch, flat = self.domain.batch(x), self.flat
        images = x.reshape(-1, *flat.volume_shape)
        if not self._learns:
            at = self._at()
            lines = linear_function(images, at.forward, at.backward)
        elif self._by_rays(flat):
            lines = RayBackend(flat, self._poses(flat)).project(images)
        else:
            lines = project(images, self._motion(flat), self._at())
        return lines.reshape(*batch, *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projection ``Aᵀ y`` (unfiltered)."""
        lines = y.reshape(-1, *self.flat.data_shape)
        if not self._learns:
            at = self._at()
            images = linear_function(lines, at.backward, at.forward)
        elif self._by_rays(self.flat):
            return Operator.adjoint(self, y)
        else:
            images = backproject(lines, self._motion(self.flat), self._at())
        return images.reshape(*self.range.batch(y), *self.domain.shape)

    def initial(self, y: Tensor) -> Tensor:
        """Filtered back-projection (FBP, fan FBP or FDK) with the projector's ``filter``."""
        from labrecon_ct.filtering import filtered_backprojection

        if self.geometry.vectors is not None:
            return super().initial(y)
        return filtered_backprojection(self, y, self.filter)

    @property
    def _learns(self) -> bool:
        wanted = any(p.requires_grad for p in (self.angles, self.centre, self.tilt))
        return wanted and torch.is_grad_enabled()

    def _by_rays(self, flat: CTGeometry) -> bool:
        """Whether rays are sampled in torch: asked for, or a volume where ASTRA has no CUDA."""
        return self.backend == "rays" or (flat.ndim == 3 and not self.angles.is_cuda)

    def _poses(self, flat: CTGeometry) -> Tensor:
        centre, tilt = self.centre.to(self.angles), torch.deg2rad(self.tilt.to(self.angles))
        return poses(flat, self.angles, centre, tilt)

    def _motion(self, flat: CTGeometry) -> Motion:
        aspect = (flat.row_pitch or flat.column_pitch) / flat.column_pitch
        return Motion(self.angles, self.centre, self.tilt, aspect, flat.row_offset)

    # -- backends ------------------------------------------------------------------------------

    @property
    def memory(self) -> int:
        """Bytes that the projection matrix takes; 0 before it is made and for other backends."""
        return int(getattr(self._built, "bytes", 0))

    def settled(self) -> CTProjector:
        """A projector whose geometry has the present angles and centre, with its own matrix."""
        return CTProjector(
            self.geometry.moved(
                self.angles.tolist(), float(self.centre), math.radians(float(self.tilt))
            ),
            backend=self.asked,
            kernel=self.kernel,
            memory_budget=self.memory_budget,
            uses=self.uses,
            filter=self.filter,
            dtype=self.domain.dtype,
            device=self.angles.device,
            debug=self.debug,
        )

    def _at(self) -> Backend:
        """The backend at the present values; never that of earlier ones."""
        values = self.angles.detach(), self.centre.detach(), self.tilt.detach()
        flat = self.flat
        if len(values[0]) != len(self._start[0]):
            raise ValueError(f"{len(self._start[0])} angles, one per view, got {len(values[0])}")
        if _same(self._start, values) and flat.ndim == (self._slice or self.geometry).ndim:
            if self._built is None:
                self._built = self._build(flat, values)
            return self._built
        held = self._moved
        if held is None or held.ndim != flat.ndim or not _same(held.values, values):
            geometry = flat.moved(values[0].tolist(), float(values[1]), flat.detector_tilt)
            kept = values[0].clone(), values[1].clone(), values[2].clone()
            held = _Moved(kept, flat.ndim, geometry, self._build(geometry, values, moved=True))
            self._moved = held
        held.uses += 1
        if held.uses == MATRIX_PAYS and self.backend == "matrix" and flat.ndim == 2:
            held.at = self._build(held.geometry, values)
        return held.at

    def _build(self, geometry: CTGeometry, values: Values, moved: bool = False) -> Backend:
        angles, centre, tilt = (value.double() for value in values)
        pose = poses(geometry, angles, centre, torch.deg2rad(tilt))
        if self._by_rays(geometry):
            return RayBackend(geometry, pose)
        from labrecon_ct.backends.direct import AstraBackend
        from labrecon_ct.backends.matrix import MatrixBackend

        numbers = pose.cpu().numpy()
        if self.backend == "matrix" and not moved:
            return MatrixBackend(geometry, numbers, self.kernel)
        return AstraBackend(geometry, numbers, self.kernel, cuda=angles.is_cuda, debug=self.debug)

    def __getstate__(self) -> dict[str, Any]:
        # The backend holds handles of another library.
        return {**self.__dict__, "_built": None, "_moved": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with values of its own; what was built for the geometry's never changes."""
        memo[id(self._built)] = self._built
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        held = {**self.__dict__, "_moved": None}
        made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in held.items()})
        return made


@dataclass
class _Moved:
    """The backend at other values than the geometry's, and how often it was asked for."""

    values: Values
    ndim: int
    geometry: CTGeometry
    at: Backend
    uses: int = 0


def _same(known: Values, values: Values) -> bool:
    return all(torch.equal(a.to(b), b) for a, b in zip(known, values, strict=True))
