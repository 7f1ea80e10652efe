"""Speed of the coronagraph: ``python tests/benchmarks/coronagraph.py``.

A Lyot coronagraph with a round pupil of 256² samples, a focal-plane mask of 100² and images of
128² pixels; 20 frames at 5 wavelengths; one thread unless told otherwise. Per field: from the wave
in the pupil to the intensity of the image, beside HCIPy on the same samples of all planes (asked
for: at most as long in double precision, at most 0.45 times in single precision). And the gradient
by 1,000 coefficients of aberrations per frame beside one forward pass, both from coefficients to
images (asked for: at most 4 times). The two of a pair are timed in turn in one process; told are
medians and the median of the pairwise ratios.
"""

from __future__ import annotations

import argparse

import hcipy
import numpy as np
import torch
from paired_times import in_turn
from torch import Tensor

from labrecon_coronagraph.aberrations import fourier_modes
from labrecon_coronagraph.focal_masks import LyotDisc
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.propagation import Coronagraph, intensity
from labrecon_coronagraph.pupils import circular

N, RADIUS, MASK, IMAGE, PIXEL = 256, 2.252, 100, 128, 0.25
FRAMES, WAVELENGTHS, MODES = 20, (0.96, 0.98, 1.0, 1.02, 1.04), 1000


def optics() -> Coronagraph:
    mask = LyotDisc(RADIUS, samples=MASK / 2 / RADIUS)
    return Coronagraph(
        circular(N),
        mask,
        image=Grid.centred(IMAGE, PIXEL),
        lyot_stop=circular(N, diameter=0.95),
        wavelengths=WAVELENGTHS,
    )


class OfHCIPy:
    """The same coronagraph in HCIPy, one field after another."""

    def __init__(self, ours: Coronagraph, wave: Tensor) -> None:
        assert isinstance(ours.mask, LyotDisc)
        grid = hcipy.make_pupil_grid(N, 1)
        mask, image = (self._plane(plane) for plane in (ours.mask.grid, ours.image))
        real = wave.real.numpy().dtype
        clear = (1 - ours.mask.blocked()).numpy().ravel().astype(real)
        stop = hcipy.Field(ours.lyot_stop.numpy().ravel().astype(real), grid)
        self.lyot = hcipy.LyotCoronagraph(grid, hcipy.Field(clear, mask), stop)
        self.camera = hcipy.FraunhoferPropagator(grid, image)
        entered = (wave * ours.pupil.to(wave.dtype)).numpy()
        self.fields = [hcipy.Field(field.ravel(), grid) for field in entered]

    @staticmethod
    def _plane(grid: Grid) -> object:
        step, corner = grid.step, -grid.step * (grid.shape[0] - 1) / 2
        coordinates = hcipy.RegularCoords([step, step], list(grid.shape), [corner, corner])
        return hcipy.CartesianGrid(coordinates)

    def __call__(self, frame: int, wavelength: float) -> np.ndarray:
        wave = hcipy.Wavefront(self.fields[frame], wavelength)
        return np.asarray(self.camera(self.lyot(wave)).intensity)


def propagation(rounds: int, chunk: int, dtype: torch.dtype, asked: str) -> None:
    ours = optics()
    generator = torch.Generator().manual_seed(0)
    phase = 0.1 * torch.randn(FRAMES, N, N, generator=generator, dtype=dtype.to_real())
    wave = torch.polar(torch.ones_like(phase), phase)
    theirs = OfHCIPy(ours, wave)

    def batched() -> Tensor:
        colours = [
            torch.cat([intensity(ours.image_field(part, w)) for part in wave.split(chunk)])
            for w in WAVELENGTHS
        ]
        return torch.stack(colours, 1)

    def one_by_one() -> np.ndarray:
        return np.stack([[theirs(k, w) for w in WAVELENGTHS] for k in range(FRAMES)])

    with torch.no_grad():
        scale = torch.tensor(WAVELENGTHS, dtype=torch.float64)[:, None, None] ** 2
        expected = torch.from_numpy(one_by_one()).reshape(FRAMES, -1, IMAGE, IMAGE) * scale
        error = float((batched() - expected).abs().max() / expected.max())
        mine, others, ratio = in_turn(batched, one_by_one, rounds)
    fields = FRAMES * len(WAVELENGTHS)
    name = f"{str(dtype).removeprefix('torch.')}, per field"
    print(f"  {name:30}{mine / fields:10.2f}{others / fields:10.2f}{1 / ratio:8.2f}   {asked}")
    print(f"    largest difference {error:.1e} of the peak")


def gradient(rounds: int, chunk: int, dtype: torch.dtype, asked: str) -> None:
    ours = optics()
    modes = fourier_modes(ours.pupil.to(dtype), 18)[:MODES].flatten(1)
    generator = torch.Generator().manual_seed(1)
    start = 1e-3 * torch.randn(FRAMES, MODES, generator=generator, dtype=dtype)
    given = start.clone().requires_grad_()

    def images(coefficients: Tensor) -> Tensor:
        opd = (coefficients @ modes).reshape(-1, N, N)
        return ours.images(opd, chunk=chunk)

    def forward() -> Tensor:
        with torch.no_grad():
            return images(start)

    def both() -> object:
        return torch.autograd.grad(images(given).square().sum(), given)

    mine, others, ratio = in_turn(both, forward, rounds)
    name = f"gradient, {str(dtype).removeprefix('torch.')}"
    print(f"  {name:30}{mine:10.0f}{others:10.0f}{1 / ratio:8.2f}   {asked}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chunk", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, HCIPy {hcipy.__version__}, {asked.threads} threads")
    print(f"pupil {N}², mask {MASK}², image {IMAGE}², {FRAMES} frames × {len(WAVELENGTHS)} colours")
    print(f"\n{'':32}{'labrecon':>10}{'HCIPy, ms':>10}{'ratio':>8}")
    propagation(asked.rounds, asked.chunk, torch.complex128, "asked: at most 1.00")
    propagation(asked.rounds, asked.chunk, torch.complex64, "asked: at most 0.45")
    print(f"\n{'':32}{'gradient':>10}{'forward':>10}{'ratio':>8}")
    for dtype in (torch.float64, torch.float32):
        gradient(max(3, asked.rounds // 2), asked.chunk, dtype, "asked: at most 4.00")


if __name__ == "__main__":
    main()
