"""Exchange finds optimal designs, which small cases know by enumeration."""

import itertools

import pytest
import torch

from labrecon.learners.exchange import exchange


def a_optimality(rows: torch.Tensor):
    """``trace (Σ aᵢaᵢᵀ + εI)⁻¹`` over the chosen rows: the mean variance of least squares."""

    def loss(mask: torch.Tensor) -> float:
        chosen = rows[mask.flatten() > 0]
        gram = chosen.mT @ chosen + 1e-3 * torch.eye(rows.shape[1], dtype=rows.dtype)
        return float(torch.linalg.inv(gram).trace())

    return loss


@pytest.mark.parametrize("seed", range(4))
def test_optimal_design_of_a_regression(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    loss = a_optimality(rows)
    every = [
        loss(torch.tensor([float(i in chosen) for i in range(12)]))
        for chosen in itertools.combinations(range(12), 5)
    ]
    start = torch.zeros(12, 1)
    start[:5] = 1
    found = exchange(start, iter([loss]), rounds=400, generator=generator)
    assert found.mask.shape == start.shape
    assert int(found.mask.sum()) == 5
    assert found.loss == pytest.approx(loss(found.mask))
    # An exchange ends where no single swap helps: within 2 % of the best of all 792.
    assert found.loss <= 1.02 * min(every)
    assert found.loss < sorted(every)[10]


def test_fixed_members_stay_and_batches_change() -> None:
    generator = torch.Generator().manual_seed(0)
    asked: list[int] = []

    def losses():
        for batch in range(3):
            asked.append(batch)
            yield lambda mask: -float(mask[5:].sum())

    fixed = torch.zeros(8)
    fixed[0] = 1
    start = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])
    found = exchange(start, losses(), rounds=60, generator=generator, fixed=fixed, every=20)
    assert found.mask[0] == 1
    assert float(found.mask[5:].sum()) == 2
    assert asked == [0, 1, 2]
    assert bool((start == torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])).all())


def test_refusals() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="harden a relaxed one"):
        exchange(torch.full((4,), 0.5), iter([float]), rounds=1, generator=generator)
    for mask, fixed in ((torch.ones(4), None), (torch.eye(4)[0], torch.eye(4)[0])):
        with pytest.raises(ValueError, match="nothing can be swapped"):
            exchange(mask, iter([float]), rounds=1, generator=generator, fixed=fixed)
