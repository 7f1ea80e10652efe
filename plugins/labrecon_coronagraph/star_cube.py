"""A star behind a coronagraph, frame by frame: residual phases, and optics that drift."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_coronagraph.focal_masks import NoMask, Vortex
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.geometry import MAS, CoronagraphGeometry
from labrecon_coronagraph.propagation import Coronagraph
from labrecon_coronagraph.pupils import circular

__all__ = ["airy", "star_cube"]

#: Samples of the pupil: images reach to 24 λ/D of its 32.
SAMPLES = 64
LYOT = 0.9


def star_cube(
    geometry: CoronagraphGeometry,
    generator: torch.Generator,
    *,
    residual: float = 0.35,
    drift: float = 0.15,
    correlation: float = 0.95,
    snapshots: int = 24,
) -> Tensor:
    """Frames (frame, y, x) of a star of peak 1 behind a vortex of charge 2.

    The phase is the sum of a quasi-static one, half of which is the same in all frames while the
    other half drifts (AR(1)), and of residuals of the adaptive optics, new in each of the snapshots
    that a frame averages. Speckles of the first stay for minutes and look like planets; the others
    become a smooth halo.

    Args:
        geometry: pixels, star's place, number of frames.
        generator: of the phases.
        residual: of adaptive optics in rad rms.
        drift: of the optics in rad rms.
        correlation: of the drifting half in neighbouring frames.
        snapshots: per frame.
    """
    optics = _optics(geometry, Vortex(2))
    shape = (SAMPLES, SAMPLES)
    static, moving = (_screen(shape, 2.0, generator) for _ in range(2))
    frames = []
    for _ in range(geometry.frames):
        new = _screen(shape, 2.0, generator)
        moving = correlation * moving + math.sqrt(1 - correlation**2) * new
        slow = drift * math.sqrt(0.5) * (static + moving)
        fast = torch.stack([_screen(shape, 11 / 3, generator) for _ in range(snapshots)])
        opd = (slow + residual * fast) / (2 * math.pi)
        frames.append(optics.images(opd)[:, 0].mean(0))
    return torch.stack(frames) / optics.peak()


def airy(pixel_scale: float, wavelength: float, diameter: float, pixels: int) -> Tensor:
    """Image (y, x) of a star off the mask, 1 in its middle pixel, for a geometry's ``psf``.

    Args:
        pixel_scale: mas per pixel.
        wavelength: in µm.
        diameter: of the telescope in m.
        pixels: along each axis, odd.
    """
    step = pixel_scale / (wavelength * 1e-6 / diameter * MAS)
    stop = circular(SAMPLES, diameter=LYOT)
    optics = Coronagraph(
        circular(SAMPLES), NoMask(), image=Grid.centred(pixels, step), lyot_stop=stop
    )
    image = optics.off_axis(torch.zeros(2, dtype=torch.float64))
    return image / image.max()


def _optics(geometry: CoronagraphGeometry, mask: Vortex) -> Coronagraph:
    step = 1 / geometry.resolution
    at = [((n - 1) / 2 - c) * step for n, c in zip(geometry.shape, geometry.centre, strict=True)]
    reach = max(geometry.shape) * step / 2
    if 2 * reach > SAMPLES:
        raise ValueError(
            f"the frames reach to {reach:.3g} λ/D; up to {SAMPLES / 2:g} can be simulated"
        )
    image = Grid(geometry.shape, step, (at[0], at[1]))
    stop = circular(SAMPLES, diameter=LYOT)
    return Coronagraph(circular(SAMPLES), mask, image=image, lyot_stop=stop)


def _screen(shape: tuple[int, int], slope: float, generator: torch.Generator) -> Tensor:
    """A random phase (y, x) of 1 rad rms and power ``|f|^-slope`` from one cycle per pupil on."""
    # Twice as wide as the pupil, so that its edges have nothing to do with each other.
    n = 2 * shape[0]
    f = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) / 2
    square = f[:, None].square() + f.square()
    # A mirror takes out what is slower than a cycle per pupil: tip and tilt among it.
    power = (square + 1.0).pow(-slope / 2)
    power[0, 0] = 0
    white = torch.randn(n, n, generator=generator, dtype=torch.float64)
    screen = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real[: shape[0], : shape[1]]
    screen = screen - screen.mean()
    return screen / screen.square().mean().sqrt()
