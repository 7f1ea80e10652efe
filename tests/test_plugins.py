from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_instrument import ToyReader, plugin, write_toy

from labrecon.plugins import ConflictError, Host, UnknownNameError, hookimpl
from labrecon.recon import reconstruct


@pytest.fixture
def host():
    return Host(discover=False)


class Solvers:
    def __init__(self, **offered):
        self.offered = offered

    @hookimpl
    def labrecon_solvers(self):
        return self.offered


def test_builtins_go_through_the_same_hooks(host):
    assert host.names("solvers")["fista"] == "builtin"
    for kind in ("solvers", "priors", "operators", "writers", "metrics", "feasible_sets"):
        for name in host.names(kind):
            assert callable(host.get(kind, name))


def test_listing_imports_nothing(host):
    host.add("lazy", Solvers(mine="a_module_that_does_not_exist:Solver"))
    assert host.names("solvers")["mine"] == "lazy"
    with pytest.raises(ModuleNotFoundError):
        host.get("solvers", "mine")


def test_unknown_name_suggests_the_nearest(host):
    with pytest.raises(UnknownNameError, match="did you mean 'fista'"):
        host.get("solvers", "fitsa")


def test_conflict_names_both_and_spares_the_rest(host):
    host.add("first", Solvers(mine=print))
    host.add("second", Solvers(mine=repr, other=repr))
    with pytest.raises(ConflictError, match=r"'first' and 'second'.*say 'first:mine' or"):
        host.get("solvers", "mine")
    assert host.get("solvers", "first:mine") is print
    assert host.get("solvers", "second:mine") is repr
    with pytest.raises(UnknownNameError, match=r"'second:mien'.*did you mean 'second:mine'"):
        host.get("solvers", "second:mien")
    assert host.get("solvers", "other") is repr
    assert host.names("solvers")["mine"] == "first, second"


def test_conflict_with_a_builtin(host):
    host.add("lab", Solvers(fista=print))
    with pytest.raises(ConflictError, match="'builtin' and 'lab'"):
        host.get("solvers", "fista")


def test_a_second_plugin_of_a_name_costs_only_itself(host):
    host.add("lab", Solvers(mine=print))
    for name in ("builtin", "lab"):
        host.add(name, Solvers(other=print), "another-lab")
        report = host.reports[f"{name}#2"]
        assert report.status == "failed"
        assert "rename the entry point of another-lab" in report.detail
    assert "fista" in host.names("solvers")
    assert "mine" in host.names("solvers")
    assert "other" not in host.names("solvers")


def test_a_contract_that_makes_no_sense_is_reported(host):
    plugin = Solvers(mine=print)
    plugin.LABRECON_CONTRACT = 1
    host.add("lab", plugin)
    assert host.reports["lab"].status == "failed"


def test_hook_that_raises_is_reported(host):
    class Broken:
        @hookimpl
        def labrecon_solvers(self):
            raise RuntimeError("no licence server")

    host.add("broken", Broken())
    assert "fista" in host.names("solvers")
    report = host.reports["broken"]
    assert (report.status, report.detail) == ("failed", "RuntimeError: no licence server")
    assert "Traceback" in report.trace


def test_contract(host):
    for name, contract in (("future", (2, 0)), ("newer", (1, 99)), ("old", (1, 0))):
        host.add(name, SimpleNamespace(LABRECON_CONTRACT=contract))
    statuses = {name: host.reports[name].status for name in ("future", "newer", "old")}
    assert statuses == {"future": "incompatible", "newer": "incompatible", "old": "ready"}
    assert "install a newer labrecon" in host.reports["future"].detail
    host.add("ancient", SimpleNamespace(LABRECON_CONTRACT=(0, 9)), "old-lab")
    assert "install a newer old-lab" in host.reports["ancient"].detail


def test_misspelt_hook_is_reported(host):
    class Misspelt:
        @hookimpl
        def labrecon_solver(self):
            return {}

    host.add("misspelt", Misspelt())
    assert host.reports["misspelt"].status == "failed"
    assert "labrecon_solver" in host.reports["misspelt"].detail
    assert "fista" in host.names("solvers")


def test_events_reach_all_and_failures_are_returned(host):
    heard = []

    class Deaf:
        @hookimpl
        def labrecon_scan_started(self, path):
            raise RuntimeError("deaf")

    class Listener:
        @hookimpl
        def labrecon_scan_started(self, recipe):
            heard.append(recipe)

    host.add("listener", Listener())
    host.add("deaf", Deaf())
    failures = host.call("labrecon_scan_started", path="a", recipe={"seed": 1})
    assert heard == [{"seed": 1}]
    assert failures == ["deaf: RuntimeError('deaf')"]


def test_entry_points_of_installed_plugins(toy_environment, tmp_path):
    """A plugin that can not be imported is reported; the others work."""
    info = tmp_path / "site" / "bad_plugin-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[labrecon]\nbad = bad_module\n")
    (tmp_path / "site" / "bad_module.py").write_text("import a_vendor_library_not_here\n")
    code = (
        "from labrecon.plugins import host; r = host().reports; "
        "print(r['toy'].status, r['toy'].version, r['bad'].status, r['bad'].distribution, "
        "r['bad'].detail)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=toy_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ready 0.1 failed bad-plugin ModuleNotFoundError")


def install(site, name, entry, code, metadata="", version="2.0"):
    """A distribution with one plugin, as pip would leave it on the path."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}"
    )
    (info / "entry_points.txt").write_text(f"[labrecon]\n{entry} = {entry}_module\n")
    (site / f"{entry}_module.py").write_text(code)


@pytest.mark.slow
def test_broken_plugins_never_take_the_program_down(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install(site, "good-lab", "good", "LABRECON_CONTRACT = (1, 0)")
    install(site, "bad-lab", "raises", "raise RuntimeError('no dongle')")
    install(site, "exit-lab", "exits", "import sys; sys.exit(3)")
    install(site, "slow-lab", "hangs", "import time\ntime.sleep(1000)", "License: MIT\n")
    requires = "Requires-Dist: vendor-sdk>=3; extra == 'gpu'\nLicense-Expression: GPL-3.0\n"
    install(site, "gpu-lab", "lacks", "import vendor_sdk", requires)
    install(
        site,
        "part-lab",
        "part",
        "LABRECON_REQUIRES = {'no_such_module': 'part-lab[all]'}\n"
        "LABRECON_HARDWARE = ('CUDA GPU', 'a dongle')\nLABRECON_CONTRACT = (1, 0)",
        "Classifier: License :: OSI Approved :: BSD License\n",
    )
    clash = (
        "from labrecon.plugins import hookimpl\n"
        "@hookimpl\ndef labrecon_commands():\n    return {'plugins': print}\n"
        "@hookimpl\ndef labrecon_solvers():\n    raise SystemExit(9)\n"
    )
    install(site, "clash-lab", "clash", clash)
    main = [sys.executable, "-c", "from labrecon.cli import main; main()"]
    paths = [str(site), str(Path(__file__).parents[1])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "LABRECON_PLUGIN_TIMEOUT": "1.5",
    }

    def labrecon(*arguments):
        return subprocess.run(
            [*main, *arguments], env=environment, capture_output=True, text=True, timeout=100
        )

    done = labrecon("plugins")
    assert done.returncode == 2
    assert "'builtin' and 'clash' both register the command 'plugins'" in done.stderr
    assert "say 'builtin:plugins' or 'clash:plugins'" in done.stderr
    done = labrecon("builtin:plugins", "--json")
    assert done.returncode == 0, done.stderr
    told = {report["name"]: report for report in json.loads(done.stdout)["plugins"]}
    assert told["good"]["status"] == "ready"
    assert told["raises"]["detail"] == "RuntimeError: no dongle"
    assert told["exits"]["detail"] == "SystemExit: 3"
    assert told["hangs"]["status"] == "slow"
    assert "more than 1.5 s, at" in told["hangs"]["detail"]
    assert "hangs_module.py:2" in told["hangs"]["detail"]
    assert told["hangs"]["licence"] == "MIT"
    assert 'pip install "gpu-lab[gpu]"' in told["lacks"]["detail"]
    assert told["lacks"]["licence"] == "GPL-3.0"
    assert told["part"]["status"] == "incomplete"
    assert 'pip install "part-lab[all]"' in told["part"]["detail"]
    assert told["part"]["hardware"] == ["CUDA GPU", "a dongle"]
    assert (told["part"]["licence"], told["part"]["contract"]) == ("BSD License", "1.0")
    assert told["clash"]["detail"] == "SystemExit: 9"
    done = labrecon("builtin:plugins", "-v")
    assert "RuntimeError: no dongle" in done.stdout
    assert "Traceback" in done.stdout
    assert "needs CUDA GPU, a dongle" in done.stdout
    assert labrecon("--help").returncode == 0


class Formats:
    """A reader for the toy's instrument and a writer, from another plugin."""

    @hookimpl
    def labrecon_readers(self):
        class Renamed(ToyReader):
            def matches(self, path):
                return path.suffix == ".renamed"

        return {"toy/renamed": Renamed}

    @hookimpl
    def labrecon_writers(self):
        def write_torch(path, volume, info, *, note: str = ""):
            target = path.with_suffix(".pt")
            torch.save({"volume": volume, "note": note, "unit": info["unit"]}, target)
            return target

        return {"torch": write_torch}


def test_reader_and_writer_of_a_plugin(host, tmp_path):
    host.add("toy", plugin)
    host.add("formats", Formats())
    scan = write_toy(tmp_path / "scan.renamed")
    result = reconstruct(
        "toy",
        scan,
        tmp_path / "out",
        recipe={"output": {"format": "torch", "note": "hello"}, "solver": {"iterations": 5}},
        host=host,
    )
    stored = torch.load(tmp_path / "out" / "volume.pt")
    assert torch.equal(stored["volume"], result.volume)
    assert (stored["note"], stored["unit"]) == ("hello", "1/mm")


def test_statements_of_a_plugin_are_checked(host):
    host.add("words", SimpleNamespace(LABRECON_CONTRACT="1.0"))
    assert "expected two whole numbers: (1, 0)" in host.reports["words"].detail
    host.add("deep", SimpleNamespace(LABRECON_REQUIRES={"no_such.part": "no-such"}))
    assert (
        host.reports["deep"].detail == "needs the package 'no_such.part': pip install \"no-such\""
    )
    numbers = Solvers()
    numbers.offered = {1: print}
    host.add("numbers", numbers)
    with pytest.raises(UnknownNameError, match="did you mean 'fista'"):
        host.get("solvers", "fitsa")
    assert "returned the name 1, no text" in host.reports["numbers"].detail
    host.add("pathless", Solvers(json="json"))
    with pytest.raises(ValueError, match="expected 'module:attribute'"):
        host.get("solvers", "json")
