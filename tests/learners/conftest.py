"""Trainings of the toy instrument from scans."""

from __future__ import annotations

from pathlib import Path

import pytest
from self_supervised_cases import QUICK
from toy_instrument import write_toy

from labrecon.train import train


@pytest.fixture
def run(tmp_path, toy_host, monkeypatch):
    """Train on the toy, quickly: without drawing, unless asked for."""

    def carry_out(out: str = "run", *overrides: str, drawn: bool = False, **options):
        with monkeypatch.context() as patch:
            if not drawn:
                patch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
            given = {"recipe": QUICK, "host": toy_host, "device": "cpu", **options}
            return train("toy", tmp_path / out, overrides=overrides, **given)

    return carry_out


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        write_toy(folder / f"scan{i}.toy", seed=i)
    return folder
