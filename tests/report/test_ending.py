"""How a solve ended, in words."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from labrecon.cli import app
from labrecon.recon import reconstruct
from labrecon.report.ending import ending


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"status": "converged", "iterations": 12}, ("converged", "12 iterations")),
        ({"status": "converged", "iterations": 1}, ("converged", "1 iteration")),
        ({"status": "iterations", "iterations": 100}, ("iteration limit", "100 iterations")),
        ({"status": "time", "iterations": 7}, ("time limit", "7 iterations")),
        ({"status": "stopped", "iterations": 7}, ("stopped", "7 iterations")),
        ({"status": "converged", "iterations": 1, "one_step": True}, ("done", "")),
        (
            {"status": "iterations", "iterations": 1, "one_step": True},
            ("fixed point not reached", ""),
        ),
        ({"status": "iterations", "iterations": 20, "samples": 40}, ("done", "40 samples")),
        ({"status": "time", "iterations": 1, "samples": 2}, ("time limit", "2 samples")),
    ],
)
def test_words(numbers, words):
    assert ending(numbers) == words


SAMPLER = {
    "solver": {"name": "perturb-optimise", "iterations": 5},
    "prior": {"name": "tikhonov", "weight": 400.0},
}


def test_a_sampler_has_its_samples_not_a_limit(toy_host, toy_scan, tmp_path):
    """Two chains of five samples each."""
    result = reconstruct("toy", toy_scan, tmp_path / "out", recipe=SAMPLER, host=toy_host)
    assert result.summary["reconstructions"][0]["samples"] == 10
    assert result.summary["status"] == "iterations"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "10 samples" in page
    assert "iteration limit" not in page


def test_a_langevin_sampler_counts_what_it_kept(toy_host, toy_scan, tmp_path):
    recipe = {
        "solver": {"name": "langevin", "iterations": 9, "burn_in": 4, "chains": 3},
        "prior": {"name": "tikhonov", "weight": 400.0},
    }
    result = reconstruct("toy", toy_scan, tmp_path / "out", recipe=recipe, host=toy_host)
    assert result.summary["reconstructions"][0]["samples"] == 15


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (
            '[solver]\nname = "perturb-optimise"\niterations = 5\n'
            '[prior]\nname = "tikhonov"\nweight = 400.0\n',
            "perturb-optimise with TIKHONOV: done after 10 samples, ",
        ),
        ('[solver]\nname = "direct"\n', "direct: done, "),
        ('[solver]\nname = "cg"\niterations = 1\n', "CG: iteration limit after 1 iteration, "),
    ],
)
def test_on_the_command_line(toy_host, toy_scan, tmp_path, monkeypatch, recipe, told):
    monkeypatch.setattr("labrecon.plugins.host", lambda: toy_host)
    (tmp_path / "r.toml").write_text(recipe)
    words = ["recon", "toy", str(toy_scan), "-o", str(tmp_path / "a")]
    done = CliRunner().invoke(app, [*words, "-r", str(tmp_path / "r.toml")])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(told)
