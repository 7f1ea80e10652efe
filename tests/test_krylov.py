"""Conjugate gradients as a layer of a network."""

from __future__ import annotations

import pytest
import torch

from labrecon.krylov import cg_start, cg_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64])
def test_gradients_stay_finite_long_after_convergence(dtype) -> None:
    """``(D + ρ)⁻¹ b`` by as many iterations as one likes; the adjoint state is ``(D + ρ)⁻¹``."""
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(3, 30, dtype=dtype, generator=generator).requires_grad_()
    # One step solves it; each further one leaves a rounding of the last residual, in the end
    # numbers whose inverse square is none.
    diagonal = torch.full((30,), 0.64, dtype=dtype)

    def apply(v: torch.Tensor) -> torch.Tensor:
        return (diagonal + 0.5) * v

    state = cg_start(apply, b, None, 1)
    for _ in range(60):
        state = cg_step(apply, state, 1)
    (gradient,) = torch.autograd.grad(state.x.abs().square().sum(), b)
    expected = 2 * b.detach() / (diagonal + 0.5) ** 2
    assert torch.allclose(gradient, expected, rtol=1e-4 if dtype != torch.float64 else 1e-10)
