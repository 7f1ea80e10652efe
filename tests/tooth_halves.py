"""A measured tooth without a truth: halves of its views by FBP, total variation and a network.

The network starts from total variation, and learns from slice 0 alone what held-out views miss in
it; slice 1 is compared. Columns are binned by 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from labrecon.fourier_shell import ShellCorrelation, shell_correlation
from labrecon.learner import FitConfig, fit
from labrecon.learners import sample_generator
from labrecon.learners.self_supervised import Dealing, MeasuredScan, Part, ScanSamples
from labrecon.learners.self_supervised.factories import make_ssdu
from labrecon.learners.self_supervised.term import Pass
from labrecon.networks.modl import make_modl
from labrecon.networks.unrolled import Unrolled
from labrecon.operator import Operator
from labrecon.plugins import resolve
from labrecon.priors import TV
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import FISTA
from labrecon.solvers.trained import with_unit_noise

if TYPE_CHECKING:
    from labrecon import Scan

VIEWS = Dealing(("angle",))
SIZE, COLUMNS = 160, 256
#: Fractions of the largest gradient at zero: those that slice 0 chooses from, and stronger ones.
WEIGHTS = (2e-4, 4e-4, 8e-4)
STRONGER = (1.6e-3, 3.2e-3)
#: Deals of slice 0, steps, and iterations of total variation.
DEALS, STEPS, ITERATIONS = 6, 50, 50


@dataclass(frozen=True)
class Halves:
    """A reconstruction ``(1, y, x)`` of the even views, and one of the odd ones."""

    even: Tensor
    odd: Tensor


def prepared(path: Path) -> Scan:
    """Line integrals after the default preparation of CT, with the centre that it found."""
    from labrecon_ct.instrument import CTInstrument

    ct = CTInstrument()
    reader = next(r for r in (resolve(v)() for v in ct.readers.values()) if r.matches(path))
    scan = reader.read(path)
    for step in ct.recipes()["recon"]["prepare"]:
        scan = resolve(ct.steps[step["step"]])(scan)
    return scan


def tooth(data: Path) -> tuple[Problem, Problem]:
    """The slice that is trained on, and the one that is compared, ``(1, angle, detector)``."""
    from labrecon_ct.geometry import CTGeometry
    from labrecon_ct.projector import CTProjector

    scan = prepared(data / "ct/aps_tooth/tooth.h5")
    middle = scan.geometry.centre_column
    left = round(middle) - COLUMNS
    integrals = scan.data[..., left : left + 2 * COLUMNS].unflatten(-1, (COLUMNS, 2)).mean(-1)
    geometry = CTGeometry(
        angles=scan.geometry.angles,
        columns=COLUMNS,
        volume_shape=(SIZE, SIZE),
        centre_offset=(middle - left - 0.5) / 2 - (COLUMNS - 1) / 2,
    )
    operator = CTProjector(geometry, backend="matrix")
    return Problem(operator, integrals[:1]), Problem(operator, integrals[1:])


def parts(problem: Problem) -> tuple[Part, Part]:
    """The even views, and the odd ones; each holds the other out."""
    return VIEWS.sections(problem, 2, [1]), VIEWS.sections(problem, 2, [0])


def inverted(problem: Problem) -> Halves:
    """Filtered back-projection."""
    even, odd = (problem.operator.initial(part.gain * part.problem.data) for part in parts(problem))
    return Halves(even, odd)


def by_tv(problem: Problem, weight: float) -> Tensor:
    """Total variation of views that are weighted up; the others have weight 0."""
    assert problem.weights is not None
    start = problem.operator.initial(problem.weights * problem.data)
    prior = TV(weight, ndim=2, nonneg=True)
    made = solve(FISTA(prior=prior), problem, x0=start, iterations=ITERATIONS, objective=False)
    return made.x


def varied(problem: Problem, weight: float) -> Halves:
    """`by_tv` of both halves."""
    even, odd = (by_tv(part.problem, weight) for part in parts(problem))
    return Halves(even, odd)


class FromTV(nn.Module):
    """Where the network starts: total variation of the views that are not 0, made once for each."""

    def __init__(self, operator: Operator, weight: float) -> None:
        super().__init__()
        self.operator = operator
        self.weight = weight
        self.made: dict[bytes, Tensor] = {}

    def forward(self, louder: Tensor) -> Tensor:
        """``(1, angle, detector)``, weighted up by the share of the views that are seen."""
        key = louder.numpy().tobytes()
        if key not in self.made:
            seen = (louder != 0).any(-1, keepdim=True).to(louder)
            gain = seen / seen.mean()
            data = torch.where(seen > 0, louder / gain, 0)
            with torch.no_grad():
                self.made[key] = by_tv(Problem(self.operator, data, weights=gain), self.weight)
        return self.made[key]


def trained(problem: Problem, weight: float, steps: int = STEPS) -> Unrolled:
    """A small MoDL that starts from total variation: SSDU with half of the views held out."""
    operator = problem.operator
    scale = float(operator.initial(problem.data).abs().flatten().quantile(0.99))
    example = with_unit_noise(problem)
    options = {"depth": 2, "features": 24, "inner": 3, "coupling": 0.2}
    network = make_modl(example, scale=scale, seed=0, **options)
    network.start = FromTV(operator, weight)
    learner = make_ssdu(network, operator, axes="angle", fraction=0.5, loss="object")
    # The same few deals in each epoch: total variation costs more than a step.
    samples = ScanSamples([MeasuredScan(problem)] * DEALS, fixed=True)
    fit(learner, samples, FitConfig(steps=steps, learning_rate=3e-3, schedule="cosine", clip=1.0))
    return network.eval()


def learned(network: Unrolled, problem: Problem) -> Halves:
    """What it makes of each half, alone."""
    run = Pass(network, problem, [sample_generator(0, 0, 0)])
    with torch.no_grad():
        even, odd = (run.reconstruct_part(part) for part in parts(problem))
    return Halves(even, odd)


def other_half(halves: Halves, problem: Problem) -> list[ShellCorrelation]:
    """Each half's prediction of the other's views with those views, both back-projected.

    So both have the streaks of few views, and what is not in the data counts for nothing.
    """
    operator, found = problem.operator, []
    for x, part in zip((halves.even, halves.odd), parts(problem), strict=True):
        gain = part.held / part.held.mean()
        with torch.no_grad():
            pair = operator.initial(gain * operator(x)), operator.initial(gain * problem.data)
        found.append(shell_correlation(*pair))
    return found


def figures(halves: Halves, problem: Problem) -> dict[str, float]:
    """Mean correlation of the halves by rings; and how well each tells the other's views.

    ``other``: mean correlation of `other_half`; ``direct`` and ``distance``: mean correlation with
    the other half's filtered back-projection as it is, and the relative distance from it, which
    grows with sharpness, since that is blunt; ``error``: of the other half's projections, relative.
    """
    operator = problem.operator
    squares = direct = apart = 0.0
    opposite = inverted(problem)
    pairs = (halves.even, opposite.odd), (halves.odd, opposite.even)
    with torch.no_grad():
        for (x, inversion), part in zip(pairs, parts(problem), strict=True):
            squares += float((part.held * (operator(x) - problem.data)).square().sum())
            direct += mean(shell_correlation(x, inversion)) / 2
            apart += float((x - inversion).norm() / inversion.norm()) / 2
    return {
        "halves": mean(shell_correlation(halves.even, halves.odd)),
        "direct": direct,
        "distance": apart,
        "other": sum(mean(curve) for curve in other_half(halves, problem)) / 2,
        "error": squares**0.5 / float(problem.data.norm()),
    }


def mean(curve: ShellCorrelation) -> float:
    """Over all rings up to half a cycle per pixel."""
    return float(curve.correlation.mean())


@cache
def compared(data: Path) -> tuple[Problem, dict[str, Halves], float]:
    """The compared slice, its halves by each method, and the weight that slice 0 chose.

    Total variation by weight, as ``tv 0.0004``.
    """
    first, second = tooth(data)
    zeros = first.operator.domain.zeros(1)
    largest = float(first.gradient(zeros).abs().max())

    def missed(share: float) -> float:
        return figures(varied(first, share * largest), first)["error"]

    chosen = min(WEIGHTS, key=missed)
    made = {"fbp": inverted(second)}
    for share in (*WEIGHTS, *STRONGER):
        made[f"tv {share:g}"] = varied(second, share * largest)
    # Smoother than the best: the data steps of the network bring detail back.
    made["network"] = learned(trained(first, 2 * chosen * largest), second)
    return second, made, chosen
