"""An instrument whose blur has a width that drifts, for tests of adaptation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field

from labrecon import Gaussian, Instrument, Operator, Scan, Space, hookimpl
from labrecon.instrument import ReaderError

SIGMA = 0.02


class BlurGeometry(BaseModel):
    size: int = Field(16, description="pixels along each side")
    width: float = Field(1.2, description="of the blur, in pixels")
    shift: float = Field(0.0, description="of the second exposure along x, in pixels")


class GaussianBlur(Operator):
    """Two exposures by a periodic Gaussian blur, the second one displaced along x.

    The width of the blur and the displacement are nuisances.
    """

    def __init__(self, geometry: BlurGeometry) -> None:
        space = Space((geometry.size, geometry.size), axes=("y", "x"))
        super().__init__(space, Space((2, *space.shape), axes=("exposure", "y", "x")))
        self.nuisance("width", torch.tensor(geometry.width))
        self.nuisance("shift", torch.tensor(geometry.shift))

    def _transfer(self):
        n = self.domain.shape[0]
        k = 2 * math.pi * torch.fft.fftfreq(n, device=self.width.device)
        half = 2 * math.pi * torch.fft.rfftfreq(n, device=self.width.device)
        decay = torch.exp(-0.5 * self.width**2 * (k[:, None] ** 2 + half**2))
        turn = torch.exp(-1j * self.shift * half)
        return torch.stack([decay + 0j, decay * turn])

    def forward(self, x):
        return torch.fft.irfft2(
            self._transfer() * torch.fft.rfft2(x)[..., None, :, :], s=x.shape[-2:]
        )

    def adjoint(self, y):
        return torch.fft.irfft2(
            (self._transfer().conj() * torch.fft.rfft2(y)).sum(-3), s=y.shape[-2:]
        )

    def solve(self, rhs, rho, *, weights=None, **options):
        if weights is not None:
            return super().solve(rhs, rho, weights=weights, **options)
        power = self._transfer().abs().square().sum(0)
        return torch.fft.irfft2(torch.fft.rfft2(rhs) / (power + rho), s=rhs.shape[-2:])

    def initial(self, y):
        return self.solve(self.adjoint(y), 1e-2)


class Reader:
    """NumPy archives with the key ``blurred``."""

    def matches(self, path: Path) -> bool:
        return path.suffix == ".blur"

    def read(self, path: Path) -> Scan:
        try:
            with path.open("rb") as handle, np.load(handle) as file:
                data, width = torch.from_numpy(file["blurred"]), float(file["width"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ReaderError(f"is damaged: {error}") from error
        geometry = BlurGeometry(size=data.shape[-1], width=width)
        return Scan(data, geometry, Gaussian(SIGMA), provenance={"format": "blur"})


class Drifting(Instrument):
    """A camera that goes out of focus."""

    name = "drifting"
    title = "Camera that goes out of focus"
    Geometry = BlurGeometry
    limits = (0.0, None)

    def example(self) -> BlurGeometry:
        return BlurGeometry()

    def operator(self, geometry: BlurGeometry) -> Operator:
        return GaussianBlur(geometry)

    def objects(self, geometry: BlurGeometry, n: int, generator: torch.Generator) -> torch.Tensor:
        """Rectangles of random places and heights."""
        x = torch.zeros(n, geometry.size, geometry.size)
        for image in x:
            for _ in range(3):
                top, left = torch.randint(0, geometry.size - 5, (2,), generator=generator).tolist()
                height = float(torch.rand((), generator=generator))
                image[top : top + 5, left : left + 4] += 0.5 + height
        return x

    def noise(self, geometry: BlurGeometry) -> Gaussian:
        return Gaussian(SIGMA)

    @property
    def readers(self):
        return {"blur": Reader()}


class DriftingPlugin:
    @hookimpl
    def labrecon_instruments(self):
        return {"drifting": Drifting}


plugin = DriftingPlugin()


def write_scan(
    path: Path,
    seed: int,
    width: float,
    *,
    told: float | None = None,
    shift: float = 0.0,
    size: int = 16,
) -> torch.Tensor:
    """A scan by a blur of some width, of which the file tells another, or a shift; the object."""
    path.parent.mkdir(exist_ok=True)
    geometry = BlurGeometry(width=width, shift=shift, size=size)
    scan = Drifting().simulate(geometry, torch.Generator().manual_seed(seed))
    with path.open("wb") as stream:
        np.savez(stream, blurred=scan.data.numpy(), width=width if told is None else told)
    return scan.truth
