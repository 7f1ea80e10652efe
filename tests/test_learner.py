"""The training loop."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

import pytest
import torch
from fitting_cases import Images, Reconstruction
from torch import Tensor

from labrecon.fitting.processes import Processes
from labrecon.io.checkpoints import CheckpointFolder
from labrecon.learner import FitConfig, FitError, Learner, fit
from labrecon.operators.fourier import MaskedFourier
from labrecon.operators.matrix import Matrix as MatrixOperator
from labrecon.space import Space


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


def value(parameter: Tensor) -> float:
    return float(parameter.detach())


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
    [name] = options
    with pytest.raises(ValueError, match=name):
        FitConfig(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 1, "steps": 1}, "epochs or steps, not both"),
        ({"optimiser": "adamm"}, "optimiser is one of adam, adamw"),
        ({"options": {"beta": 0.9}}, "adam has no 'beta'; it has betas"),
        ({"options": {"betas": (0.9, 2.0)}}, "options of adam: Invalid beta"),
        ({"schedule": "linear"}, "schedule is one of constant, cosine"),
        ({"schedule": "step", "decay": 0.5}, "needs decay and decay_every"),
        ({"decay": 0.5}, "'constant' takes no decay"),
        ({"schedule": "cosine", "decay_every": 3}, "'cosine' takes no decay_every"),
        ({"precision": "float16"}, "precision is one of float32, bf16, fp16"),
        ({"ema": 1.0}, "ema must be a number > 0 and < 1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"accumulate": 1.5}, "accumulate must be a whole number"),
        ({"keep": "both"}, "keep is one of best, last"),
        ({"clip": -1.0}, "clip must be a number > 0"),
        ({"optimiser": "lbfgs", "clip": 1.0}, "clip does not go with it"),
        ({"optimiser": "lbfgs", "precision": "fp16"}, "no loss scaling"),
    ],
)
def test_what_is_wrong_with_settings_is_told(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FitConfig(**options)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup": 4}, [0.25, 0.5, 0.75, 1]),
        ({"schedule": "cosine"}, [1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5]),
        ({"schedule": "cosine", "decay": 0.5}, [1, 0.75 + 0.25 * 0.5**0.5, 0.75]),
        ({"schedule": "exponential", "decay": 0.25, "decay_every": 2}, [1, 0.5, 0.25, 0.125]),
        ({"schedule": "step", "decay": 0.25, "decay_every": 2}, [1, 1, 0.25, 0.25]),
    ],
)
def test_laws_of_the_learning_rate(options: dict, rates: list[float]) -> None:
    config = FitConfig(steps=4, learning_rate=0.5, optimiser="sgd", **options)
    history = fit(Line(), points(), config)
    found = [record["learning_rate"] / 0.5 for record in history]
    assert found[: len(rates)] == pytest.approx(rates)


class Points:
    """The points of a line by index."""

    def __init__(self, count: int = 7) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 4, dtype=torch.float64, generator=generator)
        self.asked: list[tuple[list[int], int]] = []

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices, epoch):
        self.asked.append((list(indices), epoch))
        x = self.x[list(indices)]
        return x, 2 * x + 0.5


def test_samples_are_shuffled_anew_in_each_epoch_and_the_same_way_each_time() -> None:
    first, second, other = Points(), Points(), Points()
    config = FitConfig(epochs=2, batch_size=3)
    fit(Line(), first, config)
    fit(Line(), second, config)
    fit(Line(), other, dataclasses.replace(config, seed=1))
    assert first.asked == second.asked != other.asked
    assert [(len(indices), epoch) for indices, epoch in first.asked] == [
        *[(3, 0), (3, 0), (1, 0)],
        *[(3, 1), (3, 1), (1, 1)],
    ]
    for epoch in (0, 1):
        order = [i for indices, e in first.asked if e == epoch for i in indices]
        assert sorted(order) == list(range(7))
        assert order != sorted(order)


def test_accumulated_parts_are_one_batch() -> None:
    whole, parts = Line(), Line()
    config = FitConfig(epochs=3, batch_size=5, optimiser="sgd", learning_rate=0.1)
    expected = fit(whole, Points(), config)
    samples = Points()
    found = fit(parts, samples, dataclasses.replace(config, accumulate=2))
    # Five samples in parts of 3 and 2, two in parts of 1 and 1.
    assert [len(indices) for indices, _ in samples.asked] == [3, 2, 1, 1] * 3
    assert value(parts.a) == pytest.approx(value(whole.a), rel=1e-6)
    assert value(parts.b) == pytest.approx(value(whole.b), rel=1e-6)
    for name in ("loss", "slope", "gradient_norm"):
        assert [r[name] for r in found] == pytest.approx([r[name] for r in expected], rel=1e-6)


def test_ready_batches_can_not_be_cut() -> None:
    with pytest.raises(FitError, match="can not be cut into parts"):
        fit(Line(), points(), FitConfig(accumulate=2))


class Grouped(Line):
    """Line with a rate of its own for the offset."""

    group: ClassVar[dict[str, Any]] = {"lr": 0.0}

    def parameters(self):
        return [{"params": [self.a]}, {"params": self.b, **self.group}]


def test_a_group_has_its_own_rate() -> None:
    learner = Grouped()
    history = fit(learner, points(), FitConfig(learning_rate=0.1, schedule="cosine"))
    assert value(learner.b) == 1
    assert value(learner.a) != 0
    assert history[-1]["learning_rate"] < 0.01


def test_groups_that_are_wrong_are_told() -> None:
    learner = Grouped()
    learner.group = {"learning_rate": 1.0}
    with pytest.raises(FitError, match=r"has learning_rate; adam knows .*lr"):
        fit(learner, points())
    learner.group = {"params": [learner.a, learner.b]}
    with pytest.raises(FitError, match="more than one parameter group"):
        fit(learner, points())
    learner.group = {}
    with pytest.raises(FitError, match="lbfgs takes one group"):
        fit(learner, points(), FitConfig(optimiser="lbfgs"))
    learner.parameters = lambda: [learner.a, {"params": learner.b}]
    with pytest.raises(FitError, match="and not both"):
        fit(learner, points())


def test_lbfgs_solves_least_squares_in_a_step() -> None:
    learner = Line()
    x = torch.linspace(-1, 1, 9)
    history = fit(
        learner,
        [(x, 2 * x + 0.5)],
        FitConfig(
            optimiser="lbfgs",
            learning_rate=1.0,
            options={"max_iter": 20, "line_search_fn": "strong_wolfe"},
        ),
    )
    assert len(history) == 1
    assert history[0]["loss"] == pytest.approx(float((2 * x + 0.5 - 1).square().mean()))
    assert value(learner.a) == pytest.approx(2, abs=1e-5)
    assert value(learner.b) == pytest.approx(0.5, abs=1e-5)


def test_lbfgs_leaves_good_weights_where_its_search_fails() -> None:
    class Cliff(Line):
        def loss(self, batch):
            loss, told = super().loss(batch)
            return (loss if value(self.a) == 0 else loss * float("nan")), told

    learner = Cliff()
    with pytest.raises(FitError, match="the loss is nan at step 0"):
        fit(learner, points(), FitConfig(optimiser="lbfgs"))
    assert value(learner.a) == 0
    assert value(learner.b) == 1


def test_the_average_is_what_one_ends_with() -> None:
    learner, values = Line(), []

    def watch(step: int, record: dict[str, float]) -> None:
        values.append(value(learner.a))

    fit(learner, points(), FitConfig(learning_rate=0.1, ema=0.3), callbacks=[watch])
    average = 0.0
    for k, weight in enumerate(values):
        decay = min(0.3, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * weight
    assert value(learner.a) == pytest.approx(average, rel=1e-6)
    assert average != values[-1]


class Rising(Line):
    """Validates as told."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)
        self.seen: list[float] = []
        self.net = torch.nn.Linear(1, 1)
        self.modes: list[tuple[bool, bool]] = []

    def modules(self):
        return {"net": self.net}

    def loss(self, batch):
        self.modes.append((self.net.training, torch.is_grad_enabled()))
        return super().loss(batch)

    def validate(self, batch):
        self.modes.append((self.net.training, torch.is_grad_enabled()))
        self.seen.append(value(self.a))
        return {"loss": 0.0, "psnr": next(self.scores)}


def test_it_stops_early_with_the_best() -> None:
    learner = Rising([20.0, 24.0, float("nan"), 23.0, 30.0])
    learner.net.eval()
    config = FitConfig(epochs=9, learning_rate=0.1, monitor="psnr", maximise=True, patience=2)
    history = fit(learner, points(), config, validation=points()[:1])
    assert history.status == "early stopping"
    assert history.steps == len(history) == 4 * 8
    assert history.best is not None
    assert (history.best.step, history.best.metrics["psnr"]) == (16, 24.0)
    assert value(learner.a) == learner.seen[1] != learner.seen[3]
    assert [i for i, r in enumerate(history) if "validation/psnr" in r] == [7, 15, 23, 31]
    assert set(learner.modes) == {(True, True), (False, False)}
    assert not learner.net.training


def test_the_last_can_be_kept() -> None:
    learner = Rising([2.0, 1.0])
    config = FitConfig(steps=5, validate_every=4, monitor="psnr", maximise=True, keep="last")
    history = fit(learner, points(), config, validation=points()[:1])
    assert [i for i, r in enumerate(history) if "validation/psnr" in r] == [3, 4]
    assert history.best.step == 4
    assert value(learner.a) == learner.seen[1]


def test_validation_is_the_mean_over_samples_and_of_the_average() -> None:
    learner = Line()
    samples = Points(5)
    config = FitConfig(batch_size=2, learning_rate=0.1, ema=0.5)
    history = fit(learner, Points(), config, validation=samples)
    assert [indices for indices, _ in samples.asked] == [[0, 1], [2, 3], [4]]
    # What is kept is the average, which was validated.
    with torch.no_grad():
        expected, _ = learner.loss(samples.batch(range(5), 0))
    assert history[-1]["validation/loss"] == pytest.approx(float(expected), rel=1e-6)


def test_validation_that_can_not_be_is_told() -> None:
    with pytest.raises(FitError, match="monitor is 'psnr', and validation gives loss, slope"):
        fit(Line(), points(), FitConfig(monitor="psnr"), validation=points())
    with pytest.raises(FitError, match="patience waits for a better validation"):
        fit(Line(), points(), FitConfig(patience=1))
    with pytest.raises(FitError, match="data are empty"):
        fit(Line(), points(), validation=[])

    def generated():
        yield from points()

    with pytest.raises(FitError, match="say after how many steps to validate_every"):
        fit(Line(), generated(), validation=points())
    with pytest.raises(FitError, match="cosine needs to know the end"):
        fit(Line(), generated(), FitConfig(schedule="cosine"))


def test_ends_have_names() -> None:
    assert fit(Line(), points()).status == "finished"
    assert fit(Line(), points(), FitConfig(steps=20)).steps == 20
    assert fit(Line(), (p for p in points())).steps == 8
    assert fit(Line(), points(), FitConfig(seconds=1e-9)).status == "time"
    stopped = fit(Line(), points(), callbacks=[lambda step, _: step == 3])
    assert (stopped.status, stopped.steps, stopped.last) == ("stopped", 3, stopped[-1])


def test_a_gradient_that_is_not_finite_is_told_before_the_step() -> None:
    class Root(Line):
        def loss(self, batch):
            return self.a.sqrt() + self.b, {}

    learner = Root()
    with pytest.raises(FitError, match=r"the gradient is inf at step 0 \(epoch 0, batch 0"):
        fit(learner, points())
    assert (value(learner.a), value(learner.b)) == (0, 1)


def test_a_loss_of_the_wrong_kind_is_told() -> None:
    class Wrong(Line):
        made = staticmethod(lambda loss: loss.expand(2))

        def loss(self, batch):
            loss, told = super().loss(batch)
            return self.made(loss), told

    with pytest.raises(FitError, match=r"one real number; the learner gave \(2,\)"):
        fit(Wrong(), points())
    Wrong.made = staticmethod(lambda loss: loss.detach())
    with pytest.raises(FitError, match="does not depend on any trained parameter"):
        fit(Wrong(), points())


def test_too_little_memory_is_told_with_advice() -> None:
    class Greedy(Line):
        def loss(self, batch):
            return self.a * torch.empty(2**60, dtype=torch.uint8).sum(), {}

    with pytest.raises(FitError, match=r"at step 0 \(epoch 0, samples 0, .*smaller batch_size"):
        fit(Greedy(), Points(), FitConfig(batch_size=7))

    class Advised(Greedy):
        def advice(self, batch) -> str:
            return f"memory='invert' fits {len(batch[0])} samples"

    with pytest.raises(FitError, match=r"memory='invert' fits 7 samples\. It was: .*allocate"):
        fit(Advised(), Points(), FitConfig(batch_size=7))

    class Other(Line):
        def loss(self, batch):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(Other(), points())


def test_what_is_trained_has_names() -> None:
    class Parts(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
            self.net[0].bias.requires_grad_(False)
            self.operator = MaskedFourier(Space((2,), torch.complex64), torch.ones(2))

        def parameters(self):
            return [self.a, *self.net.parameters()]

        def modules(self):
            return {"net": self.net, "operator": self.operator, "again": self.net}

    found = Parts().tensors()
    assert set(found) == {
        "net.0.weight",
        *(f"net.1.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "net.1.num_batches_tracked",
        "parameter.0",
    }


def test_nothing_else_is_left_changed() -> None:
    from accelerate.state import AcceleratorState, PartialState

    states = [kind._shared_state for kind in (AcceleratorState, PartialState)]
    before = [dict(state) for state in states]
    environment, threads = dict(os.environ), torch.get_num_threads()
    random = torch.get_rng_state()
    fit(Line(), points(), FitConfig(precision="bf16"))
    assert [dict(state) for state in states] == before
    assert [kind._shared_state for kind in (AcceleratorState, PartialState)] == states
    assert dict(os.environ) == environment
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    assert not torch.is_autocast_enabled("cpu")


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(FitError, match="fp16 needs a GPU: take bf16"):
        fit(Line(), points(), FitConfig(precision="fp16"))


def test_mixed_precision_leaves_operators_alone() -> None:
    full, mixed = Reconstruction(), Reconstruction()
    kinds = set()
    for layer in mixed.net.cnn[::2]:
        layer.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    config = FitConfig(epochs=2, batch_size=4, learning_rate=3e-3)
    expected = fit(full, Images(16), config)
    found = fit(mixed, Images(16), dataclasses.replace(config, precision="bf16"))
    assert kinds == {torch.bfloat16}
    # Eight bits of mantissa in the network, all of them around it.
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=4e-3)
    assert [r["loss"] for r in found] != [r["loss"] for r in expected]
    assert mixed.net.phase.dtype == torch.complex64
    assert expected[-1]["loss"] < expected[0]["loss"]


@pytest.mark.parametrize("method", ["__call__", "adjoint", "normal", "solve", "initial"])
def test_an_operator_computes_in_full_precision(method: str) -> None:
    matrix = MatrixOperator(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(6, generator=torch.Generator().manual_seed(1))
    rest = (0.5,) if method == "solve" else ()
    expected = getattr(matrix, method)(x, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(getattr(matrix, method)(x, *rest), expected)
        assert torch.is_autocast_enabled("cpu")


class Scaling(Processes):
    """As on a GPU in fp16, but with a loss scaler of the CPU and full precision."""

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__(device, "float32")
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)


def test_loss_scaling_changes_no_bit_and_skips_what_overflows(monkeypatch, tmp_path) -> None:
    class Overflowing(Line):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            loss, told = super().loss(batch)
            if self.calls == 3:
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss, told

    plain, scaled, skipping = Line(), Line(), Overflowing()
    config = FitConfig(learning_rate=0.1, clip=1.0)
    fit(plain, points(), config)
    monkeypatch.setattr("labrecon.learner.Processes", Scaling)
    fit(scaled, points(), config)
    assert torch.equal(scaled.a, plain.a)
    assert torch.equal(scaled.b, plain.b)
    values: list[float] = []
    checkpoints = CheckpointFolder(tmp_path)
    fit(
        skipping,
        points(),
        config,
        callbacks=[lambda *_: values.append(value(skipping.a))],
        checkpoints=checkpoints,
    )
    assert values[2] == values[1] != values[0]
    assert values[3] != values[2]
    assert checkpoints.load()["scaler"]["scale"] == 2.0**9


def test_loss_scaling_gives_up_in_the_end(monkeypatch) -> None:
    class Endless(Line):
        def loss(self, batch):
            loss, told = super().loss(batch)
            loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss, told

    monkeypatch.setattr("labrecon.learner.Processes", Scaling)
    with pytest.raises(FitError, match=r"the gradient is \w+ at step 11"):
        fit(Endless(), points(), FitConfig(epochs=3))


def test_a_curriculum_is_several_trainings() -> None:
    learner = Line()
    everything = learner.parameters
    learner.parameters = lambda: [learner.a]
    fit(learner, points(), FitConfig(epochs=20, learning_rate=0.1))
    assert value(learner.b) == 1
    before = value(learner.a)
    learner.parameters = everything
    fit(learner, points(), FitConfig(epochs=60, learning_rate=0.05))
    assert value(learner.b) == pytest.approx(0.5, abs=0.01)
    assert value(learner.a) == pytest.approx(2, abs=0.01) != before
