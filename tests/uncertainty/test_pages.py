"""Recipes of the pages on error bars and networks, as a reader copies them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from labrecon.job import assemble_job
from labrecon.networks.denoiser_file import write_denoiser
from labrecon.priors.drunet import DRUNet
from labrecon.solvers.chains import ChainState

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, solver: str) -> list[str]:
    """The TOML of a page that names a solver."""
    found = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return [text for text in found if tomllib.loads(text).get("solver", {}).get("name") == solver]


@pytest.fixture
def at(tmp_path, monkeypatch):
    """A folder with the denoiser that the example would have made."""
    pytest.importorskip("labrecon_ct")
    (tmp_path / "out").mkdir()
    write_denoiser(
        tmp_path / "out" / "denoiser.safetensors", DRUNet(features=4, levels=1, blocks=1)
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(text: str, instrument: str, at: Path):
    path = at / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return assemble_job(instrument, recipe=path, device="cpu").plans[0]


def steps(plan) -> list[str]:
    return [name for name, _, _ in plan.steps]


def as_the_instrument_prepares() -> list[str]:
    return steps(assemble_job("ct", recipe="tv", device="cpu").plans[0])


def test_sampling_a_ct_scan(at):
    (text,) = blocks("tasks/uncertainty.md", "perturb-optimise")
    plan = plan_of(text, "ct", at)
    assert steps(plan) == as_the_instrument_prepares()
    assert issubclass(plan.build(1.0, None).state_type, ChainState)


def test_langevin_in_its_place(at):
    (text,) = blocks("tasks/uncertainty.md", "perturb-optimise")
    (other,) = blocks("tasks/uncertainty.md", "langevin")
    head, _, rest = text.partition("[solver]")
    plan = plan_of(f"{head}{other}\n[prior]{rest.partition('[prior]')[2]}", "ct", at)
    assert (plan.solver.name, plan.prior.name) == ("langevin", "tikhonov")


def test_a_denoiser_as_the_prior(at):
    plain, prepared = blocks("networks.md", "hqs")
    assert steps(plan_of(plain, "mri", at)) == []
    assert steps(plan_of(prepared, "ct", at)) == as_the_instrument_prepares()
