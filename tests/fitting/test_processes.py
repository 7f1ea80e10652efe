"""Two processes train as one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = str(Path(__file__).parents[1] / "fitting_cases.py")


def trained(folder: Path, config: dict[str, object], *launcher: str, more: tuple[str, ...] = ()):
    folder.mkdir(exist_ok=True)
    options = [str(folder), "--config", json.dumps(config), "--count", "21", *more]
    subprocess.run(
        [sys.executable, "-W", "error", *launcher, PROGRAM, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return load_file(folder / "weights.safetensors"), json.loads(
        (folder / "result.json").read_text()
    )


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_batches_and_go_on(tmp_path: Path) -> None:
    # 21 samples in batches of 5: shares of 3 and 2, and of 1 and none in the last batch.
    config = {"epochs": 3, "batch_size": 5, "optimiser": "sgd", "learning_rate": 0.02, "ema": 0.5}
    expected, one = trained(tmp_path / "one", config)
    config["accumulate"] = 2
    found, two = trained(tmp_path / "two", config, *TORCHRUN)
    assert two["steps"] == one["steps"] == 15
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    # Only the first process writes.
    assert (tmp_path / "two" / "log.csv").read_text().count("\n") == 16
    assert len(list((tmp_path / "two" / "events").iterdir())) == 1

    torn, checkpoints = tmp_path / "torn", ("--checkpoints",)
    with pytest.raises(subprocess.CalledProcessError):
        trained(torn, config, *TORCHRUN, more=(*checkpoints, "--die", "after_step:8"))
    assert not (torn / "weights.safetensors").exists()
    again, told = trained(torn, config, *TORCHRUN, more=checkpoints)
    assert len(told["losses"]) == 15 - 6
    for name in found:
        assert torch.equal(again[name], found[name]), name
