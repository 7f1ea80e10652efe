"""Checkpoints: whole or not there, going on in the same bits, and what they refuse."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fitting_cases import Drawn, Images, Reconstruction

from labrecon.errors import OutputError
from labrecon.io.checkpoints import CheckpointFolder
from labrecon.io.logs import CsvLog, TensorBoardLog
from labrecon.io.trees import join, split
from labrecon.learner import FitConfig, FitError, fit


class Crash(Exception):
    """Ends a training where a callback can not."""


def crash_at(step: int):
    def watch(now: int, record: object) -> None:
        if now == step:
            raise Crash

    return watch


def weights(learner: Reconstruction) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.tensors().items()}


def one_group(learner: Reconstruction) -> Reconstruction:
    groups = [dict(group, params=list(group["params"])) for group in learner.parameters()]
    learner.parameters = lambda: [p for group in groups for p in group["params"]]
    return learner


CASES = {
    "adam": {"optimiser": "adam", "options": {"amsgrad": True}},
    "adamw": {"optimiser": "adamw", "schedule": "cosine", "ema": 0.9},
    "momentum": {"optimiser": "sgd", "options": {"momentum": 0.9, "nesterov": True}},
    "rmsprop": {"optimiser": "rmsprop", "schedule": "step", "decay": 0.5, "decay_every": 3},
    "lbfgs": {"optimiser": "lbfgs", "options": {"max_iter": 3, "line_search_fn": "strong_wolfe"}},
}


@pytest.mark.parametrize("case", CASES)
def test_going_on_gives_the_bits_of_a_training_without_a_break(case: str, tmp_path: Path) -> None:
    config = FitConfig(epochs=2, batch_size=4, validate_every=2, **CASES[case])
    images, heldout = Images(18), Images(3, seed=1)
    whole = one_group(Reconstruction())
    expected = fit(whole, images, config, validation=heldout)
    with pytest.raises(Crash):
        fit(
            one_group(Reconstruction()),
            images,
            config,
            validation=heldout,
            callbacks=[crash_at(8)],
            checkpoints=CheckpointFolder(tmp_path, steps=3),
        )
    again = one_group(Reconstruction())
    checkpoints = CheckpointFolder(tmp_path, steps=3)
    found = fit(again, images, config, validation=heldout, checkpoints=checkpoints)
    assert [r["loss"] for r in found] == [r["loss"] for r in expected][6:]
    assert found.best == expected.best
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(again)[name]), name


def test_ready_batches_are_drawn_again(tmp_path: Path) -> None:
    def run(**more: object) -> Reconstruction:
        learner = Reconstruction()
        fit(learner, Drawn(Images(10), 4), FitConfig(epochs=3), **more)
        return learner

    torch.manual_seed(3)
    expected = weights(run())
    torch.manual_seed(3)
    with pytest.raises(Crash):
        run(callbacks=[crash_at(5)], checkpoints=CheckpointFolder(tmp_path, steps=2))
    torch.manual_seed(4)
    found = weights(run(checkpoints=CheckpointFolder(tmp_path, steps=2)))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class Noisy(Reconstruction):
    """Draws from torch's global generator and from one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def loss(self, batch):
        truth, noise = batch
        own = torch.randn(truth.shape, dtype=truth.dtype, generator=self.generator)
        return super().loss((truth, noise + 0.1 * own + 0.1 * torch.randn_like(truth)))


def test_random_numbers_of_a_learner_go_on(tmp_path: Path) -> None:
    whole = Noisy()
    before = torch.get_rng_state()
    fit(whole, Images(8), FitConfig(epochs=2, batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Crash):
        fit(
            Noisy(),
            Images(8),
            FitConfig(epochs=2, batch_size=2),
            callbacks=[crash_at(6)],
            checkpoints=CheckpointFolder(tmp_path, steps=2),
        )
    torch.manual_seed(9)
    again = Noisy()
    fit(
        again,
        Images(8),
        FitConfig(epochs=2, batch_size=2),
        checkpoints=CheckpointFolder(tmp_path, steps=2),
    )
    assert all(torch.equal(t, weights(again)[n]) for n, t in weights(whole).items())


class Scored(Reconstruction):
    """Its validation is told by the number of steps, which is a state of its own."""

    scores: ClassVar[dict[int, float]] = {2: 5.0, 4: 1.0, 6: 3.0, 8: 2.0, 10: 4.0, 12: 0.0}

    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def after_step(self) -> None:
        super().after_step()
        self.done += 1

    def validate(self, batch):
        return {"loss": self.scores[self.done]}

    def state(self):
        return {**super().state(), "done": self.done}

    def restore(self, state) -> None:
        super().restore(state)
        self.done = state["done"]


def test_early_stopping_counts_across_a_break(tmp_path: Path) -> None:
    config = FitConfig(steps=20, batch_size=2, validate_every=2, patience=3)
    whole, torn = Scored(), Scored()
    expected = fit(whole, Images(6), config, validation=Images(1))
    assert (expected.status, expected.steps, expected.best.step) == ("early stopping", 10, 4)
    with pytest.raises(Crash):
        fit(
            Scored(),
            Images(6),
            config,
            validation=Images(1),
            callbacks=[crash_at(7)],
            checkpoints=CheckpointFolder(tmp_path, steps=3),
        )
    checkpoints = CheckpointFolder(tmp_path, steps=3)
    found = fit(torn, Images(6), config, validation=Images(1), checkpoints=checkpoints)
    assert (found.status, found.steps, found.best) == ("early stopping", 10, expected.best)
    assert all(torch.equal(t, weights(torn)[n]) for n, t in weights(whole).items())
    again = Scored()
    nothing = fit(again, Images(6), config, validation=Images(1), checkpoints=checkpoints)
    assert (nothing.status, len(nothing)) == ("early stopping", 0)
    assert nothing.last == found.last
    assert all(torch.equal(t, weights(again)[n]) for n, t in weights(whole).items())


def trained(folder: Path, **config: object) -> Reconstruction:
    learner = Reconstruction()
    settings = FitConfig(**{"epochs": 2, "batch_size": 2, **config})
    fit(learner, Images(6), settings, checkpoints=CheckpointFolder(folder, steps=2))
    return learner


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    trained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000004.safetensors", "step-00000006.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / names[0]).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "another file"])
def test_a_damaged_one_is_told_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    expected = weights(trained(tmp_path))
    newest = tmp_path / "step-00000006.safetensors"
    content = bytearray(newest.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "a bit":
        content[-100] ^= 1
    else:
        content = bytearray(b"" if damage == "empty" else b"step,loss\n" * 100)
    newest.write_bytes(content)
    told: list[str] = []
    checkpoints = CheckpointFolder(tmp_path, steps=2, tell=told.append)
    learner = Reconstruction()
    result = fit(learner, Images(6), FitConfig(epochs=2, batch_size=2), checkpoints=checkpoints)
    assert len(told) == 1
    assert str(newest) in told[0]
    assert len(result) == 2
    assert all(torch.equal(expected[name], found) for name, found in weights(learner).items())


def test_nothing_whole_is_an_error_and_not_a_start_anew(tmp_path: Path) -> None:
    trained(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(FitError, match=r"all checkpoints in .* are damaged: remove"),
    ):
        trained(tmp_path)


def test_what_was_left_half_written_is_removed(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "step-00000009.part").write_bytes(b"half")
    assert CheckpointFolder(tmp_path).load()["step"] == 6
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, r"learning_rate was 0\.001 and is 0\.5"),
        ({"options": {"eps": 1e-4}}, r"options\.eps was None and is 0\.0001"),
        ({"epochs": 3}, "epochs was 2 and is 3"),
        ({"seed": 1}, "seed was 0 and is 1"),
    ],
)
def test_another_config_is_refused_by_name(tmp_path: Path, change: dict, named: str) -> None:
    trained(tmp_path)
    with pytest.raises(FitError, match=named):
        trained(tmp_path, **change)


def test_another_identity_or_network_is_refused(tmp_path: Path) -> None:
    config = FitConfig(steps=2, batch_size=2)

    def run(learner: Reconstruction, geometry: str) -> None:
        checkpoints = CheckpointFolder(tmp_path)
        identity = {"geometry": {"name": geometry}}
        fit(learner, Images(6), config, checkpoints=checkpoints, identity=identity)

    run(Reconstruction(), "a")
    with pytest.raises(FitError, match=r"geometry\.name was 'a' and is 'b'"):
        run(Reconstruction(), "b")
    wider = Reconstruction()
    wider.net.step = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(FitError, match=r"net\.step was \(\(\), 'torch.float32'\) and is \(\(2,\)"):
        run(wider, "a")


def test_more_time_is_no_change(tmp_path: Path) -> None:
    config = {"epochs": 2, "batch_size": 2}
    first = fit(
        Reconstruction(),
        Images(6),
        FitConfig(seconds=1e-9, **config),
        checkpoints=CheckpointFolder(tmp_path),
    )
    assert (first.status, first.steps) == ("time", 1)
    learner = Reconstruction()
    second = fit(
        learner,
        Images(6),
        FitConfig(seconds=1e3, **config),
        checkpoints=CheckpointFolder(tmp_path),
    )
    assert (second.status, second.steps, len(second)) == ("finished", 6, 5)
    whole = Reconstruction()
    fit(whole, Images(6), FitConfig(**config))
    assert all(torch.equal(t, weights(learner)[n]) for n, t in weights(whole).items())


def test_a_loss_that_is_not_finite_leaves_the_checkpoint(tmp_path: Path) -> None:
    images = Images(6)
    images.truth[4] = float("nan")
    learner = Reconstruction()
    with pytest.raises(
        FitError, match=r"the loss is nan at step \d \(epoch 0, samples .*4"
    ) as told:
        fit(
            learner,
            images,
            FitConfig(batch_size=2),
            checkpoints=CheckpointFolder(tmp_path, steps=1),
        )
    assert "The last checkpoint stays" in str(told.value)
    saved = CheckpointFolder(tmp_path).load()
    assert all(bool(t.isfinite().all()) for t in saved["tensors"].values())
    assert all(torch.equal(t, weights(learner)[n]) for n, t in saved["tensors"].items())


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs a superuser")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_gets_full(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    whole = weights(trained(small_disk.parent / "elsewhere"))

    def fill(step: int, record: object) -> None:
        if step == 3:
            with suppress(OSError), (small_disk / "data").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))

    config = FitConfig(epochs=2, batch_size=2)
    logs = [CsvLog(small_disk / "log.csv"), TensorBoardLog(small_disk.parent / "events")]
    with pytest.raises(OutputError, match=r"disk is full .* The checkpoint before it is whole"):
        fit(
            Reconstruction(),
            Images(6),
            config,
            callbacks=[fill, logs[1]],
            checkpoints=CheckpointFolder(folder, steps=2),
        )
    assert CheckpointFolder(folder).load()["step"] == 2
    assert not list(folder.glob("*.part"))
    (small_disk / "data").unlink()
    learner = Reconstruction()
    fit(learner, Images(6), config, callbacks=logs, checkpoints=CheckpointFolder(folder, steps=2))
    assert all(torch.equal(whole[name], found) for name, found in weights(learner).items())


@pytest.mark.parametrize("kind", [CsvLog, TensorBoardLog])
def test_a_disk_that_is_full_of_logs(small_disk: Path, kind: type) -> None:
    log = kind(small_disk / "log")
    record = {f"metric {i}": 1.0 for i in range(200)}

    def write() -> None:
        for step in range(1, 200):
            log(step, record)
            log.flush()

    log.begin(0)
    with pytest.raises(OutputError, match=r"can not be written.*No space"):
        write()
    with suppress(OutputError):
        log.close()


def test_a_rename_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch) -> None:
    trained(tmp_path)
    folder = CheckpointFolder(tmp_path)
    state = folder.load()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"step-00000007.* Read-only .* before it is whole"):
        folder.save(7, state)
    monkeypatch.undo()
    assert folder.load()["step"] == 6
    assert not list(tmp_path.glob("*.part"))


def test_trees_come_back_as_they_were() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "old": [base.T, None]}, 1: {}},
        "complex": torch.randn(3, dtype=torch.complex128).conj(),
        "kinds": (torch.tensor([True]), torch.empty(0, 2), torch.tensor(7), "x", 2, 0.1, False),
        "infinite": float("inf"),
    }
    text, tensors = split(tree)
    back = join(text, tensors)
    assert list(back["state"]) == [0, 1]
    assert torch.equal(back["state"][0]["old"][0], base.T)
    assert back["state"][0]["old"][1] is None
    assert torch.equal(back["complex"], tree["complex"])
    assert back["complex"].dtype == torch.complex128
    assert isinstance(back["kinds"], tuple)
    assert [t.dtype for t in back["kinds"][:3]] == [torch.bool, torch.float32, torch.int64]
    assert back["kinds"][3:] == ("x", 2, 0.1, False)
    assert back["infinite"] == float("inf")
    with pytest.raises(TypeError, match="can not hold a Crash"):
        split({"it": Crash()})
