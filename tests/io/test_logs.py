"""Logs: a table and TensorBoard events, whole after an interruption."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from labrecon.errors import OutputError
from labrecon.io.logs import CsvLog, TensorBoardLog


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_step_with_columns_that_come_later(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "run" / "log.csv")
    log.begin(0)
    log(1, {"loss": 0.1, "rmse": 1 / 3})
    log(2, {"loss": 0.05, "rmse": 0.2, "validation/loss": float("nan")})
    log(3, {"loss": 0.025, "rmse": 0.1})
    log.close()
    rows = read(log.path)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["step", "loss", "rmse", "validation/loss"]
    assert float(rows[0]["rmse"]) == 1 / 3
    assert [row["validation/loss"] for row in rows] == ["", "nan", ""]


def test_rows_past_the_checkpoint_and_a_torn_one_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.125\n4,0.0")
    log = CsvLog(path)
    log.begin(2)
    log(3, {"loss": 7.0})
    log.close()
    assert [row["loss"] for row in read(path)] == ["0.5", "0.25", "7.0"]


def test_a_training_from_the_start_begins_a_table(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n")
    log = CsvLog(path)
    log.begin(0)
    log.close()
    assert path.read_text() == ""


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"taken/log\.csv can not be written"):
        CsvLog(tmp_path / "taken" / "log.csv").begin(0)
    with pytest.raises(OutputError, match="taken/events can not be written"):
        TensorBoardLog(tmp_path / "taken" / "events").begin(0)


def test_tensorboard_reads_the_curves_of_a_training_that_went_on(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TensorBoardLog(tmp_path)
    log.begin(0)
    for step in (1, 2, 3):
        log(step, {"loss": 1 / step})
    log.flush()
    # Killed after a checkpoint at step 2: the third step is done again.
    again = TensorBoardLog(tmp_path)
    again.begin(2)
    for step in (3, 4):
        again(step, {"loss": 10.0 + step, "validation/psnr": 30.0})
    again.close()
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("loss")]
    assert curve == [(1, 1.0), (2, 0.5), (3, 13.0), (4, 14.0)]
    assert [event.step for event in events.Scalars("validation/psnr")] == [3, 4]
