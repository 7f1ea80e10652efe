"""The phantoms of learned gradient descent and of learned primal-dual, and the Shepp-Logan one.

Images ``(y, x)`` of the square [-1, 1]², row 0 at y = +1; a pixel has the sum of the values of the
ellipses that its centre lies in, as ODL draws them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EllipseLaw:
    """How ellipses are drawn: values ``(U − offset) · Exp(mean)``, axes ``0.2 · Exp(1)``.

    Attributes:
        count: mean of their Poisson number.
        offset: of the uniform factor of the value.
        mean: of the exponential one.
        reach: centres are uniform in ``[-reach, reach]²``.
    """

    count: float
    offset: float
    mean: float
    reach: float

    def draw(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """``n`` phantoms ``(n, size, size)`` on the generator's device."""
        options = {"generator": generator, "device": generator.device}
        mean = torch.full((n,), float(self.count), device=generator.device)
        counts = torch.poisson(mean, generator)
        most = int(counts.max())
        u = torch.rand(5, n, most, **options)
        e = torch.empty(3, n, most, device=generator.device).exponential_(generator=generator)
        value = (u[0] - self.offset) * self.mean * e[0]
        value = value * (torch.arange(most, device=generator.device) < counts[:, None])
        centre = self.reach * (2 * u[1:3] - 1)
        return raster(size, value, 0.2 * e[1:], centre, 2 * math.pi * u[3])


#: Adler and Öktem 2017, and 2018: they are not the same.
LGD = EllipseLaw(count=100, offset=0.3, mean=0.3, reach=0.5)
LPD = EllipseLaw(count=50, offset=0.5, mean=0.4, reach=1.0)


def raster(size: int, value: Tensor, axes: Tensor, centre: Tensor, angle: Tensor) -> Tensor:
    """Sums of ellipses ``(n, number)`` as images ``(n, size, size)``."""
    ticks = (torch.arange(size, device=value.device) + 0.5) * 2 / size - 1
    x, y = ticks, -ticks[:, None]
    image = value.new_zeros(len(value), size, size)
    for k in range(value.shape[1]):
        a, b = (axis[:, k, None, None].clamp_min(1e-6) for axis in axes)
        cos, sin = angle[:, k, None, None].cos(), angle[:, k, None, None].sin()
        dx, dy = x - centre[0, :, k, None, None], y - centre[1, :, k, None, None]
        inside = ((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2 <= 1
        image += value[:, k, None, None] * inside
    return image


def shepp_logan(size: int) -> Tensor:
    """The modified Shepp-Logan phantom (Toft 1996), values 0 to 1."""
    table = torch.tensor(
        [
            [1.0, 0.69, 0.92, 0.0, 0.0, 0.0],
            [-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0],
            [-0.2, 0.11, 0.31, 0.22, 0.0, -18.0],
            [-0.2, 0.16, 0.41, -0.22, 0.0, 18.0],
            [0.1, 0.21, 0.25, 0.0, 0.35, 0.0],
            [0.1, 0.046, 0.046, 0.0, 0.1, 0.0],
            [0.1, 0.046, 0.046, 0.0, -0.1, 0.0],
            [0.1, 0.046, 0.023, -0.08, -0.605, 0.0],
            [0.1, 0.023, 0.023, 0.0, -0.606, 0.0],
            [0.1, 0.023, 0.046, 0.06, -0.605, 0.0],
        ],
        dtype=torch.float64,
    )
    value, a, b, x, y, degrees = (column[None] for column in table.T)
    image = raster(size, value, torch.stack([a, b]), torch.stack([x, y]), torch.deg2rad(degrees))
    return image[0].float()
