"""The training loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.learner import FitConfig, FitError, Learner, fit


class Line(Learner):
    """Fits ``y = a x + b``; ``b`` is kept not negative."""

    def __init__(self) -> None:
        self.a = torch.zeros((), requires_grad=True)
        self.b = torch.ones((), requires_grad=True)

    def parameters(self):
        return [self.a, self.b]

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        x, y = batch
        loss = (self.a * x + self.b - y).square().mean()
        return loss, {"slope": float(self.a.detach())}

    def after_step(self) -> None:
        with torch.no_grad():
            self.b.clamp_(min=0)


def points(offset: float = 0.5) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    return [(row, 2 * row + offset) for row in x]


def test_a_regression_finds_its_line() -> None:
    learner = Line()
    history = fit(learner, points(), FitConfig(epochs=60, learning_rate=0.05))
    assert float(learner.a.detach()) == pytest.approx(2, abs=0.01)
    assert float(learner.b.detach()) == pytest.approx(0.5, abs=0.01)
    assert len(history) == 480
    assert {"epoch", "loss", "slope", "seconds"} <= history[-1].keys()


def test_after_step_keeps_a_constraint() -> None:
    learner = Line()
    fit(learner, points(-3.0), FitConfig(epochs=30, learning_rate=0.05))
    assert float(learner.b.detach()) == 0


def test_a_callback_and_a_time_limit_end_it() -> None:
    assert len(fit(Line(), points(), callbacks=[lambda step, _: step == 3])) == 3
    assert len(fit(Line(), points(), FitConfig(seconds=1e-9))) == 1


def test_clip_bounds_the_gradient() -> None:
    learner = Line()
    fit(learner, points(100.0)[:1], FitConfig(clip=1e-3))
    total = sum(p.grad.square().sum() for p in learner.parameters()) ** 0.5
    assert float(total) <= 1.001e-3


def test_nothing_to_train_or_to_train_on() -> None:
    with pytest.raises(FitError, match="empty"):
        fit(Line(), [])
    frozen = Line()
    for p in frozen.parameters():
        p.requires_grad_(False)
    with pytest.raises(FitError, match="nothing to train"):
        fit(frozen, points())


def test_a_generator_that_is_used_up_is_told() -> None:
    with pytest.raises(FitError, match="used up after epoch 0"):
        fit(Line(), (pair for pair in points()), FitConfig(epochs=2))


def test_a_loss_that_is_not_finite_is_told_before_the_step() -> None:
    learner = Line()
    with pytest.raises(FitError, match="nan at step 0"):
        fit(learner, [(torch.tensor([float("nan")]), torch.tensor([1.0]))])
    assert float(learner.a.detach()) == 0


@pytest.mark.parametrize("options", [{"epochs": 0}, {"learning_rate": 0.0}])
def test_wrong_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="epochs"):
        FitConfig(**options)
