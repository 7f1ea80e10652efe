"""The coronagraph that a geometry describes."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Array
from labrecon_coronagraph.apodizer import prolate
from labrecon_coronagraph.focal_masks import FocalMask, LyotDisc, NoMask, Vortex
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.propagation import Coronagraph
from labrecon_coronagraph.pupils import circular, segmented, vlt

__all__ = ["coronagraph_of"]


def coronagraph_of(geometry: OpticsGeometry) -> Coronagraph:
    """Pupil, apodizer, mask and Lyot stop of a geometry, with its image and its wavelengths."""
    g = geometry
    pupil, mask = _pupil(g), _mask(g)
    if isinstance(g.apodizer, Array):
        apodizer = g.apodizer.tensor(torch.float64)
    elif g.apodizer == "prolate":
        assert isinstance(mask, LyotDisc)
        # With spiders it would change its sign; they are left to the Lyot stop.
        apodizer, _ = prolate(vlt(g.samples, spiders=False) if g.pupil == "vlt" else pupil, mask)
    else:
        apodizer = torch.ones_like(pupil)
    return Coronagraph(
        pupil,
        mask,
        image=Grid.centred(g.pixels, g.pixel_scale / g.resolution),
        apodizer=apodizer,
        lyot_stop=_lyot_stop(g, pupil),
        wavelengths=g.wavelengths,
    )


def _pupil(g: OpticsGeometry) -> Tensor:
    if isinstance(g.pupil, Array):
        return g.pupil.tensor(torch.float64)
    if g.pupil == "vlt":
        return vlt(g.samples)
    if g.pupil == "segmented":
        return segmented(g.samples)
    return circular(g.samples, g.obscuration)


def _mask(g: OpticsGeometry) -> FocalMask:
    if g.mask == "disc":
        return LyotDisc(g.mask_radius / g.resolution)
    return Vortex(g.charge) if g.mask == "vortex" else NoMask()


def _lyot_stop(g: OpticsGeometry, pupil: Tensor) -> Tensor:
    if isinstance(g.lyot_stop, Array):
        return g.lyot_stop.tensor(torch.float64)
    if g.lyot_stop >= 1:
        return pupil
    return pupil * circular(g.samples, diameter=g.lyot_stop)
