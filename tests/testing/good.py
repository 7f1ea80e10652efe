"""A right operator and a right instrument, of which wrong ones are made by one change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from labrecon import Gaussian, Instrument, Operator, Scan, Space
from labrecon.design import Box
from labrecon.instrument import ReaderError


class Geometry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(20, ge=4, description="pixels along each side")
    gain: tuple[float, ...] = Field((0.5, 1.0, 0.75), description="gain per exposure")
    sigma: float = Field(0.02, gt=0, description="noise, in units of the object")


class Good(Operator):
    """Every exposure shows a shifted mean of neighbours, times a gain."""

    def __init__(self, geometry: Geometry | None = None, dtype: torch.dtype = torch.float32):
        geometry = geometry or Geometry()
        n, k = geometry.size, len(geometry.gain)
        super().__init__(
            Space((n, n), dtype, ("y", "x")), Space((k, n, n), dtype, ("exposure", "y", "x"))
        )
        self.design("gain", torch.tensor(geometry.gain, dtype=dtype.to_real()), Box(0, 2))
        self.nuisance("offset", torch.tensor(0.3, dtype=dtype.to_real()))
        self.phase = 1.0 if not dtype.is_complex else complex(0.6, 0.8)

    def forward(self, x: Tensor) -> Tensor:
        mean = (0.5 + self.offset) * x + 0.5 * self.phase * x.roll(1, -1)
        return self.gain[:, None, None] * mean[..., None, :, :]

    def adjoint(self, y: Tensor) -> Tensor:
        mean = (self.gain[:, None, None] * y).sum(-3)
        phase = self.phase.conjugate()
        return (0.5 + self.offset) * mean + 0.5 * phase * mean.roll(-1, -1)


class Nonlinear(Good):
    """The logarithm of what `Good` sees."""

    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(super().forward(x).square())

    adjoint = Operator.adjoint


class Hdf5:
    """HDF5 with the data and the geometry."""

    suffix = ".h5"

    def matches(self, path: Path) -> bool:
        try:
            with h5py.File(path) as file:
                return "good" in file
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        try:
            with h5py.File(path) as file:
                data = torch.from_numpy(file["good"][()])
                geometry = Geometry.model_validate_json(file.attrs["geometry"])
        except (OSError, KeyError, ValueError) as error:
            raise ReaderError(f"is damaged: {error}") from error
        return Scan(data, geometry, Gaussian(geometry.sigma))

    def write(self, scan: Scan, path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["good"] = scan.data.numpy()
            file.attrs["geometry"] = scan.geometry.model_dump_json()


class Csv:
    """The gains, one in a line."""

    def __call__(self, geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
        lines = [f"{float(gain):.9g}" for gain in designs["gain"]]
        path.write_text("\n".join(lines) + "\n")

    def read(self, path: Path) -> Mapping[str, Tensor]:
        return {"gain": torch.tensor([float(line) for line in path.read_text().split()])}


class GoodInstrument(Instrument):
    name = "good"
    title = "A camera of several exposures"
    Geometry = Geometry
    unit = "1"
    data_unit = "1"
    limits = (0.0, 1.0)

    def example(self):
        return Geometry()

    def operator(self, geometry) -> Operator:
        return Good(geometry)

    def noise(self, geometry):
        return Gaussian(geometry.sigma)

    def objects(self, geometry, n, generator):
        x = torch.zeros(n, geometry.size, geometry.size)
        for image in x:
            top, left = (int(i) for i in torch.randint(0, 8, (2,), generator=generator))
            image[top : top + 10, left : left + 9] = torch.rand((), generator=generator)
        return x

    @property
    def readers(self):
        return {"hdf5": Hdf5()}

    @property
    def exporters(self):
        return {"csv": Csv()}
