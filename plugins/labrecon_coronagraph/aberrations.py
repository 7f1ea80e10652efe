"""Bases of aberrations over a pupil: Zernike and Fourier modes, actuators of a mirror."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.zernike import zernike
from labrecon_coronagraph.fourier import Grid

__all__ = [
    "actuator_places",
    "fourier_frequencies",
    "fourier_modes",
    "influence_functions",
    "waffle",
    "zernikes",
]


def zernikes(pupil: Tensor, count: int) -> Tensor:
    """The first Zernike modes by Noll's index, piston first, (mode, y, x).

    Each has unit root mean square over the round pupil of the array's width without obscuration:
    with coefficients in nm, that is what they are of the wavefront. 0 outside the pupil.

    Args:
        pupil: transmission (y, x), square; its precision is that of the modes.
        count: of modes.

    Raises:
        ValueError: no modes.

    Source: Noll 1976, J. Opt. Soc. Am. 66, 207, eq. 1–3.

    Example:
        >>> from labrecon_coronagraph.pupils import circular
        >>> tilt = zernikes(circular(64), 3)[1]
        >>> [round(float(v), 2) for v in (tilt[32, 0], tilt[32, -1])]
        [-1.97, 1.97]
    """
    if count < 1:
        raise ValueError(f"{count} Zernike modes, expected at least 1")
    grid = Grid.pupil(len(pupil))
    y, x = (2 * axis.to(pupil.device) for axis in grid.meshed())
    inside = (pupil > 0).to(torch.float64)
    modes = [inside * zernike(j, y, x) for j in range(1, count + 1)]
    return torch.stack(modes).to(pupil.dtype)


def fourier_frequencies(cutoff: float) -> Tensor:
    """Half of the whole frequencies (pair, 2) along (y, x) within a cutoff, the lowest first.

    The other half are their negatives; 0, a piston, is not among them. In cycles per aperture.

    Raises:
        ValueError: a cutoff below 1.

    Example:
        >>> fourier_frequencies(1.5)
        tensor([[ 0,  1],
                [ 1,  0],
                [ 1, -1],
                [ 1,  1]])
    """
    if not 1 <= cutoff < math.inf:
        raise ValueError(f"a cutoff of {cutoff} cycles per aperture, expected at least 1")
    reach = math.floor(cutoff)
    found = [
        (fy, fx)
        for fy in range(reach + 1)
        for fx in range(-reach, reach + 1)
        if (fy > 0 or fx > 0) and fy * fy + fx * fx <= cutoff * cutoff
    ]
    return torch.tensor(sorted(found, key=lambda f: (f[0] ** 2 + f[1] ** 2, f)))


def fourier_modes(pupil: Tensor, cutoff: float) -> Tensor:
    """``√2 cos 2πf·x`` and ``√2 sin 2πf·x`` (mode, y, x), cosine first, lowest frequencies first.

    They have unit root mean square over the square of the array.

    Args:
        pupil: transmission (y, x), square; its precision is that of the modes.
        cutoff: largest ``|f|`` in cycles per aperture, see `fourier_frequencies`.
    """
    frequencies = fourier_frequencies(cutoff).to(pupil.device, torch.float64)
    y, x = (axis.to(pupil.device) for axis in Grid.pupil(len(pupil)).meshed())
    fy, fx = frequencies[:, 0, None, None], frequencies[:, 1, None, None]
    phase = 2 * math.pi * (fy * y + fx * x)
    modes = math.sqrt(2) * torch.stack([phase.cos(), phase.sin()], 1)
    return modes.flatten(0, 1).to(pupil.dtype)


def waffle(pupil: Tensor, spots: Sequence[tuple[float, float, float]]) -> Tensor:
    """``Σ a cos 2πf·x`` (y, x): a mirror's sinusoids, each of which makes two copies of the star.

    They lie at ``±f λ/D`` and have ``J₁(φ)²/J₀(φ)²`` of its light, with ``φ = 2πa/λ``: satellite
    spots, by which the star behind a mask is found (Sivaramakrishnan and Oppenheimer 2006).

    Args:
        pupil: transmission (y, x), square; its precision is that of the result.
        spots: cycles per aperture along y and x, and amplitude ``a``, of each sinusoid.
    """
    y, x = (axis.to(pupil.device) for axis in Grid.pupil(len(pupil)).meshed())
    total = torch.zeros_like(pupil, dtype=torch.float64)
    for fy, fx, amplitude in spots:
        total = total + amplitude * torch.cos(2 * math.pi * (fy * y + fx * x))
    return total.to(pupil.dtype)


def actuator_places(pupil: Tensor, across: int) -> Tensor:
    """Row and column (actuator, 2) of the actuators whose cell the pupil lights, row by row.

    Actuators are ``1/(across − 1)`` of the diameter apart, the outermost on its rim: they make
    spatial frequencies up to ``(across − 1)/2`` cycles per aperture.

    Args:
        pupil: transmission (y, x), square.
        across: actuators along the diameter.

    Raises:
        ValueError: fewer than 2, or more than the pupil has samples.
    """
    n = len(pupil)
    if not 2 <= across <= n:
        raise ValueError(
            f"{across} actuators across a pupil of {n} samples, expected from 2 to {n}"
        )
    cell = ((torch.arange(n) + 0.5) / n * (across - 1) + 0.5).floor().long()
    rows, columns = (pupil > 0).nonzero(as_tuple=True)
    places = torch.stack([cell[rows.cpu()], cell[columns.cpu()]], 1)
    return places.unique(dim=0).to(pupil.device)


def influence_functions(pupil: Tensor, across: int, *, coupling: float = 0.15) -> Tensor:
    """``c^{d²/p²}`` around each actuator (actuator, y, x), with ``d`` the distance from it.

    1 on the actuator and ``c`` on its neighbours, a pitch ``p`` away. The actuators are those of
    `actuator_places`.

    Args:
        pupil: transmission (y, x), square; its precision is that of the functions.
        across: actuators along the diameter.
        coupling: ``c``.

    Raises:
        ValueError: a coupling not within 0 and 1.
    """
    if not 0 < coupling < 1:
        raise ValueError(f"a coupling of {coupling} between actuators, expected within 0 and 1")
    places = actuator_places(pupil, across)
    pitch = 1 / (across - 1)
    centres = Grid.centred(across, pitch).axis(0).to(pupil.device)
    axis = Grid.pupil(len(pupil)).axis(0).to(pupil.device)
    falling = coupling ** (((axis - centres[:, None]) / pitch) ** 2)
    falling = falling.to(pupil.dtype)
    return falling[places[:, 0], :, None] * falling[places[:, 1], None, :]
