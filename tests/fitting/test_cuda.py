"""Training on a GPU: what the CPU finds, in half precision too, and the same bits after a break."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fitting_cases import Images, Reconstruction

from labrecon.io.checkpoints import CheckpointFolder
from labrecon.learner import FitConfig, FitError, fit

pytestmark = pytest.mark.cuda
CONFIG = {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3}


def test_a_gpu_finds_what_the_cpu_finds() -> None:
    here, there = Reconstruction(), Reconstruction()
    expected = fit(here, Images(16), FitConfig(**CONFIG, ema=0.9), validation=Images(3))
    found = fit(
        there, Images(16), FitConfig(**CONFIG, ema=0.9), validation=Images(3), device="cuda"
    )
    assert next(there.net.parameters()).is_cuda
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-3)
    assert found.best.metrics["loss"] == pytest.approx(expected.best.metrics["loss"], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full(precision: str) -> None:
    full, half = Reconstruction(), Reconstruction()
    for learner in (full, half):
        learner.net.phase.requires_grad_(False)  # loss scaling knows no complex parameters
    kinds = set()
    half.net.cnn[0].register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    expected = fit(full, Images(16), FitConfig(**CONFIG), device="cuda")
    found = fit(half, Images(16), FitConfig(**CONFIG, precision=precision), device="cuda")
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-2)


def test_loss_scaling_refuses_complex_parameters() -> None:
    with pytest.raises(FitError, match="no complex parameters: take bf16"):
        fit(Reconstruction(), Images(4), FitConfig(precision="fp16"), device="cuda")


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_going_on_gives_the_same_bits(precision: str, tmp_path: Path) -> None:
    def learner() -> Reconstruction:
        made = Reconstruction()
        made.net.phase.requires_grad_(False)
        return made

    config = FitConfig(**CONFIG, precision=precision, ema=0.9)
    whole, torn = learner(), learner()
    fit(whole, Images(16), config, device="cuda")

    class Crash(Exception):
        pass

    def crash(step: int, record: object) -> None:
        if step == 5:
            raise Crash

    with pytest.raises(Crash):
        fit(
            learner(),
            Images(16),
            config,
            callbacks=[crash],
            checkpoints=CheckpointFolder(tmp_path, steps=2),
            device="cuda",
        )
    checkpoints = CheckpointFolder(tmp_path, steps=2)
    fit(torn, Images(16), config, checkpoints=checkpoints, device="cuda")
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, torn.tensors()[name]), name


def test_too_little_memory_is_told() -> None:
    class Greedy(Reconstruction):
        def loss(self, batch):
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
            return super().loss(batch)

    with pytest.raises(FitError, match="memory does not suffice at step 0"):
        fit(Greedy(), Images(4), FitConfig(batch_size=4), device="cuda")
