"""FBPConvNet (Jin, McCann, Froustey and Unser 2017): a U-Net after a direct inversion."""

from __future__ import annotations

from typing import Any

from labrecon.networks.unrolled import Unrolled
from labrecon.options import whole
from labrecon.prior import Prior
from labrecon.priors.channels import channel_count
from labrecon.priors.denoisers import Denoiser
from labrecon.priors.unet import Padding, UNet
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import SolverError
from labrecon.solvers.direct import Direct, DirectState

__all__ = ["PostProcessing", "make_fbp_convnet"]


class PostProcessing(Direct):
    """``x = prox_g(operator.initial(y))`` in one step: an inversion, then what mends it.

    Fast, and blind to the data after the inversion: what that has lost or made up is filled in from
    training. Not where a result must agree with the data.

    Args:
        prior: its prox is applied once, with step 1.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def step(self, problem: Problem, state: DirectState) -> tuple[DirectState, dict[str, Any]]:
        """Inversion and prox."""
        inverted, _ = super().step(problem, state)
        x, told = self.prior.layer(state.k).prox_and_losses(inverted.x, 1.0)
        return DirectState(inverted.k, x), told


def make_fbp_convnet(
    problem: Problem,
    *,
    depth: int = 4,
    features: int = 64,
    normalise: bool = True,
    padding: Padding = "reflect",
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """``x = x₀ + UNet(x₀)`` with ``x₀ = operator.initial(y)``, for any operator.

    For CT that is filtered back-projection; any other operator has some first estimate too. The
    published network has batch normalisation and is trained on one image at a time.

    Args:
        problem: an example: its operator gives axes and dtype.
        depth: how many times the U-Net halves the image.
        features: channels at the finest level.
        normalise: batch normalisation.
        padding: how images are continued to a size that can be halved, see `UNet`.
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong.
    """
    domain = problem.operator.domain
    axes = min(2, domain.ndim)
    with seeded(seed):
        network = UNet(
            channel_count(domain.dtype),
            axes=axes,
            features=whole("features", features, error=SolverError),
            levels=whole("depth", depth, error=SolverError),
            normalise=normalise,
            padding=padding,
            first=3,
        )
    prior = Denoiser(network.to(domain.real_dtype), axes=axes, scale=scale)
    return Unrolled(PostProcessing(prior), 1)
