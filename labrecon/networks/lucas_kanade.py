"""Lucas–Kanade Reloaded: burst super-resolution unrolled, with a learned prior."""

from __future__ import annotations

from torch import nn

from labrecon.networks.unrolled import Unrolled
from labrecon.options import number, whole
from labrecon.priors.channels import channel_count
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.solvers.lucas_kanade import Lost, LucasKanade

__all__ = ["make_lucas_kanade"]


def make_lucas_kanade(
    problem: Problem,
    *,
    depth: int = 6,
    inner: int = 3,
    features: int = 32,
    layers: int = 5,
    coupling: tuple[float, float] = (0.02, 0.5),
    joint: bool = True,
    lost: Lost = "drop",
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """`LucasKanade` with a convolutional denoiser as prior, learned end to end, motions included.

    Step sizes ``ηₜ`` and couplings ``μₜ``, which increase, are learned per iteration; the denoiser
    is shared (Lecouat, Ponce and Mairal 2021). It changes nothing before training: the network
    starts as least squares. First motions come from registration, which has no parameters; the
    Gauss–Newton steps after it are differentiated.

    Args:
        problem: an example: a burst of this camera.
        depth: iterations.
        inner: gradient steps in each.
        features: channels of the denoiser.
        layers: its convolutions.
        coupling: ``μ`` of the first and of the last iteration before training, in units of the
            curvature of the data term.
        joint: estimate motions in the iterations, too; else those of the registration stay.
        lost: frames that can not be registered: "drop" (the burst is one frame shorter), or
            "raise".
        scale: typical size of object values.
        seed: of the weights.

    Raises:
        SolverError: the operator is no `Burst`, or a number is out of range.
        PriorError: a size of the denoiser is out of range.
    """
    depth = whole("lucas-kanade: depth", depth, error=SolverError)
    first = number("lucas-kanade: coupling", coupling[0], above=0, error=SolverError)
    last = number("lucas-kanade: coupling", coupling[1], above=first, error=SolverError)
    domain = problem.operator.domain
    couplings = [first * (last / first) ** (k / max(depth - 1, 1)) for k in range(depth)]
    with seeded(seed):
        network = DnCNN(
            channel_count(domain.dtype), features=features, depth=layers, batch_norm=False
        )
    final: nn.Module = network.residual[-1]
    nn.init.zeros_(final.weight)  # type: ignore[arg-type]
    solver = LucasKanade(
        prior=Denoiser(network, scale=scale),
        mu=Schedule(couplings, constraint="increasing", learn=True),
        step_size=Schedule([1 / (1 + mu) for mu in couplings], learn=True),
        inner=inner,
        joint=joint,
        lost=lost,
    )
    solver.check(problem)
    return Unrolled(solver, depth).to(domain.real_dtype)
