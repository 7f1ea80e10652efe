"""Instruments that are wrong on purpose: the right check says so, in the right words."""

from __future__ import annotations

import pytest
import torch
from good import Csv, Geometry, Good, GoodInstrument, Hdf5
from pydantic import BaseModel, ConfigDict, Field, field_serializer

from labrecon import Gaussian, Noise, Operator, Poisson, PoissonGaussian, Scan
from labrecon.testing import check_instrument
from labrecon.testing.noise_checks import check_noise

OWN = (
    "build", "description", "geometry", "objects", "noise", "simulation", "readers", "exporters",
)  # fmt: skip
CASES = {}


def case(check, verdict, *also, status="failed"):
    def register(cls):
        CASES[cls.__name__] = (cls, check, verdict, {check, *also}, status)
        return cls

    return register


# -- description and geometry ----------------------------------------------------------------------


@case("description", "can not be loaded")
class DottedPathWrong(GoodInstrument):
    @property
    def steps(self):
        return {"flat": "no_such_package.steps:flat"}


@case("description", "no unit", status="warned")
class NoUnit(GoodInstrument):
    unit = ""


@case("geometry", "example() returns a dict", "build", "noise", "simulation", "objects", "readers")
class ExampleIsADict(GoodInstrument):
    def example(self):
        return {"size": 20}


class Arrays(Geometry):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    pattern: torch.Tensor = Field(default_factory=lambda: torch.ones(3), description="mask")


@case("geometry", "does not survive JSON", "readers")
class TensorInGeometry(GoodInstrument):
    Geometry = Arrays

    def example(self):
        return Arrays()


class Rounds(Geometry):
    @field_serializer("sigma")
    def rounded(self, value: float) -> float:
        return round(value, 1)


@case("geometry", "JSON changes sigma", "readers")
class GeometryRounded(GoodInstrument):
    Geometry = Rounds

    def example(self):
        return Rounds(sigma=0.12)


class Bare(BaseModel):
    size: int = 20
    gain: tuple[float, ...] = (0.5, 1.0)
    sigma: float = 0.02


@case("geometry", "no description, so no unit, of: size, gain, sigma", "readers", status="warned")
class NoUnits(GoodInstrument):
    Geometry = Bare

    def example(self):
        return Bare()


@case("geometry", "the operator looks at gain, which noise_fields denies")
class NoiseFieldOfTheOperator(GoodInstrument):
    noise_fields = ("sigma", "gain")


@case("geometry", "noise_fields names sigm, which the geometry has not")
class NoiseFieldMisspelt(GoodInstrument):
    noise_fields = ("sigm",)


@case("geometry", "the operator of the geometry read back differs", "simulation")
class HiddenGeometry(GoodInstrument):
    def operator(self, geometry):
        built = getattr(self, "built", 0)
        self.built = built + 1
        return Good(geometry.model_copy(update={"gain": tuple(g + built for g in geometry.gain)}))


# -- objects and simulation ------------------------------------------------------------------------


@case("objects", "objects(n=3) gives", "simulation", "readers")
class ObjectsTransposed(GoodInstrument):
    def objects(self, geometry, n, generator):
        return super().objects(geometry, n, generator).movedim(0, -1)


@case("objects", "objects are not finite", "simulation", "noise", "readers", "geometry")
class ObjectsNaN(GoodInstrument):
    def objects(self, geometry, n, generator):
        return super().objects(geometry, n, generator) / 0


@case("objects", "one seed gives different objects", "simulation")
class ObjectsUnseeded(GoodInstrument):
    def objects(self, geometry, n, generator):
        return super().objects(geometry, n, generator) * torch.rand(())


@case("objects", "all objects are the same")
class ObjectsAlike(GoodInstrument):
    def objects(self, geometry, n, generator):
        return super().objects(geometry, 1, generator).expand(n, -1, -1).clone()


@case("objects", "limits 0.0 to 1.0")
class ObjectsNegative(GoodInstrument):
    def objects(self, geometry, n, generator):
        return -super().objects(geometry, n, generator)


@case("simulation", "one seed gives different scans")
class SimulationUnseeded(GoodInstrument):
    def simulate(self, geometry, generator):
        scan = super().simulate(geometry, generator)
        return scan.replace(data=scan.data + torch.rand(()))


@case("simulation", "the noise refuses its own data")
class CountsBelowZero(GoodInstrument):
    def simulate(self, geometry, generator):
        scan = super().simulate(geometry, generator)
        return scan.replace(data=scan.data - 1, noise=Poisson())


# -- noise -----------------------------------------------------------------------------------------


def with_noise(noise):
    class WithNoise(GoodInstrument):
        def noise(self, geometry):
            return noise()

    return WithNoise


class Biased(Gaussian):
    def sample(self, clean, generator=None):
        return super().sample(clean, generator) + 0.2 * float(self.sigma)


@case("noise", "nll is not smallest at the signal")
class NoiseBiased(with_noise(lambda: Biased(0.1))):
    pass


class Doubled(Gaussian):
    def sample(self, clean, generator=None):
        return clean + 2 * (super().sample(clean, generator) - clean)


@case("noise", "samples scatter otherwise than variance says")
class NoiseDoubled(with_noise(lambda: Doubled(0.1))):
    pass


class Unscaled(Noise):
    """Gaussian with a forgotten 1/2 in the exponent, and no stated variance."""

    def sample(self, clean, generator=None):
        return clean + 0.1 * torch.randn(clean.shape, generator=generator)

    def density(self, predicted, measured):
        return (predicted - measured).square() / 0.1**2


@case("noise", "nll is scaled otherwise than the samples scatter")
class NoiseUnscaled(with_noise(Unscaled)):
    pass


class WrongScore(Gaussian):
    def score(self, predicted, measured):
        return measured - predicted


@case("noise", "score is not the derivative of density")
class NoiseScore(with_noise(lambda: WrongScore(0.1))):
    pass


class Unseeded(Gaussian):
    def sample(self, clean, generator=None):
        return super().sample(clean, None)


@case("noise", "one seed gives different samples", "simulation")
class NoiseUnseeded(with_noise(lambda: Unseeded(0.1))):
    pass


class Constant(Gaussian):
    def sample(self, clean, generator=None):
        g = torch.Generator().manual_seed(0)
        return clean + 0.1 * torch.randn(clean.shape[-3:], generator=g)


@case("noise", "two samples are the same")
class NoiseConstant(with_noise(lambda: Constant(0.1))):
    pass


# -- files -----------------------------------------------------------------------------------------


def with_reader(reader):
    class WithReader(GoodInstrument):
        @property
        def readers(self):
            return {"hdf5": reader}

    return WithReader


class ReadsAnything(Hdf5):
    def matches(self, path):
        return path.suffix == ".h5"

    def read(self, path):
        return Scan(torch.zeros(3, 20, 20), Geometry())


@case("readers", "reads an empty file without a word")
class ReaderReadsAnything(with_reader(ReadsAnything())):
    pass


class Raises(Hdf5):
    def matches(self, path):
        import h5py

        return "good" in h5py.File(path)


@case("readers", "matches raises OSError for an empty file")
class ReaderMatchesRaises(with_reader(Raises())):
    pass


class Careless(Hdf5):
    def matches(self, path):
        return path.suffix == ".h5"

    def read(self, path):
        import h5py

        with h5py.File(path) as file:
            return Scan(torch.from_numpy(file["good"][()]), Geometry())


@case("readers", "read raises OSError for an empty file")
class ReaderRaisesItsOwn(with_reader(Careless())):
    pass


class Transposed(Hdf5):
    def read(self, path):
        scan = super().read(path)
        return scan.replace(data=scan.data.mT.contiguous())


@case("readers", "data come back changed")
class ReaderTransposes(with_reader(Transposed())):
    pass


class OtherUnit(Hdf5):
    def read(self, path):
        scan = super().read(path)
        sigma = 1000 * scan.geometry.sigma
        return scan.replace(geometry=scan.geometry.model_copy(update={"sigma": sigma}))


@case("readers", "the geometry comes back changed: sigma")
class ReaderMistakesUnits(with_reader(OtherUnit())):
    pass


class Double(Hdf5):
    def read(self, path):
        scan = super().read(path)
        return scan.replace(data=scan.data.double())


@case("readers", "float32 come back as (3, 20, 20) torch.float64")
class ReaderCasts(with_reader(Double())):
    pass


def with_exporter(exporter):
    class WithExporter(GoodInstrument):
        @property
        def exporters(self):
            return {"csv": exporter} if exporter else {}

    return WithExporter


@case("exporters", "nothing exports it", status="warned")
class NoExporter(with_exporter(None)):
    pass


@case("exporters", "writes nothing")
class ExporterWritesNothing(with_exporter(lambda geometry, designs, path: None)):
    pass


class Milli(Csv):
    def read(self, path):
        return {"gain": 1000 * super().read(path)["gain"]}


@case("exporters", "reads back another design")
class ExporterMistakesUnits(with_exporter(Milli())):
    pass


def spoils(geometry, designs, path):
    designs["gain"] *= 2
    path.write_text("spoilt")


@case("exporters", "changes the design that it is given")
class ExporterSpoils(with_exporter(spoils)):
    pass


@case("build", "raised ValueError: no detector")
class CanNotBeBuilt(GoodInstrument):
    def operator(self, geometry):
        raise ValueError("no detector")


@pytest.mark.parametrize("name", CASES)
def test_wrong_instrument_is_caught(name):
    make, check, verdict, allowed, status = CASES[name]
    report = check_instrument(make(), raises=False, only=OWN, timeout=60)
    caught = [f for f in report.of(check).findings if f.status == status]
    assert any(verdict in str(finding) for finding in caught), report.of(check).findings
    assert all(finding.advice for finding in caught)
    assert set(report.failures) <= allowed, set(report.failures) - allowed


@pytest.mark.slow
def test_the_right_one_passes_without_a_warning():
    report = check_instrument(GoodInstrument())
    assert report.counts()["warned"] == 0
    assert report.of("readers").findings[-1].verdict == "reads back what it writes"
    assert report.of("exporters").findings[0].verdict == "reads back what it writes"


@pytest.mark.parametrize("kind", ["poisson", "complex"])
def test_other_noise_passes(kind):
    class Complex(Good):
        def __init__(self, geometry):
            super().__init__(geometry, torch.complex64)

    class Other(GoodInstrument):
        limits = (None, None)

        def operator(self, geometry):
            return Complex(geometry) if kind == "complex" else Good(geometry)

        def noise(self, geometry):
            return Gaussian(0.1) if kind == "complex" else Poisson(2.0)

        def objects(self, geometry, n, generator):
            x = 5 * super().objects(geometry, n, generator)
            return x.to(torch.complex64) if kind == "complex" else x

    check_instrument(Other(), only=OWN, skip=("readers",))


class Clipped(Good):
    """Linear for white noise, and clipped where objects are."""

    def forward(self, x):
        return super().forward(x.clamp(-10, 10))


def test_linearity_is_tried_with_objects():
    class Bright(GoodInstrument):
        limits = (0.0, None)

        def operator(self, geometry):
            return Clipped(geometry)

        def objects(self, geometry, n, generator):
            return 100 * super().objects(geometry, n, generator)

    report = check_instrument(Bright(), only=("linearity",), raises=False)
    assert report.of("linearity").findings[0].verdict == "not linear"


def test_a_model_with_limits_is_judged_within_them():
    class Root(Good):
        linear = False
        adjoint = Operator.adjoint

        def forward(self, x):
            if bool((x < 0).any()) or bool((x > 1).any()):
                raise ValueError("outside")
            return super().forward(x + 0.01).sqrt()

    class Limited(GoodInstrument):
        def operator(self, geometry):
            return Root(geometry)

    report = check_instrument(Limited(), raises=False, only=("linearity", "adjoint"))
    assert report.of("linearity").findings[0].verdict == "nonlinear, as declared"


@pytest.mark.parametrize(
    ("noise", "mean"), [(Poisson(), 1e-3), (Poisson(), 0.05), (PoissonGaussian(1.0), 0.01)]
)
def test_low_counts_are_no_failure(noise, mean):
    clean = torch.full((128, 128), mean)
    findings = check_noise(noise, clean, torch.Generator().manual_seed(0))
    assert all(finding.status != "failed" for finding in findings)


def test_every_dtype_is_tried_where_there_is_a_choice():
    class Choice(GoodInstrument):
        def operator(self, geometry, *, dtype=torch.float32):
            return Good(geometry, dtype)

    class Wrong(Choice):
        def operator(self, geometry, *, dtype=torch.float32):
            operator = Good(geometry, dtype)
            if dtype == torch.float64:
                operator.gain.data *= 1.01
            return operator

    assert check_instrument(Choice(), only=("precision",)).of("precision").findings[0].value < 1e-6
    report = check_instrument(Wrong(), only=("precision",), raises=False)
    assert "different answers" in report.of("precision").findings[0].verdict
