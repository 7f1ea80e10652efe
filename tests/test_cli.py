from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tomllib
import warnings

import h5py
import numpy as np
import pytest
from toy_instrument import Toy, plugin
from typer.testing import CliRunner

import labrecon
from labrecon import hookimpl
from labrecon.cli import app
from labrecon.plugins import Host, host
from labrecon.recipe import load_recipe


@pytest.fixture
def toy():
    host().add("toy", plugin)
    yield
    host().manager.unregister(name="toy")
    del host().reports["toy"]


@pytest.fixture
def extra():
    """Register further plugins for one test."""
    added = []

    def add(name, what):
        host().add(name, what)
        added.append(name)

    yield add
    for name in added:
        host().manager.unregister(name=name)
        host().reports.pop(name, None)


def labrecon_(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_warnings_of_libraries_are_told_in_a_line_and_once(extra, debug):
    class Loud:
        @hookimpl
        def labrecon_commands(self):
            return {"loud": command}

    def command(debug: bool = False):
        """Warn."""
        for text in ("one", "two", "one"):
            warnings.warn(text, stacklevel=1)

    extra("loud", Loud())
    shown = warnings.showwarning
    if debug:
        with pytest.warns(UserWarning, match="two"):
            assert "warning: " not in labrecon_("loud", *debug).output
    else:
        assert labrecon_("loud").stderr == "warning: one\nwarning: two\n"
    assert warnings.showwarning is shown


def test_recon(toy, toy_scan, tmp_path):
    done = labrecon_(
        "recon", "toy", toy_scan, "-o", tmp_path / "out", "--set", "solver.iterations=9"
    )
    assert done.exit_code == 0, done.output
    assert "FISTA with TV: iteration limit after 9 iterations" in done.stdout
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


def test_json_is_one_object(toy, toy_scan, tmp_path):
    done = labrecon_("recon", "toy", toy_scan, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["status"] == "iterations"
    assert told["volume"] == str(tmp_path / "out" / "volume.h5")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["toy", "SCAN", "-o", "OUT", "--set", "solver.nam=cg"], 2, "did you mean 'name'"),
        (["tooy", "SCAN", "-o", "OUT"], 2, "did you mean 'toy'"),
        (["toy", "SCAN", "-o", "OUT", "--recipe", "recn"], 2, "did you mean 'recon'"),
        (["toy", "SCAN", "-o", "OUT", "--resume"], 2, "nothing to resume"),
        (["toy", "missing.toy", "-o", "OUT"], 3, "does not exist"),
        (["toy", "SCAN", "-o", "OUT", "--set", "prepare=[{step='refuse'}]"], 3, "flats are zero"),
        (["toy", "SCAN", "-o", "OUT", "--set", "solver.step_size=1e9"], 4, "not finite"),
        (["toy", "SCAN", "-o", "TAKEN"], 5, "exists"),
        (["toy", "SCAN", "-o", "TAKEN", "--force"], 5, "left alone"),
    ],
)
def test_exit_codes(toy, toy_scan, tmp_path, words, code, told):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("")
    names = {"SCAN": toy_scan, "OUT": tmp_path / "out", "TAKEN": taken}
    filled = [names.get(word, word) for word in words]
    done = labrecon_("recon", *filled)
    assert done.exit_code == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    as_json = labrecon_("recon", *filled, "--json")
    failure = json.loads(as_json.stdout)
    assert (failure["status"], failure["exit_code"]) == ("failed", code)
    assert told in failure["error"]


def test_usage_errors(toy_scan):
    assert labrecon_("recon", "toy", toy_scan).exit_code == 2
    assert labrecon_("recn").exit_code == 2
    assert "did you mean 'recon'" in labrecon_("recn").stderr


def test_debug_shows_the_traceback(toy, tmp_path):
    done = labrecon_("recon", "toy", "missing.toy", "-o", tmp_path / "out", "--debug")
    assert done.exit_code == 3
    assert "Traceback" in done.stderr


def test_unexpected_error(toy, toy_scan, tmp_path, monkeypatch):
    def broken(self):
        raise AttributeError("a bug")

    monkeypatch.setattr(Toy, "recipes", broken)
    done = labrecon_("recon", "toy", toy_scan, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "unexpected AttributeError: a bug; --debug shows where" in done.stderr


def test_describe_file(toy, toy_scan):
    done = labrecon_("describe", toy_scan)
    assert done.exit_code == 0, done.output
    for text in ("'toy'", "Found", "(24, 24)", "Assumed", "upright", "Ignored", "/log"):
        assert text in done.stdout
    told = json.loads(labrecon_("describe", toy_scan, "--instrument", "toy", "--json").stdout)
    assert told["Assumed"] == {"orientation": "upright"}
    assert told["Arrays"]["data"] == "(24, 24) float32"


def test_describe_names(toy):
    shown = labrecon_("describe", "toy").stdout
    for text in ("pixel size in mm", "every (required)", "compare", "y 24 × x 24", "delay"):
        assert text in shown
    shown = labrecon_("describe", "fista").stdout
    assert "restart" in shown
    assert "default False" in shown
    assert labrecon_("describe", "hdf5").exit_code == 0
    missed = labrecon_("describe", "fistaa")
    assert missed.exit_code == 2
    assert "did you mean 'fista'" in missed.stderr
    assert labrecon_("describe", __file__).exit_code == 3


def test_what_labrecon_gives_to_a_factory_is_no_option(toy):
    shown = labrecon_("describe", "ssdu", "--json").stdout
    assert {"masks", "loss"} <= set(json.loads(shown)["Options"])
    assert not {"network", "operator", "noise"} & set(json.loads(shown)["Options"])
    # A prior is given to a solver, and named to a network.
    shown = labrecon_("describe", "unrolled", "--json").stdout
    assert {"solver", "prior"} <= set(json.loads(shown)["Options"])
    assert "prior" not in json.loads(labrecon_("describe", "fista", "--json").stdout)["Options"]


def test_a_recipe_is_printed_to_be_changed(toy, tmp_path):
    """Appended to, it is the instrument's own with one table more."""
    shown = labrecon_("describe", "toy", "--recipe", "recon")
    assert shown.exit_code == 0, shown.output
    assert tomllib.loads(shown.stdout) == Toy().recipes()["recon"]
    mine = tmp_path / "mine.toml"
    mine.write_text(shown.stdout + '[calibrate]\nnuisances = ["delay"]\n')
    made = load_recipe(mine, Toy())
    assert made.calibrate.nuisances == ["delay"]
    assert made.prepare == load_recipe("recon", Toy()).prepare
    missed = labrecon_("describe", "toy", "--recipe", "rekon")
    assert missed.exit_code == 2
    assert "did you mean 'recon'" in missed.stderr


def test_plugins(toy, extra):
    class Broken:
        @hookimpl
        def labrecon_priors(self):
            raise RuntimeError("no licence server")

    class Rival:
        @hookimpl
        def labrecon_solvers(self):
            return {"fista": print}

    extra("broken", Broken())
    extra("rival", Rival())
    shown = labrecon_("plugins", "-v").stdout
    for text in ("broken", "no licence server", "Traceback", "instruments: toy", "'fista'"):
        assert text in shown
    told = json.loads(labrecon_("plugins", "--json").stdout)
    assert {p["name"]: p["status"] for p in told["plugins"]}["broken"] == "failed"
    assert told["offers"]["instruments"]["toy"] == "toy"


def hello(name: str, shout: bool = False) -> None:
    """Greet somebody.

    At length.
    """
    print(name.upper() if shout else name)


def test_command_of_a_plugin(extra):
    class Commands:
        @hookimpl
        def labrecon_commands(self):
            return {"hello": hello}

    extra("greeter", Commands())
    assert "Greet somebody." in labrecon_("--help").stdout
    assert labrecon_("hello", "world", "--shout").stdout == "WORLD\n"
    assert "--shout" in labrecon_("hello", "--help").stdout


def test_help_of_a_lazy_command_imports_nothing(extra, tmp_path, monkeypatch):
    (tmp_path / "heavy_command.py").write_text(
        'import does_not_exist\ndef run(x: int):\n    """Do heavy things."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    class Commands:
        @hookimpl
        def labrecon_commands(self):
            return {"heavy": "heavy_command:run", "gone": "no_such_module:run"}

    extra("lazy", Commands())
    shown = labrecon_("--help").stdout
    assert "Do heavy things." in shown
    assert "gone" in shown
    assert "heavy_command" not in sys.modules
    done = labrecon_("heavy", "1")
    assert done.exit_code == 2
    assert "No module named 'does_not_exist'" in done.stderr


def test_version():
    assert labrecon_("--version").stdout == f"labrecon {labrecon.__version__}\n"


def test_demo(monkeypatch, toy_host, tmp_path):
    # Only the toy: the bundled instruments have demonstrations of their own to pass.
    monkeypatch.setattr("labrecon.plugins.host", lambda: toy_host)
    done = labrecon_("demo", "-o", tmp_path / "demo", "--json")
    told = json.loads(done.stdout)
    entry = next(e for e in told["instruments"] if e["instrument"] == "toy")
    assert entry["status"] == "done"
    assert (tmp_path / "demo" / entry["report"]).is_file()
    page = (tmp_path / "demo" / "index.html").read_text()
    assert "toy/report.html" in page
    assert labrecon_("demo", "-o", tmp_path / "demo").exit_code == 5


def test_a_demo_that_shows_nothing_fails(monkeypatch, tmp_path):
    class Absent:
        @hookimpl
        def labrecon_instruments(self):
            return {"absent": "no_such_instrument:Absent"}

    host = Host(discover=False)
    host.add("absent", Absent())
    monkeypatch.setattr("labrecon.plugins.host", lambda: host)
    done = labrecon_("demo", "-o", tmp_path / "demo", "--json")
    assert done.exit_code == 4
    assert [e["status"] for e in json.loads(done.stdout)["instruments"]] == ["not available"]


def test_help_is_light(toy_environment, labrecon_command):
    code = (
        "import sys\n"
        "from labrecon.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'h5py', 'astra', 'rich', 'pydantic', 'jinja2'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    # The toy instrument imports torch as it is loaded: only labrecon's own plugins here.
    environment = dict(os.environ, PYTHONPATH=toy_environment["PYTHONPATH"].split(os.pathsep, 1)[1])
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "recon" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_whole_program(toy_environment, labrecon_command, toy_scan, tmp_path):
    done = subprocess.run(
        [*labrecon_command, "recon", "toy", str(toy_scan), "-o", str(tmp_path / "out"), "--json"],
        env=toy_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["iterations"] == 40
    with h5py.File(tmp_path / "out" / "volume.h5") as file:
        assert file["entry/data/data"].dtype == np.float32


@pytest.mark.slow
def test_ctrl_c_and_resume(toy_environment, labrecon_command, toy_scan, tmp_path):
    """A real SIGINT in a solve; --resume ends with the bits of an uninterrupted run."""
    words = ["recon", "toy", str(toy_scan), "--json", "--set", "solver.iterations=300", "-o"]

    def run(out: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*labrecon_command, *words, str(tmp_path / out), *more],
            env={**toy_environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            # A shell makes its background jobs, and a CI's, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    stopped = run("out", TOY_CTRL_C_AT="500")
    assert stopped.returncode == 130, stopped.stderr
    assert json.loads(stopped.stdout)["exit_code"] == 130
    assert "--resume" in stopped.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.interrupted").is_dir()

    resumed, whole = run("out", "--resume"), run("whole")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr
    volumes = []
    for name in ("out", "whole"):
        with h5py.File(tmp_path / name / "volume.h5") as file:
            volumes.append(file["entry/data/data"][()])
    assert np.array_equal(*volumes)
    assert not (tmp_path / "out.interrupted").exists()
