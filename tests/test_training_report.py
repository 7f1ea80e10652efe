"""The report of a training: what it says of parameters, and objects of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from labrecon.constraint import Positive
from labrecon.report.parameters import learned, moved_weights, numbers_by_layer
from labrecon.report.training import Method, TrainingReport, render_training
from labrecon.schedule import Schedule


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = Schedule([0.5, 0.25, 0.125], learn=True)
        self.fixed = Schedule([1.0, 2.0])
        self.convolutions = nn.ModuleList([nn.Conv1d(1, 2, 3, bias=False) for _ in range(3)])
        self.shrinks = nn.ModuleList([nn.Module() for _ in range(2)])
        for k, shrink in enumerate(self.shrinks):
            shrink.weight = nn.Parameter(torch.tensor(2.0 + k))
            parametrize.register_parametrization(shrink, "weight", Positive())
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)


def test_values_behind_constraints_are_told_by_layer():
    values = learned(Layered())
    numbers = numbers_by_layer(values)
    assert set(numbers) == {"step", "shrinks.*.weight"}
    assert [k for k, _ in numbers["step"]] == [0, 1, 2]
    assert [v for _, v in numbers["step"]] == pytest.approx([0.5, 0.25, 0.125])
    assert [v for _, v in numbers["shrinks.*.weight"]] == pytest.approx([2.0, 3.0])
    assert {n for n in values if "convolutions" in n} == {
        f"convolutions.{k}.weight" for k in range(3)
    }
    assert len(values) == 8


def test_how_far_weights_moved():
    network = Layered()
    before = learned(network)
    with torch.no_grad():
        for k, convolution in enumerate(network.convolutions):
            convolution.weight *= 1 + 0.1 * k
    layers, count, points = moved_weights(before, learned(network))["convolutions.*.weight"]
    assert (layers, count) == (3, 18)
    assert [ratio for _, ratio in points] == pytest.approx([0.0, 0.1, 0.2], abs=1e-6)


def report(shape: tuple[int, ...], dtype: torch.dtype) -> TrainingReport:
    generator = torch.Generator().manual_seed(0)
    truth, made, data = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(3))
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    values = learned(Layered())
    metrics = {"psnr": 20.0, "nrmse": 0.1}
    provenance = {
        "instrument": "toy & more",
        "created": "today",
        "recipe": {"seed": 1},
        "data": {"objects": "<simulated>", "trained_on": 3, "held_out": 1},
        "model": {"parameters": 9, "sha256": "abc"},
        "training": {"status": "finished", "steps": 2, "seconds": 1.0, "best_step": 1},
        "versions": {"labrecon": "0", "python": "3", "torch": "2", "numpy": "2"},
        "machine": {"device": "cpu", "threads": 1},
        "timings_seconds": {"train": 1.0},
    }
    log = [{"step": k + 1.0, "loss": 0.5**k, "validation/psnr": 3.0 * k} for k in range(3)]
    return TrainingReport(
        "net",
        "A toy",
        axes,
        None,
        "1/mm",
        provenance,
        log,
        [Method("net (trained)", metrics, [made]), Method("TV", metrics, [made], 1.0, "note")],
        [truth],
        [data],
        axes,
        "counts",
        values,
        values,
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40,), (12, 14), (3, 9, 10), (12, 14, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_any_shape(shape, dtype):
    page = render_training(report(shape, dtype))
    assert "toy &amp; more" in page
    assert "&lt;simulated&gt;" in page
    assert page.count("<svg") >= 4
