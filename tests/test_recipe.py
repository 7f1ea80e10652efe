from __future__ import annotations

import pytest
from toy_instrument import Toy

from labrecon import hookimpl
from labrecon.errors import RecipeError
from labrecon.plan import make_plans, make_writer
from labrecon.recipe import load_recipe
from labrecon.tomlfile import key_lines


@pytest.fixture
def check(tmp_path, toy_host):
    """Load a TOML text and resolve its names."""

    def load(text: str, *overrides: str):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        recipe = load_recipe(path, Toy(), overrides)
        make_writer(recipe, toy_host)
        return recipe, make_plans(recipe, Toy(), toy_host)

    return load


def message(check, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check(text, *overrides)
    return str(caught.value)


def test_full_recipe(check):
    recipe, plans = check(
        """
seed = 3
[[prepare]]
step = "add"
value = 0.5
[operator]
delay = 0.0
[solver]
name = "pdhg"
iterations = 20
ratio = 2.0
[prior]
name = "tv"
relative_weight = 0.1
nonneg = true
[output]
format = "tiff"
compression = "zlib"
[[compare]]
title = "direct"
solver = {name = "direct"}
"""
    )
    assert recipe.seed == 3
    assert [name for name, _, _ in plans[0].steps] == ["add"]
    assert plans[0].solver.options == {"ratio": 2.0}
    assert [plan.title for plan in plans] == ["PDHG with TV", "direct"]
    solver = plans[0].build(0.25)
    assert float(solver.prior.weight) == 0.25
    assert solver.prior.nonneg


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[solver]\niteratons = 5\n", ("line 2", "'iteratons'", "did you mean 'iterations'")),
        ("[solver]\n\n# a remark\nstepsize = 1\n", ("line 4", "did you mean 'step_size'")),
        ("sed = 1\n", ("line 1", "'sed'", "did you mean 'seed'")),
        ("[solver]\nname = 'fisat'\n", ("line 2", "'fisat'", "did you mean 'fista'")),
        ("[prior]\nname = 'tw'\n", ("line 2", "'tw'", "did you mean 'tv'")),
        ("[prior]\nname='tv'\nnoneg=true\n", ("line 3", "did you mean 'nonneg'")),
        ("[output]\nformat='tif'\n", ("line 2", "did you mean 'tiff'")),
        ("[output]\ncompresion='x'\n", ("line 2", "did you mean 'compression'")),
        ("[operator]\ndely=1\n", ("line 2", "did you mean 'delay'")),
        ("[[prepare]]\nstep='ad'\n", ("line 2", "did you mean 'add'")),
        (
            "[[prepare]]\nstep='add'\n[[prepare]]\nstep='add'\nvalu=1\n",
            ("line 5", "did you mean 'value'"),
        ),
        ("[[prepare]]\nvalue=1\n", ("line 1", "needs a 'step'")),
        ("[[compare]]\ntitle='a'\nsolver={name='cgg'}\n", ("line 3", "did you mean 'cg'")),
        ("[[compare]]\ntitle='a'\n[compare.solver]\nnam='cg'\n", ("line 4", "'nam'")),
        ("[solver]\niterations = 'many'\n", ("line 2", "valid integer", "'many'")),
        ("[solver]\niterations = 0\n", ("line 2", "greater than or equal to 1", "0")),
        ("[prior]\nname='tv'\nweight=1\nrelative_weight=1\n", ("line 1", "not both")),
        ("[prior]\nname='nonneg'\nweight=1\n", ("line 3", "no weight")),
        ("[solver]\nname='cg'\n[prior]\nname='tv'\n", ("line 3", "uses no prior")),
        ("[prior]\nname='tv'\nndim=7\n", ("line 1", "ndim is 1, 2 or 3")),
        ("[solver\n", ("not valid TOML", "line 1")),
    ],
)
def test_error_names_line_and_nearest(check, text, told):
    got = message(check, text)
    assert "recipe.toml" in got
    for part in told:
        assert part in got


def test_all_errors_at_once(check):
    got = message(check, "sed = 1\n[solver]\niterations = 0\n")
    assert len(got.splitlines()) == 2


def test_override(check):
    text = "[solver]\nname='fista'\n[[prepare]]\nstep='add'\nvalue=1.0\n"
    recipe, plans = check(
        text, "solver.iterations=7", "solver.name=ista", "prepare.add.value=2", "prior.name=tv"
    )
    assert (recipe.solver.iterations, recipe.solver.name, recipe.prior.name) == (7, "ista", "tv")
    assert plans[0].steps[0][2] == {"value": 2}


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("solver.nam=cg", "--set solver.nam=cg: [solver] has no option 'nam'"),
        ("solver.iterations=x", "--set solver.iterations=x: solver.iterations:"),
        ("solver", "expected key=value"),
        ("prepare.subst.every=2", "no entry 'subst'"),
        ("seed.x=2", "seed is not a table"),
    ],
)
def test_bad_override_is_named(check, assignment, told):
    assert told in message(check, "seed = 1\n[[prepare]]\nstep='add'\n", assignment)


def test_named_recipes(toy_host):
    assert load_recipe("recon", Toy()).solver.iterations == 40
    with pytest.raises(RecipeError, match="did you mean 'compare'"):
        load_recipe("compar", Toy())
    with pytest.raises(RecipeError, match="can not be read"):
        load_recipe("missing.toml", Toy())
    with pytest.raises(RecipeError, match="recipe 'recon' of 'toy'"):
        load_recipe({}, Toy()) and load_recipe("recon", _Broken())


class _Broken(Toy):
    def recipes(self):
        return {"recon": {"solvr": {}}}


def test_seed_reaches_what_asks_for_it(toy_host):
    seen = []

    def random_step(scan, *, seed: int = 0):
        seen.append(seed)
        return scan

    class Seeded(Toy):
        steps = {"random": random_step}  # noqa: RUF012

    recipe = load_recipe({"seed": 9, "prepare": [{"step": "random"}]}, Seeded())
    _, function, options = make_plans(recipe, Seeded(), toy_host)[0].steps[0]
    function(None, **options)
    assert seen == [9]


def test_key_lines():
    text = 'a.b = 1\n[[t]]\nx = """\ny = 2\n"""\n[t.u]\nz = 3\n[[t]]\nw = 1\n'
    lines = key_lines(text)
    assert lines[("a", "b")] == 1
    assert lines[("t", 0)] == 2
    assert lines[("t", 0, "u", "z")] == 7
    assert lines[("t", 1, "w")] == 9
    assert ("t", 0, "y") not in lines


class Needy:
    """A prior that can not do without a weight."""

    def __init__(self, weight, sharpness):
        if sharpness < 0:
            raise ValueError("Needy: sharpness is positive")


class Choosy:
    """A solver that refuses priors."""

    def __init__(self, prior, depth):
        raise ValueError("no prior is good enough")


class Offers:
    @hookimpl
    def labrecon_priors(self):
        return {"needy": Needy}

    @hookimpl
    def labrecon_solvers(self):
        return {"choosy": Choosy}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[prior]\nname = "needy"\nsharpness = 1.0',
            "line 4: the prior 'needy' needs weight: add weight = … or relative_weight = … to "
            "[prior]",
        ),
        (
            '[prior]\nname = "needy"',
            "line 4: the prior 'needy' needs weight, sharpness: add weight = … or "
            "relative_weight = … and sharpness = … to [prior]",
        ),
        (
            '[prior]\nname = "needy"\nrelative_weight = 0.1',
            "line 4: the prior 'needy' needs sharpness: add sharpness = … to [prior]",
        ),
        (
            '[[compare]]\ntitle = "x"\n[compare.prior]\nname = "needy"\nweight = 1.0',
            "line 6: the prior 'needy' needs sharpness: add sharpness = … to [compare.prior]",
        ),
        (
            '[prior]\nname = "needy"\nweight = 1.0\nsharpness = -1.0',
            "line 3: needy: sharpness is positive",
        ),
        (
            '[[compare]]\ntitle = "x"\n[compare.solver]\nname = "choosy"',
            "line 6: the solver 'choosy' needs depth: add depth = … to [compare.solver]",
        ),
        (
            '[[compare]]\ntitle = "x"\n[compare.solver]\nname = "choosy"\ndepth = 2',
            "line 5: choosy with zero: no prior is good enough",
        ),
    ],
)
def test_what_a_prior_or_solver_needs_is_told_once(toy_host, tmp_path, text, told):
    toy_host.add("offers", Offers())
    path = tmp_path / "r.toml"
    path.write_text(f'[solver]\nname = "fista"\n{text}\n', encoding="utf-8")
    recipe = load_recipe(path, Toy())
    with pytest.raises(RecipeError) as caught:
        make_plans(recipe, Toy(), toy_host)
    assert str(caught.value) == f"{path}, {told}"
