"""Greedy choice against enumeration."""

import itertools

import pytest
import torch

from labrecon.learners import greedy


@pytest.mark.parametrize("seed", range(4))
def test_information_is_near_the_best(seed: int) -> None:
    """``log det`` gains are submodular: greedy keeps 1 − 1/e of the best (Nemhauser 1978)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(10, 3, generator=generator, dtype=torch.float64)

    def gain(mask: torch.Tensor) -> float:
        chosen = rows[mask > 0]
        return float(torch.logdet(torch.eye(3, dtype=torch.float64) + chosen.mT @ chosen))

    best = max(
        gain(torch.tensor([float(i in chosen) for i in range(10)]))
        for chosen in itertools.combinations(range(10), 4)
    )
    found = greedy(10, 4, lambda mask: -gain(mask), generator=generator)
    assert int(found.mask.sum()) == 4
    assert found.loss == pytest.approx(-gain(found.mask))
    assert gain(found.mask) >= (1 - 1 / 2.718281828) * best


def test_fixed_members_stay_and_few_candidates_are_tried() -> None:
    tried = []

    def loss(mask: torch.Tensor) -> float:
        tried.append(mask.clone())
        return float(-(mask * torch.arange(8.0)).sum())

    fixed = torch.zeros(8)
    fixed[1] = 1
    generator = torch.Generator().manual_seed(0)
    found = greedy(8, 3, loss, generator=generator, fixed=fixed, candidates=2)
    assert found.mask[1] == 1
    assert len(tried) == 4
    with pytest.raises(ValueError, match="9 can not be chosen from 8"):
        greedy(8, 9, loss, generator=generator)
