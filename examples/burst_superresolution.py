"""More resolution than the camera has, from a burst whose motions nobody measured.

A hand-held camera takes ten frames of a star target; each is moved by a fraction of a pixel, and
one was taken with the lens covered. The motions are registered first, then estimated together with
the image. The camera is an instrument of its own: geometry, operator, noise, objects.
Run it: ``python examples/burst_superresolution.py out/``.
"""

import math
import sys
from pathlib import Path

import matplotlib.figure
import torch
from pydantic import BaseModel, Field

from labrecon import Gaussian, Instrument, Operator, Problem, Space, solve
from labrecon.metrics import psnr
from labrecon.operators import Burst, Decimation
from labrecon.priors import TV
from labrecon.solvers import FISTA, LucasKanade
from labrecon.solvers.motion_errors import motion_errors
from labrecon.solvers.registration import RegistrationError

# 1. The instrument ----------------------------------------------------------------------------


class Geometry(BaseModel):
    """One burst."""

    size: int = Field(48, ge=16, description="rows and columns of the sensor")
    factor: int = Field(2, ge=1, description="samples of the image per pixel, along each axis")
    frames: int = Field(10, ge=2, description="frames of the burst")
    read_noise: float = Field(0.01, gt=0, description="standard deviation, in units of the scene")


class BurstCamera(Instrument):
    """A camera that takes a burst of one scene."""

    name = "burst_camera"
    title = "Burst camera"
    Geometry = Geometry

    def example(self) -> Geometry:
        return Geometry()

    def operator(self, geometry: Geometry) -> Operator:
        samples = geometry.size * geometry.factor
        image = Space((samples, samples), axes=("y", "x"))
        return Burst(Decimation(image, geometry.factor), geometry.frames)

    def noise(self, geometry: Geometry) -> Gaussian:
        return Gaussian(geometry.read_noise)

    def objects(self, geometry: Geometry, n: int, generator: torch.Generator) -> torch.Tensor:
        samples = geometry.size * geometry.factor
        grid = torch.linspace(-1, 1, samples)
        v, u = grid[:, None], grid[None]
        angle, radius = torch.atan2(v, u), (v * v + u * u).sqrt()
        turns = 2 * math.pi * torch.rand(n, 1, 1, generator=generator)
        star = (torch.sin(28 * angle + turns) > 0) & (radius < 0.9)
        return 0.1 + 0.8 * star.float()


# 2. A burst, and what is found of it ------------------------------------------------------------


def main(out: Path) -> None:
    """Simulate a burst, register, estimate jointly, tell the errors, draw."""
    camera, generator = BurstCamera(), torch.Generator().manual_seed(0)
    geometry = camera.example()
    operator, noise = camera.operator(geometry), camera.noise(geometry)
    scene = camera.objects(geometry, 1, generator)[0]
    motion = 3 * torch.rand(geometry.frames, 2, generator=generator) - 1.5
    motion[0] = 0
    data = noise.sample(operator(scene, motion=motion), generator)
    data[6] = noise.sample(torch.full_like(data[6], 0.02), generator)
    kept = torch.arange(geometry.frames) != 6

    problem = Problem(operator, data, noise)
    try:
        solve(LucasKanade(), problem, iterations=1)
    except RegistrationError as error:
        print(f"refused: {error}")

    prior = TV(weight=20.0, iterations=15)
    options = {"prior": prior, "mu": 0.01, "growth": 1.07, "inner": 3, "lost": "drop"}
    one = Problem(operator.camera, data[0], noise)
    single = solve(FISTA(prior=prior), one, iterations=100).x
    first = solve(LucasKanade(joint=False, **options), problem, iterations=60)
    joint = solve(LucasKanade(**options), problem, iterations=60)

    weights = kept.float()[:, None, None]
    bars = motion_errors(
        Problem(operator, data, noise, weights), joint.x, joint.state.motion, iterations=25
    )

    def error(found: torch.Tensor) -> float:
        return float((found - motion)[kept][1:].square().mean().sqrt())

    print(f"one frame                {psnr(single, scene, crop=6):.2f} dB")
    for name, made in (("registration alone", first), ("joint estimation", joint)):
        told = f"motions to {error(made.state.motion):.4f} px"
        print(f"{name:24} {psnr(made.x, scene, crop=6):.2f} dB, {told}")
    print(f"error bar, for noise     {float(bars[kept][1:].square().mean().sqrt()):.4f} px")

    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure(figsize=(9, 2.7), layout="constrained")
    images = {"frame 0": data[0], "from frame 0": single, "from the burst": joint.x, "scene": scene}
    for axis, (title, image) in zip(figure.subplots(1, 4), images.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(out / "burst_superresolution.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
