"""Learner: what is trained, from what, with which loss; and the loop that trains it."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FitConfig", "FitError", "Learner", "fit"]


class FitError(ArithmeticError):
    """Training can not go on: a loss is not finite, or there is nothing to train."""


class Learner(ABC):
    """Something that is trained: a network, a design, a prior.

    A learner holds its modules; `fit` only asks for parameters, a loss per batch and what to do
    after a step.
    """

    @abstractmethod
    def parameters(self) -> Iterable[Tensor]:
        """The tensors that the optimiser changes."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, and metrics to record."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each optimiser step: project designs onto what the hardware can do."""


@dataclass(frozen=True)
class FitConfig:
    """How `fit` trains.

    Attributes:
        epochs: passes over the data.
        learning_rate: of Adam.
        clip: largest gradient norm, or None.
        seconds: stop after so much wall time, or None.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    clip: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.learning_rate > 0:
            raise ValueError("epochs must be at least 1 and learning_rate positive")


StepCallback = Callable[[int, dict[str, float]], object]


def fit(
    learner: Learner,
    data: Iterable[Any],
    config: FitConfig | None = None,
    *,
    callbacks: Iterable[StepCallback] = (),
) -> list[dict[str, float]]:
    """Minimise ``learner.loss`` over ``data`` with Adam; returns a record per step.

    ``data`` is iterated once per epoch; what it yields, and in which order, is its own affair
    (and its own generator's). A callback that returns a true value ends the training.

    Raises:
        FitError: no parameter has gradients on, ``data`` is empty, or a loss is not finite.
    """
    config = config or FitConfig()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        raise FitError("nothing to train: no parameter has gradients on (Operator.learn?)")
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    watchers = list(callbacks)
    begin = time.perf_counter()
    history: list[dict[str, float]] = []
    for epoch in range(config.epochs):
        before = len(history)
        for batch in data:
            optimiser.zero_grad(set_to_none=True)
            loss, metrics = learner.loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FitError(
                    f"the loss is {value} at step {len(history)} (epoch {epoch}): lower the "
                    "learning rate, or set clip"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimiser.step()
            learner.after_step()
            record = {"epoch": float(epoch), "loss": value, **metrics}
            record["seconds"] = time.perf_counter() - begin
            history.append(record)
            answers = [watch(len(history), record) for watch in watchers]
            if any(answers):
                return history
            if config.seconds is not None and record["seconds"] >= config.seconds:
                return history
        if len(history) == before:
            raise FitError(
                "nothing to train on: the data are empty"
                if not history
                else f"the data are used up after epoch {epoch - 1}: a generator runs once; give a "
                "list, or an object whose __iter__ starts anew"
            )
    return history
