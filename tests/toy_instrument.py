"""A small instrument with its own file format, for tests of everything that is not physics."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field

from labrecon import Gaussian, Instrument, Operator, Scan, Space, hookimpl
from labrecon.instrument import Curve, ReaderError


class ToyGeometry(BaseModel):
    size: int = Field(24, description="pixels along each side")
    pixel: float = Field(0.5, description="pixel size in mm")
    offset: float = Field(0.0, description="constant background in counts")
    every: int = 1


class ToyOperator(Operator):
    """A three-point blur of each row, of which every n-th is seen."""

    def __init__(self, geometry: ToyGeometry, delay: float = 0.0) -> None:
        size = geometry.size
        rows = len(range(0, size, geometry.every))
        super().__init__(
            Space((size, size), axes=("y", "x")), Space((rows, size), axes=("row", "column"))
        )
        self.every = geometry.every
        self.delay = delay
        self.applications = 0

    def forward(self, x):
        time.sleep(self.delay)
        self.applications += 1
        if os.environ.get("TOY_CTRL_C_AT") == str(self.applications):
            os.kill(os.getpid(), signal.SIGINT)
        blurred = 0.5 * x + 0.25 * (x.roll(1, -1) + x.roll(-1, -1))
        return blurred[..., :: self.every, :]


class ToyReader:
    """NumPy archives with the key ``toy``."""

    def matches(self, path: Path) -> bool:
        return path.suffix == ".toy"

    def read(self, path: Path) -> Scan:
        try:
            with path.open("rb") as handle, np.load(handle) as file:
                data, sigma = torch.from_numpy(file["toy"]), float(file["sigma"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ReaderError(f"is damaged: {error}") from error
        return Scan(
            data,
            ToyGeometry(size=data.shape[-1]),
            Gaussian(sigma),
            found={"counts": f"{tuple(data.shape)}"},
            assumed={"orientation": "upright"},
            ignored={"/log": "text"},
            provenance={"format": "toy"},
        )


def add(scan: Scan, *, value: float = 0.0) -> Scan:
    """Add a constant to the data."""
    x = np.linspace(-1, 1, 21)
    curve = Curve("offset search", x.tolist(), ((x - value) ** 2).tolist(), "offset", "cost", value)
    return scan.replace(data=scan.data + value).with_step("add", curve=curve, value=value)


def subset(scan: Scan, *, every: int) -> Scan:
    """Keep every n-th row."""
    return scan.replace(
        data=scan.data[..., ::every, :],
        geometry=scan.geometry.model_copy(update={"every": every}),
    ).with_step("subset", every=every)


def refuse(scan: Scan) -> Scan:
    """Refuse any data."""
    raise ValueError("all flats are zero")


class Toy(Instrument):
    """A blur that tests can afford."""

    name = "toy"
    title = "Toy blur"
    Geometry = ToyGeometry
    unit = "1/mm"
    data_unit = "counts"

    def example(self) -> ToyGeometry:
        return ToyGeometry()

    def operator(self, geometry: ToyGeometry, *, delay: float = 0.0) -> Operator:
        return ToyOperator(geometry, delay)

    def objects(self, geometry: ToyGeometry, n: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.zeros(n, geometry.size, geometry.size)
        x[:, 6:18, 8:16] = 1.0
        return x + 0.5 * torch.rand(n, 1, 1, generator=generator)

    def noise(self, geometry: ToyGeometry) -> Gaussian:
        return Gaussian(0.05)

    def voxel_size(self, geometry: ToyGeometry) -> tuple[float, ...]:
        return (geometry.pixel, geometry.pixel)

    @property
    def readers(self):
        return {"npz": ToyReader()}

    @property
    def steps(self):
        return {"add": add, "subset": subset, "refuse": refuse}

    def recipes(self):
        return {
            "recon": {
                "prepare": [{"step": "add", "value": 0.25}],
                "solver": {"name": "fista", "iterations": 40},
                "prior": {"name": "tv", "weight": 0.02},
            },
            "compare": {
                "solver": {"name": "fista", "iterations": 40},
                "prior": {"name": "tv", "relative_weight": 0.001},
                "compare": [
                    {"title": "direct", "solver": {"name": "direct"}},
                    {"title": "half the rows", "prepare": [{"step": "subset", "every": 2}]},
                ],
            },
        }


class ToyPlugin:
    @hookimpl
    def labrecon_instruments(self):
        return {"toy": Toy}


plugin = ToyPlugin()


def write_toy(path: Path, *, stack: int = 0, seed: int = 0) -> Path:
    """A simulated scan in the toy format."""
    generator = torch.Generator().manual_seed(seed)
    scan = Toy().simulate(ToyGeometry(), generator)
    data = scan.data.numpy()
    if stack:
        data = np.stack([data] * stack)
    with path.open("wb") as stream:
        np.savez(stream, toy=data, sigma=0.05)
    return path


#: Entry points of a distribution, for subprocesses: write them beside a copy on PYTHONPATH.
ENTRY_POINTS = "[labrecon]\ntoy = toy_instrument:plugin\n"
