"""Every hook, used by a plugin and seen to work where labrecon asks for it."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import torch
from toy_instrument import Toy, ToyReader, write_toy

from labrecon import FitConfig, Learner, Operator, Prior, Space, fit
from labrecon.cli import app
from labrecon.describe import describe
from labrecon.design import Box
from labrecon.errors import ScanError
from labrecon.hookspecs import EVENTS, Hooks
from labrecon.plugins import Host, hookimpl
from labrecon.recon import reconstruct
from labrecon.solvers.gradient import GradientDescent

HOOKS = [name for name in vars(Hooks) if name.startswith("labrecon_")]
REGISTERS = [name for name in HOOKS if name not in (*EVENTS, "labrecon_scan_veto")]


class Everything:
    """A plugin with all hooks, which counts how often each thing of its own was used."""

    def __init__(self):
        self.used = used = Counter()

        class Plain(Toy):
            """The toy without preparation."""

            name = "plain"

            def recipes(self):
                return {}

        class Reader(ToyReader):
            """Toy files under another name."""

            def matches(self, path):
                return path.suffix == ".renamed"

            def read(self, path):
                used["readers"] += 1
                return super().read(path)

        class Steps(GradientDescent):
            """Gradient descent that counts."""

            def step(self, problem, state):
                used["solvers"] += 1
                return super().step(problem, state)

        class Half(Prior):
            """Half the squared norm."""

            def penalty(self, x, ndim=None):
                return 0.5 * x.square().flatten(x.ndim - (ndim or x.ndim)).sum(-1)

            def prox(self, x, step):
                used["priors"] += 1
                return x / (1 + step)

        class Flip(Operator):
            """The image upside down."""

            def __init__(self, size: int = 4):
                super().__init__(Space((size,)), Space((size,)))

            def forward(self, x):
                used["operators"] += 1
                return x.flip(-1)

        class Network(torch.nn.Module):
            """One layer."""

            def __init__(self, depth: int = 1):
                super().__init__()
                used["networks"] += 1

        class Slope(Learner):
            """The slope of a line."""

            def __init__(self):
                self.a = torch.zeros((), requires_grad=True)

            def parameters(self):
                return [self.a]

            def loss(self, batch):
                used["learners"] += 1
                return (self.a - batch).square(), {}

        class Stage(Box):
            """What the stage reaches."""

            def project(self, value):
                used["feasible_sets"] += 1
                return super().project(value)

        def writer(path, volume, info, *, note: str = ""):
            """Text."""
            used["writers"] += 1
            target = path.with_suffix(".txt")
            target.write_text(note + str(volume.shape))
            return target

        def largest(x, truth):
            """The largest error."""
            used["metrics"] += 1
            return float((x - truth).abs().max())

        def greet(name: str):
            """Say hello."""
            used["commands"] += 1
            print(f"hello {name}")

        def found(data):
            """What the lab counts."""
            used["findings"] += 1
            return {"lines": data.main.solution.x.shape[0], "verdict": "sharp"}

        def section(data):
            """What the lab wants to see."""
            used["report_sections"] += 1
            return f"<p>seen by {data.instrument.name}</p>"

        self.offered = {
            "instruments": {"plain": Plain},
            "readers": {"plain/renamed": Reader},
            "solvers": {"counted": Steps},
            "priors": {"half": Half},
            "operators": {"flip": Flip},
            "networks": {"one-layer": Network},
            "learners": {"slope": Slope},
            "feasible_sets": {"stage": Stage},
            "writers": {"text": writer},
            "metrics": {"largest": largest},
            "commands": {"greet": greet},
            "report_sections": {"Our section": section},
            "findings": {"Our findings": found},
        }
        for kind, offered in self.offered.items():
            setattr(self, f"labrecon_{kind}", hookimpl(lambda offered=offered: offered))
        self.heard = []

    @hookimpl
    def labrecon_scan_started(self, path, recipe):
        self.heard.append(("scan_started", Path(path).name, recipe["solver"]["name"]))

    @hookimpl
    def labrecon_scan_finished(self, path, output, summary):
        self.heard.append(("scan_finished", Path(output).name, summary["instrument"]))

    @hookimpl
    def labrecon_scan_failed(self, path, error):
        self.heard.append(("scan_failed", Path(path).name, type(error)))

    @hookimpl
    def labrecon_scan_veto(self, path):
        return "an alignment scan" if "align" in path else None

    @hookimpl
    def labrecon_batch_started(self, output, scans):
        self.heard.append(("batch_started", output, scans))

    @hookimpl
    def labrecon_batch_finished(self, output, counts):
        self.heard.append(("batch_finished", output, counts["done"]))

    @hookimpl
    def labrecon_fit_step(self, step, metrics):
        self.heard.append(("fit_step", step, metrics["loss"]))


@pytest.fixture
def plugin():
    return Everything()


@pytest.fixture
def host(plugin):
    host = Host(discover=False)
    host.add("everything", plugin, "our-lab", "1.2", "MIT")
    return host


def test_the_plugin_has_them_all(host):
    assert {f"labrecon_{name}" for name in host.reports["everything"].hooks} == set(HOOKS)
    assert len(HOOKS) == 20


def test_those_of_a_reconstruction(host, plugin, tmp_path):
    scan = write_toy(tmp_path / "scan.renamed")
    recipe = {
        "solver": {"name": "counted", "iterations": 3, "step_size": 0.1},
        "output": {"format": "text", "note": "from our lab "},
    }
    result = reconstruct("plain", scan, tmp_path / "out", recipe=recipe, host=host)
    assert plugin.used["readers"] == 1
    assert plugin.used["solvers"] == 3
    assert (tmp_path / "out" / "volume.txt").read_text().startswith("from our lab torch.Size")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "seen by plain" in page
    assert result.summary["findings"] == {"lines": 24, "verdict": "sharp"}
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["findings"] == result.summary["findings"]
    assert re.search(r"<span>lines</span><b>24</b>", page)
    assert plugin.used["findings"] == 1
    assert plugin.heard == [
        ("scan_started", "scan.renamed", "counted"),
        ("scan_finished", "out", "plain"),
    ]
    assert result.summary["instrument"] == "plain"


def test_priors_and_metrics(host, plugin, tmp_path):
    from labrecon.recon import reconstruct_scan

    toy = host.get("instruments", "plain")()
    scan = toy.simulate(toy.example(), torch.Generator().manual_seed(0))
    recipe = {
        "solver": {"name": "fista", "iterations": 3},
        "prior": {"name": "half"},
    }
    result = reconstruct_scan(toy, scan, tmp_path / "out", recipe=recipe, host=host)
    assert plugin.used["priors"] > 0
    [told] = result.summary["reconstructions"]
    expected = float((result.volume - scan.truth).abs().max())
    assert told["metrics"]["largest"] == pytest.approx(expected)


def test_a_failed_scan_is_told(host, plugin, tmp_path):
    (tmp_path / "broken.renamed").write_bytes(b"nothing")
    with pytest.raises(ScanError):
        reconstruct("plain", tmp_path / "broken.renamed", tmp_path / "out", host=host)
    assert plugin.heard[-1] == ("scan_failed", "broken.renamed", ScanError)


def test_findings_that_are_wrong_are_warnings(host, plugin, tmp_path):
    class Others:
        @hookimpl
        def labrecon_findings(self):
            return {
                "Broken": lambda data: 1 / 0,
                "List": lambda data: [1, 2],
                "Mixed": lambda data: {"table": [1, 2], "lines": 7, "tensor": torch.tensor(2.5)},
                "Nothing": lambda data: {},
            }

    host.add("others", Others())
    scan = write_toy(tmp_path / "scan.renamed")
    result = reconstruct("plain", scan, tmp_path / "out", host=host)
    assert result.summary["findings"] == {"lines": 24, "verdict": "sharp", "tensor": 2.5}
    told = "\n".join(result.warnings)
    assert len(result.warnings) == 4
    assert "the findings 'Broken' failed: ZeroDivisionError" in told
    assert "'List' failed: TypeError: it returned a list, expected a mapping" in told
    assert "the finding 'table' of 'Mixed' is [1, 2], expected a number or text" in told
    assert "the finding 'lines' of 'Mixed' is there already" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert "expected a mapping" in page


def test_findings_are_printed(host, tmp_path, monkeypatch, capsys):
    import typer

    monkeypatch.setattr("labrecon.plugins.host", lambda: host)
    scan = write_toy(tmp_path / "scan.renamed")
    line = ["recon", "plain", str(scan), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(app)(line, prog_name="labrecon")
    assert ended.value.code == 0
    assert "lines: 24\nverdict: sharp\n" in capsys.readouterr().out


def test_a_veto_names_its_plugin(host):
    class Broken:
        @hookimpl
        def labrecon_scan_veto(self, path, recipe):
            raise OSError("no log book")

    assert host.veto("/data/align_3.h5", {}) == (("everything", "an alignment scan"), [])
    assert host.veto("/data/scan_3.h5", {}) == (None, [])
    host.add("broken", Broken())
    assert host.veto("/data/align_3.h5", {})[0] == ("everything", "an alignment scan")
    vetoed, [told] = host.veto("/data/scan_3.h5", {})
    assert vetoed is None
    assert "broken: OSError('no log book')" in told


def test_a_batch_is_told(host, plugin):
    assert host.call("labrecon_batch_started", output="out", scans=3) == []
    assert host.call("labrecon_batch_finished", output="out", counts={"done": 2}) == []
    assert plugin.heard == [("batch_started", "out", 3), ("batch_finished", "out", 2)]


def test_those_of_training(host, plugin):
    learner = host.get("learners", "slope")()
    fit(learner, [torch.ones(())] * 3, FitConfig(learning_rate=0.1), callbacks=[host.fit_step])
    assert [(kind, step) for kind, step, _ in plugin.heard] == [("fit_step", i) for i in (1, 2, 3)]
    assert plugin.used["learners"] == 3
    host.get("networks", "one-layer")(depth=2)
    assert plugin.used["networks"] == 1


def test_operators_and_feasible_sets(host, plugin):
    x = torch.arange(4.0)
    assert torch.equal(host.get("operators", "flip")().adjoint(x), x.flip(0))
    assert float(host.get("feasible_sets", "stage")(0, 1).project(torch.tensor(3.0))) == 1.0
    assert plugin.used["feasible_sets"] == 1


def test_commands(host, plugin, monkeypatch, capsys):
    import typer

    monkeypatch.setattr("labrecon.cli.host", lambda: host)
    for line in (["greet", "Ada"], ["everything:greet", "Bob"]):
        with pytest.raises(SystemExit) as ended:
            typer.main.get_command(app)(line, prog_name="labrecon")
        assert ended.value.code == 0
    assert capsys.readouterr().out == "hello Ada\nhello Bob\n"
    with pytest.raises(SystemExit):
        typer.main.get_command(app)(["--help"], prog_name="labrecon")
    assert "Say hello." in capsys.readouterr().out


@pytest.mark.parametrize("kind", [h.removeprefix("labrecon_") for h in REGISTERS])
def test_each_thing_is_listed_and_described(host, plugin, kind):
    [name] = plugin.offered[kind]
    assert host.names(kind)[name] == "everything"
    assert host.get(kind, f"everything:{name}") is plugin.offered[kind][name]
    told = describe(name, host)
    assert "'everything'" in told.kind
    assert told.text


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented_with_an_example_that_fits_it(name):
    documented = inspect.getdoc(getattr(Hooks, name))
    [code] = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    space = {"hookimpl": hookimpl}
    exec(compile(textwrap.dedent(code), name, "exec"), space)
    taken = set(inspect.signature(space[name]).parameters)
    offered = set(inspect.signature(getattr(Hooks, name)).parameters) - {"self"}
    assert taken <= offered
    if name in REGISTERS:
        assert all(
            callable(thing) or re.fullmatch(r"[\w.]+:\w+", thing)
            for thing in space[name]().values()
        )


def test_the_hooks_page_is_made_of_the_hooks():
    page = Path(__file__).parents[1] / "docs" / "reference" / "hooks.md"
    assert "::: labrecon.hookspecs.Hooks" in page.read_text()
