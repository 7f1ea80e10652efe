"""Time of CT projectors per slice: ``python tests/benchmarks/ct_projectors.py``.

512² image, 180 views × 768 bins, float32, 16 slices, 2 threads, all in one run. Asked: the matrix
path at least 30 times ASTRA's CPU projector and 90 times deepinv's, forward and adjoint each.
"""

from __future__ import annotations

import importlib
import math
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from labrecon_ct.backends.astra_geometry import load_astra
from labrecon_ct.backends.matrix import matrix_bytes
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

SIZE, VIEWS, BINS, SLICES, THREADS = 512, 180, 768, 16, 2
Times = tuple[float, float]


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of several runs in ms, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def matrix(operator: CTProjector, images: torch.Tensor, data: torch.Tensor) -> Times:
    """The sparse matrix, all slices at once."""
    with torch.no_grad():
        forward = best(lambda: operator(images))
        adjoint = best(lambda: operator.adjoint(data))
    return forward / SLICES, adjoint / SLICES


def astra_cpu(geometry: CTGeometry, images: torch.Tensor, data: torch.Tensor) -> Times:
    """ASTRA's own CPU projector, called directly, one slice."""
    astra = load_astra()
    projection = astra.create_proj_geom("parallel", 1.0, BINS, np.asarray(geometry.angles))
    projector = astra.create_projector("line", projection, astra.create_vol_geom(SIZE, SIZE))
    image, lines = images[0].clone(), data[0].clone()
    forward = best(lambda: astra.projector.direct_FP(projector, image, out=lines), 3)
    adjoint = best(lambda: astra.projector.direct_BP(projector, lines, out=image), 3)
    astra.projector.delete(projector)
    return forward, adjoint


def deepinv(images: torch.Tensor) -> Times:
    """deepinv's torch projector, one slice of the same size (its detector is as wide as the image).

    Raises:
        Exception: deepinv is not installed or can not be imported; the message says why.
    """
    physics = importlib.import_module("deepinv").physics.Tomography(
        angles=VIEWS, img_width=SIZE, normalize=False
    )
    image = images[:1, None]
    with torch.no_grad():
        lines = physics.A(image)
        return best(lambda: physics.A(image), 1), best(lambda: physics.A_adjoint(lines), 1)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(THREADS)
    angles = tuple(math.pi * i / VIEWS for i in range(VIEWS))
    geometry = CTGeometry(angles=angles, columns=BINS, volume_shape=(SIZE, SIZE))
    images, data = torch.rand(SLICES, SIZE, SIZE), torch.rand(SLICES, VIEWS, BINS)
    operator = CTProjector(geometry, backend="matrix")
    begin = time.perf_counter()
    operator(images[:1])
    made = time.perf_counter() - begin
    rows = {
        "labrecon matrix": matrix(operator, images, data),
        "ASTRA CPU": astra_cpu(geometry, images, data),
    }
    skipped = ""
    try:
        rows["deepinv"] = deepinv(images)
    except Exception as error:
        skipped = f"deepinv skipped: {type(error).__name__}: {error}"
    base = rows["labrecon matrix"]
    print(f"{SIZE}², {VIEWS} views × {BINS} bins, {SLICES} slices, {THREADS} threads; ms per slice")
    print(f"{'':18}{'forward':>10}{'ratio':>8}{'adjoint':>10}{'ratio':>8}")
    for name, (forward, adjoint) in rows.items():
        ratios = forward / base[0], adjoint / base[1]
        print(f"{name:18}{forward:10.2f}{ratios[0]:8.1f}{adjoint:10.2f}{ratios[1]:8.1f}")
    if skipped:
        print(skipped)
    x, y = operator.domain.random(2), operator.range.random(2)
    ax, aty = operator(x).double(), operator.adjoint(y).double()
    gap = abs(float((ax * y).sum() - (x * aty).sum())) / float(ax.norm() * y.norm())
    taken = operator.memory / 2**20
    predicted = matrix_bytes(geometry, "line") / 2**20
    print(
        f"matrix and transpose: {taken:.0f} MB (predicted {predicted:.0f}), ready in {made:.1f} s"
    )
    print(f"adjoint mismatch {gap:.1e}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
