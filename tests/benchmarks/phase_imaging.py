"""Speed of the LED-array microscope: ``python tests/benchmarks/phase_imaging.py``.

Two exposures of 69 LEDs, objects of 256² pixels, 4 of them, one thread unless told otherwise.
Nonlinear imaging, and its gradient by patterns and objects, beside a loop over exposures and LEDs
with a transform of full size in each (asked for: 3 times as fast); and a step of design learning
through an unrolled reconstruction beside the same computation by hand in torch (asked for: at most
1.10 times as long). The two of a pair are timed in turn in one process; told are medians and the
median of the pairwise ratios.
"""

from __future__ import annotations

import argparse

import torch
from paired_times import in_turn
from torch import Tensor

from labrecon.learners import Design
from labrecon.learners.samples import ObjectBatch
from labrecon.networks import Unrolled
from labrecon.noise import Gaussian
from labrecon.solvers import GradientDescent
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_arrays import planar
from labrecon_phase.pupil import pupil

N, LEDS, EXPOSURES, BATCH = 256, 69, 2, 4
DEPTH, STEP, SIGMA = 4, 0.4, 0.005


def geometry(n: int, camera_pixel: float = 4.0) -> PhaseGeometry:
    """Kellman et al. 2019: the 69 LEDs of a planar array that are nearest to its middle."""
    leds = planar(11, 4.0, 67.5)
    leds = leds[leds[:, :2].norm(dim=1).argsort(stable=True)[:LEDS]]
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(EXPOSURES, LEDS, generator=generator)
    return PhaseGeometry.model_validate(
        {
            "shape": (n, n),
            "wavelength": 0.514,
            "na": 0.25,
            "magnification": 10.0,
            "camera_pixel": camera_pixel,
            "leds": leds,
            "patterns": patterns / patterns.sum(1, keepdim=True),
        }
    )


class Loop:
    """The definition: for each exposure and LED one transform of the object's size."""

    def __init__(self, operator: AbbeImaging) -> None:
        own = operator.geometry
        rows, columns = own.object_shape
        y = torch.fft.fftfreq(rows, own.object_pixel)[:, None]
        x = torch.fft.fftfreq(columns, own.object_pixel)
        options = {"wavelength": own.wavelength, "na": own.na, "index": own.index}
        zero = torch.zeros(0)
        self.pupils = [
            pupil(y + float(a), x + float(b), **options, defocus=0.0, zernikes=zero, edge=0.0)
            for a, b in operator.frequencies()
        ]
        # A camera pixel integrates, then the image is taken at every pixel.
        fine = torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)
        every = own.upsampling
        self.every, self.blur = every, torch.sinc(every * fine[0]) * torch.sinc(every * fine[1])

    def __call__(self, phase: Tensor, patterns: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(torch.polar(torch.ones_like(phase), phase))
        images = []
        for pattern in patterns:
            total = torch.zeros_like(phase)
            for weight, cut in zip(pattern, self.pupils, strict=True):
                total = total + weight * torch.fft.ifft2(cut * spectrum).abs().square()
            seen = torch.fft.ifft2(torch.fft.fft2(total) * self.blur).real
            images.append(seen[..., :: self.every, :: self.every])
        return torch.stack(images, -3)


def told(label: str, figures: tuple[float, float, float], asked: str, invert: bool = False) -> None:
    mine, theirs, ratio = figures
    ratio = 1 / ratio if invert else ratio
    print(f"  {label:38}{mine:10.1f}{theirs:10.1f}{ratio:8.2f}   {asked}")


def imaging(rounds: int, n: int, camera_pixel: float) -> None:
    operator = AbbeImaging(geometry(n, camera_pixel))
    loop = Loop(operator)
    generator = torch.Generator().manual_seed(1)
    x = 0.3 * torch.randn(BATCH, *operator.domain.shape, generator=generator)
    patterns = operator.patterns.detach().clone()
    with torch.no_grad():
        error = float((operator(x) - loop(x, patterns)).norm() / operator(x).norm())
        plain = in_turn(lambda: operator(x), lambda: loop(x, patterns), rounds)
    x.requires_grad_()
    operator.learn("patterns")
    given = operator.get_parameter("patterns")
    patterns.requires_grad_()

    def ours() -> object:
        return torch.autograd.grad(operator(x).square().sum(), (x, given))

    def theirs() -> object:
        return torch.autograd.grad(loop(x, patterns).square().sum(), (x, patterns))

    size = operator.domain.shape[-1]
    print(
        f"\n{EXPOSURES} exposures, {LEDS} LEDs, camera {n}² of {camera_pixel} µm, object {size}²,"
    )
    print(f"batch {BATCH}; relative difference of the two {error:.1e}")
    print(f"\n{'':40}{'labrecon':>10}{'loop, ms':>10}{'ratio':>8}")
    told("images", plain, "asked: at least 3")
    told("images and gradients", in_turn(ours, theirs, max(3, rounds // 2)), "asked: at least 3")


def learning(rounds: int, n: int) -> None:
    """One step: simulate with noise, reconstruct, loss, derivative by the patterns."""
    operator = AbbeImaging(geometry(n))
    network = Unrolled(GradientDescent(step_size=STEP), DEPTH)
    learner = Design(network, operator, Gaussian(SIGMA))
    given = operator.get_parameter("patterns")
    objects = 0.2 * torch.randn(
        BATCH, *operator.domain.shape, generator=torch.Generator().manual_seed(1)
    )

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(BATCH)]

    def ours() -> Tensor:
        loss, _ = learner.loss(ObjectBatch(objects, generators()))
        return torch.autograd.grad(loss, given)[0]

    def by_hand() -> Tensor:
        clean = operator.forward(objects)
        noise = [
            torch.randn(c.shape, generator=g) for c, g in zip(clean, generators(), strict=True)
        ]
        data = clean + SIGMA * torch.stack(noise)
        x = torch.zeros_like(objects).requires_grad_()
        for _ in range(DEPTH):
            misfit = 0.5 * (operator.forward(x) - data).square().sum()
            (g,) = torch.autograd.grad(misfit, x, create_graph=True)
            x = x - STEP * g
        loss = (x - objects).square().mean()
        return torch.autograd.grad(loss, given)[0]

    error = float((ours() - by_hand()).norm() / by_hand().norm())
    print(f"\ndesign learning, {DEPTH} unrolled steps, camera {n}², batch {BATCH};")
    print(f"relative difference of the two gradients {error:.1e}")
    print(f"\n{'':40}{'labrecon':>10}{'hand, ms':>10}{'ratio':>8}")
    told("step", in_turn(ours, by_hand, rounds), "asked: at most 1.10", invert=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=N)
    parser.add_argument("--learning-size", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} threads")
    imaging(asked.rounds, asked.size, 4.0)
    # A usual camera: coarser than the image's band, so that the object has twice its pixels.
    imaging(asked.rounds, asked.size // 2, 6.5)
    learning(asked.rounds, asked.learning_size)


if __name__ == "__main__":
    main()
