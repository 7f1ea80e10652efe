"""StarImages: images of a star behind a coronagraph, of aberrations that are not known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon.design import Box
from labrecon_coronagraph.aberrations import actuator_places, influence_functions, waffle, zernikes
from labrecon_coronagraph.actuators import mirror_commands
from labrecon_coronagraph.microdots import Microdots
from labrecon_coronagraph.optics import coronagraph_of
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.propagation import intensity

if TYPE_CHECKING:
    from labrecon_coronagraph.propagation import Coronagraph

__all__ = ["StarImages"]


class StarImages(Operator):
    """``I_td = Σ_λ |C_λ{A Φ exp(i2π W_td/λ)}|² / colours``: aberrations (frame, mode) to images.

    ``W_td = Σ_k x_tk Z_k + δ_d Z_4 + Σ_j c_j F_j``: unknown coefficients of Zernike modes from tip
    on, the known defocus of each diversity image, and the mirror's commands, in nm; and its waffle,
    whose satellite spots tell where the star is. Images
    (frame, diversity, y, x) are relative to the peak of the star without mask and apodizer.

    Designs: ``apodizer`` (amplitude 0 to 1, grey or of dots), ``phase`` (of a plate in the pupil,
    rad at λ0, the same path at other wavelengths), ``lyot_stop`` (0 to 1), ``commands`` of the
    mirror in nm.
    Nuisances: ``background`` (of a pixel) and ``flux``.

    Args:
        geometry: of the optics.
        chunk: images to be computed together; with a gradient, memory is that of one chunk.
        dtype: of the coefficients.
    """

    linear = False
    apodizer: Tensor
    phase: Tensor
    lyot_stop: Tensor
    commands: Tensor
    influence: Tensor
    reference: Tensor
    basis: Tensor
    known: Tensor
    background: Tensor
    flux: Tensor

    def __init__(
        self, geometry: OpticsGeometry, *, chunk: int = 16, dtype: torch.dtype = torch.float32
    ) -> None:
        g = geometry
        images = Space(
            (g.frames, len(g.diversity), g.pixels, g.pixels), dtype, ("frame", "image", "y", "x")
        )
        super().__init__(Space((g.frames, g.modes), dtype, ("frame", "mode")), images)
        self.geometry, self.chunk = geometry, chunk
        bare = coronagraph_of(geometry)
        self.optics: Coronagraph = bare
        reference = bare.replaced(apodizer=torch.ones_like(bare.pupil))
        self.register_buffer("reference", reference.peak())
        self.register_buffer("basis", zernikes(bare.pupil, g.modes + 1)[1:].to(dtype))
        defocus = zernikes(bare.pupil, 4)[3]
        known = torch.tensor(g.diversity, dtype=torch.float64)[:, None, None] * defocus
        known = known + waffle(bare.pupil, g.spots)
        self.register_buffer("known", known.to(dtype))
        printed = Microdots() if g.dots else Box(0.0, 1.0)
        self.design("apodizer", bare.apodizer.to(dtype), printed)
        plate = torch.zeros_like(bare.pupil) if g.phase is None else g.phase.tensor(dtype)
        self.design("phase", plate.to(dtype), Box(unit="rad"))
        self.design("lyot_stop", bare.lyot_stop.to(dtype), Box(0.0, 1.0))
        if g.actuators:
            places = actuator_places(bare.pupil, g.actuators)
            self.register_buffer(
                "influence", influence_functions(bare.pupil, g.actuators).to(dtype)
            )
            given = torch.zeros(len(places)) if g.commands is None else g.commands.tensor()
            if len(given) != len(places):
                raise ValueError(
                    f"commands of {len(given)} actuators; over the pupil there are {len(places)}"
                )
            feasible = mirror_commands(places, g.stroke, g.between)
            self.design("commands", given.to(dtype), feasible)
        self.nuisance("background", torch.zeros((), dtype=dtype))
        self.nuisance("flux", torch.ones((), dtype=dtype))

    @property
    def designed(self) -> Coronagraph:
        """The optics with apodizer and Lyot stop as they are now."""
        return self.optics.replaced(apodizer=self.apodizer, lyot_stop=self.lyot_stop)

    def plate(self) -> Tensor:
        """What phase plate and mirror add to the path of the light (y, x), in nm."""
        added = self.phase * (self.geometry.wavelength * 1e3 / (2 * math.pi))
        if self.geometry.actuators:
            added = added + torch.tensordot(self.commands, self.influence, 1)
        return added

    def forward(self, x: Tensor) -> Tensor:
        """Images (…, frame, image, y, x) of coefficients (…, frame, mode) in nm."""
        path = torch.tensordot(x, self.basis, 1)[..., None, :, :] + self.known + self.plate()
        opd = path / (self.geometry.wavelength * 1e3)
        colours = self.designed.images(opd, chunk=self.chunk)
        return self.flux * colours.mean(-3) / self.reference.to(x.dtype) + self.background

    def initial(self, y: Tensor) -> Tensor:
        """A perfect wavefront."""
        return self.domain.zeros(*self.range.batch(y), device=y.device)

    def peak(self) -> Tensor:
        """Peak of the star without focal-plane mask, with apodizer, plate and mirror as they are.

        At the middle wavelength, relative to that without apodizer and plate: the throughput of a
        planet far from the mask.
        """
        turn = self.plate() * (2 * math.pi / (self.geometry.wavelength * 1e3))
        optics = self.optics
        clear = (optics.pupil * optics.lyot_stop).to(turn.dtype)
        passed = optics.pupil.to(turn.dtype) * self.apodizer * self.lyot_stop
        wave = torch.polar(passed.clamp_min(0), turn)
        return intensity(wave.sum()) / clear.sum().square()
