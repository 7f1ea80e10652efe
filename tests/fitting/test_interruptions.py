"""A training that is killed, and started again by the same command, ends in the same bits."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = str(Path(__file__).parents[1] / "fitting_cases.py")
CONFIG = {
    "epochs": 5,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "ema": 0.9,
    "schedule": "cosine",
    "warmup": 3,
    "clip": 1.0,
    "validate_every": 4,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder: Path, data: str, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    options = ["--data", data, "--config", json.dumps(CONFIG), "--checkpoints", *more]
    return [sys.executable, "-W", "error", PROGRAM, str(folder), *options]


def run(folder: Path, data: str, *more: str) -> int:
    return subprocess.run(command(folder, data, *more), env=ENVIRONMENT, check=False).returncode


def kill_after(folder: Path, data: str, seconds: float) -> int:
    """SIGKILL from outside, that long after the training has begun to log."""
    log = folder / "log.csv"
    before = log.read_text() if log.exists() else ""
    with subprocess.Popen(command(folder, data), env=ENVIRONMENT) as process:
        while process.poll() is None and (not log.exists() or log.read_text() == before):
            time.sleep(0.002)
        time.sleep(seconds)
        process.kill()
    return process.returncode


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "moments", "more"),
    [
        # In turn: when a checkpoint's data are there, but not its name; before its data are on
        # disk; in the middle of a step; between a step's change of the weights and what follows it;
        # and whenever it happens.
        ("samples", ("replace:3", "fsync:9", "loss:6", "after_step:5"), 2),
        ("drawn", ("fsync:9", "loss:6"), 1),
    ],
)
def test_killed_at_any_moment(tmp_path: Path, data: str, moments: tuple[str], more: int) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert run(whole, data) == 0
    for moment in moments:
        assert run(torn, data, "--die", moment) == -signal.SIGKILL
        assert not (torn / "weights.safetensors").exists()
    delays = random.Random(data)
    for _ in range(more):
        assert kill_after(torn, data, delays.uniform(0, 0.15)) in (-signal.SIGKILL, 0)
    assert run(torn, data) == 0
    expected = load_file(whole / "weights.safetensors")
    found = load_file(torn / "weights.safetensors")
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert table(torn) == table(whole)
    assert len(list((torn / "checkpoints").iterdir())) == 2
    # Once more, when there is nothing left to do.
    assert run(torn, data) == 0
    assert json.loads((torn / "result.json").read_text())["losses"] == []
    for name, weights in load_file(torn / "weights.safetensors").items():
        assert torch.equal(expected[name], weights), name
