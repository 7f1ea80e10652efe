"""Describe an instrument once, then reconstruct with it.

A slit-less camera: the image of the scene is smeared along x by a coded shutter that opens and
closes while the scene moves. Only `forward` is written; the adjoint, the gradient and the step
size come from it. Run it: ``python examples/register_instrument.py out/``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch
from pydantic import BaseModel, Field

from labrecon import Gaussian, Instrument, Operator, Problem, Space, hookimpl, solve
from labrecon.design import Binary
from labrecon.plugins import host

# 1. What describes one acquisition ------------------------------------------------------------


class Geometry(BaseModel):
    """One exposure of the coded-shutter camera."""

    height: int = Field(96, ge=8, description="rows of the sensor")
    width: int = Field(96, ge=8, description="columns of the scene")
    shutter: tuple[float, ...] = Field(
        (1, 1, 0, 1, 0, 0, 1), description="shutter state per time slot: 1 open, 0 closed"
    )
    read_noise: float = Field(0.01, gt=0, description="standard deviation, in units of the scene")


# 2. What it does to an object -----------------------------------------------------------------


class CodedShutter(Operator):
    """``y[r, c] = mean_t s[t] x[r, c − t]``: each open slot adds the scene one column further."""

    def __init__(self, geometry: Geometry) -> None:
        columns = geometry.width + len(geometry.shutter) - 1
        super().__init__(
            Space((geometry.height, geometry.width), axes=("y", "x")),
            Space((geometry.height, columns), axes=("y", "column")),
        )
        self.design("shutter", torch.tensor(geometry.shutter), Binary())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slots = len(self.shutter)
        shifted = [torch.nn.functional.pad(x, (t, slots - 1 - t)) for t in range(slots)]
        return torch.einsum("t,t...->...", self.shutter / slots, torch.stack(shifted))


# 3. What a plugin hands over ------------------------------------------------------------------


class CodedShutterCamera(Instrument):
    """The instrument: geometry, operator, noise, sample objects."""

    name = "shutter"
    title = "Coded-shutter camera"
    Geometry = Geometry

    def example(self) -> Geometry:
        return Geometry()

    def operator(self, geometry: Geometry) -> Operator:
        return CodedShutter(geometry)

    def noise(self, geometry: Geometry) -> Gaussian:
        return Gaussian(geometry.read_noise)

    def objects(self, geometry: Geometry, n: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.zeros(n, geometry.height, geometry.width)
        shape = torch.tensor([geometry.height, geometry.width])
        for image in x:
            for _ in range(12):
                corner = (0.9 * torch.rand(2, generator=generator) * shape).long()
                far = corner + 1 + (0.4 * torch.rand(2, generator=generator) * shape).long()
                level = torch.rand((), generator=generator)
                image[corner[0] : far[0], corner[1] : far[1]] = level
        return x


class Plugin:
    """In a package of your own these hooks are functions of the entry-point module."""

    @hookimpl
    def labrecon_instruments(self) -> dict[str, object]:
        return {"shutter": CodedShutterCamera}


def main(out: Path) -> None:
    """Register the camera, simulate one exposure, reconstruct it, draw the three images."""
    host().add("shutter-camera", Plugin())
    camera = host().get("instruments", "shutter")()
    scan = camera.simulate(camera.example(), torch.Generator().manual_seed(0))

    problem = Problem(camera.operator(scan.geometry), scan.data, scan.noise)
    prior = host().get("priors", "tv")(weight=6.0)
    solver = host().get("solvers", "fista")(prior=prior)
    solution = solve(solver, problem, iterations=300, tolerance=1e-5)

    error = torch.linalg.vector_norm(solution.x - scan.truth)
    error = float(error / torch.linalg.vector_norm(scan.truth))
    print(f"{solution.status} after {solution.state.k} iterations, relative error {error:.3f}")

    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    images = {"scene": scan.truth, "measured": scan.data, "reconstructed": solution.x}
    for axis, (title, image) in zip(figure.subplots(1, 3), images.items(), strict=True):
        axis.imshow(image, cmap="gray")
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(out / "register_instrument.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
