"""The AR(1) whitening against the covariance ``a^|i−j|`` of the process."""

from __future__ import annotations

import pytest
import torch

from labrecon import Space
from labrecon.space import SpaceError
from labrecon_coronagraph.autoregression import Autoregression


@pytest.mark.parametrize("a", [0.0, 0.5, 0.95, -0.3])
def test_it_is_a_root_of_the_inverse_covariance(a: float) -> None:
    n = 7
    operator = Autoregression(Space((n,), torch.float64), a)
    matrix = operator(torch.eye(n, dtype=torch.float64)).mT
    lags = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
    covariance = torch.tensor(a, dtype=torch.float64) ** lags
    torch.testing.assert_close(matrix.mT @ matrix, torch.linalg.inv(covariance))
    torch.testing.assert_close(operator.adjoint(torch.eye(n, dtype=torch.float64)), matrix)


def test_frames_come_first() -> None:
    operator = Autoregression(Space((4, 3)), 0.5)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    alone = Autoregression(Space((4,)), 0.5)
    torch.testing.assert_close(operator(x), alone(x.mT).mT)
    with pytest.raises(SpaceError, match=r"within \(-1, 1\)"):
        Autoregression(Space((4,)), 1.0)
