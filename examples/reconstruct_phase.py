"""Reconstruct the phase of cells under an LED array: DPC, TV, and Fourier ptychography.

All images are simulated with the nonlinear model and 30 000 electrons per pixel. The last picture
has the array 0.7 mm off, and the reconstruction finds where it is. Run it:
``python examples/reconstruct_phase.py out/``. On files the same is ``labrecon recon phase SCAN -o
out``, with ``--recipe tv``, ``fpm`` and ``fpm-calibrated``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch
from torch import Tensor

from labrecon.instrument import Scan
from labrecon.plugins import host
from labrecon.problem import Problem
from labrecon.recon import reconstruct_scan
from labrecon.solver import Solver, solve
from labrecon.solvers import Alternating, GaussNewton
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_arrays import half_circles, planar
from labrecon_phase.phantoms import random_cells

# Some LEDs are at the edge of the aperture, where slow changes of the phase are seen.
NA, HEIGHT, SHIFT = 0.1, 57.0, (0.7, 0.0)
MICROSCOPE = {
    "shape": (48, 48),
    "wavelength": 0.514,
    "na": NA,
    "magnification": 4.0,
    "camera_pixel": 4.8,
    "electrons": 30_000.0,
    "edge": 1.0,
}
PHASE = host().get("instruments", "phase")()


def microscope(leds: Tensor, patterns: Tensor, **more: object) -> PhaseGeometry:
    """A 4×/0.1 objective and a planar array."""
    return PhaseGeometry.model_validate({**MICROSCOPE, "leds": leds, "patterns": patterns, **more})


def cells_and_bars(geometry: PhaseGeometry) -> Tensor:
    """Cells up to 0.8 rad, 0.3 rad of bars every 4.8 and 2.4 µm."""
    drawn = random_cells(geometry, 3, torch.Generator().manual_seed(3))
    phase = drawn.amax(0) - drawn.amax(0).min()
    lines = torch.arange(24)
    for row, period in ((8, 8), (40, 4)):
        bars = 0.3 * (lines % period < period // 2)
        phase[row : row + 24, 8:32] = bars
        phase[row : row + 24, 36:60] = bars[:, None]
    return phase - phase.mean()


def photographed(geometry: PhaseGeometry, transmission: Tensor, seed: int) -> Scan:
    """The images of a transmission, with noise."""
    field = geometry.changed(sample="field")
    noise = PHASE.noise(field)
    with torch.no_grad():
        clean = PHASE.operator(field)(transmission)
    data = noise.sample(clean, torch.Generator().manual_seed(seed))
    return Scan(data, geometry, PHASE.noise(geometry))


def calibrated(scan: Scan, nominal: PhaseGeometry) -> dict[str, tuple[Tensor, float, Tensor]]:
    """Phase, χ² per pixel and position of the array: as it is believed to be, and estimated."""
    found = {}
    for title, nuisances in {"believed": (), "estimated": ("led_shift",)}.items():
        operator = PHASE.operator(nominal)
        problem = Problem(operator, scan.data, scan.noise)
        solver: Solver = GaussNewton(inner=10)
        if nuisances:
            solver = Alternating(solver, nuisances=nuisances, after=1)
        start = operator.initial(scan.data)
        solution = solve(solver, problem, x0=start, iterations=16, check_every=16)
        last = solution.history[-1]
        place = torch.tensor([last.get(f"led_shift.{i}", 0.0) for i in (0, 1)])
        with torch.no_grad():
            predicted = operator.at(led_shift=place.double())(solution.x)
        chi2 = (predicted - scan.data).square() / scan.noise.variance(predicted)
        found[title] = solution.x.detach(), float(chi2.mean()), place
    return found


def centred(x: Tensor) -> Tensor:
    """Phases without their mean."""
    phase = PHASE.gauge(x).angle() if x.is_complex() else x
    return phase - phase.mean()


def main(out: Path) -> None:
    """Four half circles and 49 single LEDs; six pictures."""
    out.mkdir(parents=True, exist_ok=True)
    fine, coarse = planar(13, 2.0, HEIGHT), planar(7, 4.0, HEIGHT)
    dpc = microscope(fine, half_circles(fine, NA, 4))
    fpm = microscope(coarse, torch.eye(len(coarse)), sample="field")
    cells = cells_and_bars(dpc)
    transmission = torch.polar(torch.ones_like(cells), cells)

    shown = {"truth": cells}
    contrast = photographed(dpc, transmission, 1)
    for title, recipe in {"DPC, Tikhonov": "recon", "DPC, TV": "tv"}.items():
        made = reconstruct_scan(PHASE, contrast, out / f"phase-{recipe}", recipe=recipe, force=True)
        shown[title] = made.volume
    single = photographed(fpm, transmission, 2)
    made = reconstruct_scan(
        PHASE,
        single,
        out / "phase-fpm",
        recipe="fpm",
        overrides=["solver.iterations=12"],
        force=True,
    )
    shown["ptychography, 49 LEDs"] = made.volume

    moved = photographed(fpm.changed(led_shift=SHIFT), transmission, 3)
    for title, (x, chi2, place) in calibrated(moved, fpm).items():
        shown[f"array 0.7 mm off, {title}"] = x
        told = ", ".join(f"{v:.3f}" for v in place.tolist())
        print(f"array {title} at {told} mm: χ² {chi2:.3g}")

    figure = matplotlib.figure.Figure(figsize=(9, 6.6), layout="constrained")
    truth = centred(cells)
    for axis, (title, x) in zip(figure.subplots(2, 3).flat, shown.items(), strict=True):
        phase = centred(x)
        error = float((phase - truth).norm() / truth.norm())
        told = title if x is cells else f"{title}\nerror {100 * error:.0f} %"
        axis.imshow(phase, cmap="gray", vmin=float(truth.min()), vmax=float(truth.max()))
        axis.set(xticks=[], yticks=[])
        axis.set_title(told, fontsize=9)
        print(told.replace("\n", ": "))
    figure.savefig(out / "reconstruct_phase.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
