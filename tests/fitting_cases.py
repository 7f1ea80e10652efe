"""A small training for the tests of `fit`; run as a program it is one to be killed, or torchrun.

A convolutional network corrects a gradient step over an undersampled Fourier transform of complex
images. Its noise depends on the epoch and the index of a sample; its mask is a design.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from labrecon.design import Box
from labrecon.learner import FitConfig, Learner, fit
from labrecon.operators.fourier import MaskedFourier
from labrecon.priors.channels import apply_network, from_channels, to_channels
from labrecon.seeds import seeded
from labrecon.space import Space

SIZE = 8


class Net(nn.Module):
    """``x ← x − τ Aᴴ(A x − y)``, then a residual of two convolutions, twice."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.cnn = nn.Sequential(
                nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)
            )
        self.step = nn.Parameter(torch.tensor(0.8))
        self.phase = nn.Parameter(torch.tensor(1.0 + 0.1j))

    def forward(self, operator, data: Tensor) -> Tensor:
        x = operator.adjoint(data)
        for _ in range(2):
            x = x - self.step * operator.adjoint(operator(x) - data)
            [residual] = from_channels(apply_network(self.cnn, to_channels([x])), x.dtype)
            x = x + self.phase * residual
        return x


class Reconstruction(Learner):
    """Mean squared error of the network; gradients reach the mask, too."""

    def __init__(self, rate: float | None = None) -> None:
        mask = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(5)).round() * 0.8
        space = Space((SIZE, SIZE), torch.complex64)
        self.operator = MaskedFourier(space, mask + 0.1, feasible=Box(0.0, 1.0))
        self.operator.learn("mask")
        self.net = Net()
        self.rate = rate

    def parameters(self):
        design = {"params": [self.operator.mask]}
        if self.rate is not None:
            design["lr"] = self.rate
        return [{"params": self.net.parameters()}, design]

    def modules(self):
        return {"net": self.net, "operator": self.operator}

    def loss(self, batch):
        truth, noise = batch
        error = self.net(self.operator, self.operator(truth) + noise) - truth
        loss = error.abs().square().flatten(1).mean(1).mean()
        return loss, {"rmse": float(loss.detach()) ** 0.5}

    def after_step(self) -> None:
        with torch.no_grad():
            self.operator.mask.copy_(self.operator.designs["mask"].project(self.operator.mask))


class Images:
    """Complex images with noise of their own in each epoch, by index."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.truth = torch.randn(count, SIZE, SIZE, dtype=torch.complex64, generator=generator)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.truth)

    def batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor]:
        noise = []
        for index in indices:
            generator = torch.Generator().manual_seed(1000003 * epoch + 1009 * index + self.seed)
            shape = (SIZE, SIZE)
            noise.append(0.1 * torch.randn(shape, dtype=torch.complex64, generator=generator))
        return self.truth[list(indices)], torch.stack(noise)


class Drawn:
    """Ready batches that draw from torch's global generator, as a shuffling DataLoader does."""

    def __init__(self, images: Images, size: int) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self):
        for indices in torch.randperm(len(self.images)).split(self.size):
            yield self.images.batch(indices.tolist(), int(torch.randint(1000, ())))


def die_at(what: str, when: str) -> None:
    """Kill this process in its n-th call of a function, before the function does anything."""
    home = {"fsync": os, "replace": Path, "loss": Reconstruction, "after_step": Reconstruction}[
        what
    ]
    function, calls = getattr(home, what), iter(range(1, 10**6))

    def deadly(*args, **kwargs):
        if next(calls) == int(when):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(home, what, deadly)


def main(arguments: list[str]) -> None:
    from labrecon.io.checkpoints import CheckpointFolder
    from labrecon.io.logs import CsvLog, TensorBoardLog

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", choices=["samples", "drawn"], default="samples")
    parser.add_argument("--count", type=int, default=26)
    parser.add_argument("--checkpoints", action="store_true")
    parser.add_argument("--config", type=json.loads, default={})
    parser.add_argument("--die", default="", help="fsync:2 is SIGKILL at the second call of it")
    given = parser.parse_args(arguments)
    if given.die:
        die_at(*given.die.split(":"))
    config = FitConfig(**given.config)
    learner = Reconstruction(rate=0.01)
    images = Images(given.count)
    torch.manual_seed(7)
    result = fit(
        learner,
        images if given.data == "samples" else Drawn(images, config.batch_size),
        config,
        validation=Images(5, seed=1),
        callbacks=[CsvLog(given.folder / "log.csv"), TensorBoardLog(given.folder / "events")],
        checkpoints=CheckpointFolder(given.folder / "checkpoints", steps=3)
        if given.checkpoints
        else None,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        weights = {name: t.detach() for name, t in learner.tensors().items()}
        save_file(weights, given.folder / "weights.safetensors")
        told = {
            "status": result.status,
            "steps": result.steps,
            "losses": [r["loss"] for r in result],
        }
        (given.folder / "result.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
