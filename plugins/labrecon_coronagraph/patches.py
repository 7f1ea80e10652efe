"""Patches of differential images, planets put into them, and the map that a network makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.learners import sample_generator
from labrecon.operators import Matrix
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon_coronagraph.adi import whole_field
from labrecon_coronagraph.derotation import derotate
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sky import radii
from labrecon_coronagraph.speckles import SpeckleProjection, annulus_labels, temporal_modes

__all__ = ["PatchSamples", "all_patches", "empty_patches", "learned_map", "planet_patch"]


def planet_patch(geometry: CoronagraphGeometry, size: int) -> Tensor:
    """The middle of the PSF (pixel,), ``size × size`` row by row.

    Raises:
        ValueError: an even size, or one larger than the PSF.
    """
    psf = geometry.psf.tensor(torch.float32)
    if size % 2 == 0 or size > min(psf.shape):
        raise ValueError(
            f"patches have an odd size up to that of the PSF, {tuple(psf.shape)}; got {size}"
        )
    rows, columns = ((n - size) // 2 for n in psf.shape)
    return psf[rows : rows + size, columns : columns + size].flatten()


def all_patches(image: Tensor, size: int) -> Tensor:
    """Patches (pixel of the image, pixel of the patch); beyond the rim there is nothing."""
    padded = torch.nn.functional.pad(image[None, None], 4 * [size // 2])
    return torch.nn.functional.unfold(padded, size)[0].mT


def _scaled_map(data: Tensor, geometry: CoronagraphGeometry, modes: int) -> tuple[Tensor, Tensor]:
    """Mean of the turned frames without speckles, over its scatter in rings; and that (y, x)."""
    labels = annulus_labels(geometry.shape, geometry.centre, whole_field(geometry))
    components = temporal_modes(data, labels, modes).to(torch.float32)
    image = derotate(SpeckleProjection(labels, components)(data.float()), geometry).mean(0)
    shape = geometry.field_shape
    rings = radii(shape, ((shape[0] - 1) / 2, (shape[1] - 1) / 2)).round().long()
    scatter = torch.ones_like(image)
    for ring in rings.unique():
        here = rings == ring
        deviation = 1.4826 * image[here].abs().median()
        scatter[here] = torch.where(deviation > 0, deviation, 1.0)
    return image / scatter, scatter


def empty_patches(
    data: Tensor,
    geometry: CoronagraphGeometry,
    *,
    size: int = 11,
    modes: int = 1,
    separations: tuple[float, float] = (0.0, torch.inf),
) -> Tensor:
    """Patches (n, pixel) of what speckles leave behind, to train on, in units of the scatter.

    Frames are turned the wrong way, too, so that what is fixed to the sky does not add up; and each
    patch counts with its mirror image.

    Args:
        data: (frame, y, x), centred, without known planets.
        geometry: of the sequence.
        size: of the patches, odd.
        modes: components besides the mean in time that are taken out.
        separations: least and largest from the star, of the middle of a patch, in pixels.
    """
    shape = geometry.field_shape
    separation = radii(shape, ((shape[0] - 1) / 2, (shape[1] - 1) / 2)).flatten()
    used = (separation >= separations[0]) & (separation <= separations[1])
    found = []
    backwards = geometry.changed(angles=tuple(-angle for angle in geometry.angles))
    for turned in (geometry, backwards):
        patches = all_patches(_scaled_map(data, turned, modes)[0], size)[used]
        mirrored = patches.reshape(-1, size, size).flip(-1).flatten(1)
        found += [patches, mirrored]
    return torch.cat(found)


@dataclass(frozen=True)
class PatchSamples:
    """Patches, half of them with a planet in the middle, for the learner ``Supervised``.

    Fluxes are even on a logarithmic scale over a factor of 30 below the strongest, drawn anew in
    each epoch. Truths are fluxes (batch, 1).

    Attributes:
        patches: (n, pixel), without planets, in units of the scatter.
        planet: image of a planet of flux 1 (pixel,).
        strongest: flux, in that unit.
        seed: of the fluxes.
    """

    patches: Tensor
    planet: Tensor
    strongest: float = 20.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.patches)

    def batch(self, indices: Sequence[int], epoch: int) -> list[tuple[Problem, Tensor]]:
        """One problem with the patches of these indices, and its truths."""
        generator = sample_generator(self.seed, epoch, int(indices[0]))
        n = len(indices)
        flux = self.strongest * 10 ** -(1.5 * torch.rand(n, 1, generator=generator))
        flux = flux * (torch.rand(n, 1, generator=generator) < 0.5)
        data = self.patches[list(indices)] + flux * self.planet
        return [(Problem(Matrix(self.planet[:, None]), data), flux)]


@torch.no_grad()
def learned_map(
    network: Reconstructor,
    data: Tensor,
    geometry: CoronagraphGeometry,
    *,
    size: int = 11,
    modes: int = 1,
) -> Tensor:
    """Map (y, x) of the flux that a network sees in the middle of each patch.

    Args:
        network: as `labrecon_coronagraph.patch_model.patch_network` makes and training leaves it.
        data: (frame, y, x), centred.
        geometry: of the sequence.
        size: of the patches, as in training.
        modes: likewise.
    """
    image, scatter = _scaled_map(data, geometry, modes)
    operator = Matrix(planet_patch(geometry, size)[:, None])
    flux = network(Problem(operator, all_patches(image, size)))[:, 0]
    return flux.reshape(geometry.field_shape) * scatter
