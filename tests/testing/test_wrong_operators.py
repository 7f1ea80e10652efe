"""Operators that are wrong on purpose: the right check says so, in the right words."""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
import pytest
import torch
from good import Good, Nonlinear
from torch import nn

from labrecon import Operator, Space, linear_function
from labrecon.bridge import external
from labrecon.design import Box, FeasibleSet, Violation
from labrecon.testing import check_operator

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
F64, C128 = torch.float64, torch.complex128
CASES = {}


def case(check: str, verdict: str, *also: str, dtype=torch.float32, advice: str = ""):
    """``also``: further checks that can not but fail with it."""

    def register(cls):
        made = (lambda: cls(dtype=dtype)) if isinstance(cls, type) else cls
        CASES[cls.__name__] = (made, check, verdict, {check, *also}, advice)
        return cls

    return register


# -- spaces and linearity --------------------------------------------------------------------------


@case("spaces", "output of forward: got shape", "linearity", "adjoint", "graph", "gradient",
      "second derivative", "normal", "norm", "initial", "batch", "precision", "repeatability",
      "purity", "memory", "serialisation", "cost")  # fmt: skip
class WrongShape(Good):
    def forward(self, x):
        return super().forward(x)[..., :-1]


@case("spaces", "not finite", "linearity", "adjoint", "gradient", "second derivative",
      "normal", "initial", "batch", "norm", "repeatability", "precision", "serialisation",
      "graph")  # fmt: skip
class NotFinite(Good):
    def forward(self, x):
        return super().forward(x) / (x.abs() > 0.05)[..., None, :, :]


@case("spaces", "accepted without a word")
class AnythingGoes(Good):
    def __call__(self, x, **values):
        if values:
            return self.at(**values)(x)
        x = x[..., : self.domain.shape[-1]].to(self.domain.dtype)
        return nn.Module.__call__(self, x)


@case("linearity", "the map is affine", "initial", "adjoint", "normal", "norm")
class Background(Good):
    def forward(self, x):
        return super().forward(x) + 0.1


@case("linearity", "not linear", "adjoint", "normal", "gradient", "second derivative", "initial",
      "norm")  # fmt: skip
class Saturation(Good):
    def forward(self, x):
        return torch.tanh(super().forward(x))


@case("linearity", "linear only to single precision", "precision", "adjoint", dtype=F64)
class CastToFloat32(Good):
    def forward(self, x):
        return super().forward(x.float()).double()


@case("precision", "every result is a float32 number", "linearity", "adjoint", dtype=F64)
class ResultInFloat32(Good):
    def forward(self, x):
        return super().forward(x).float().double()


# -- adjoint ---------------------------------------------------------------------------------------


@case("adjoint", "unmatched", "normal", dtype=C128, advice="without the conjugate")
class MissingConjugate(Good):
    def adjoint(self, y):
        mean = (self.gain[:, None, None] * y).sum(-3)
        return (0.5 + self.offset) * mean + 0.5 * self.phase * mean.roll(-1, -1)


@case("adjoint", "unmatched", "normal", "norm", advice="conjugate of the adjoint", dtype=C128)
class ConjugatedResult(Good):
    def adjoint(self, y):
        return super().adjoint(y).conj()


@case("adjoint", "unmatched", "normal", advice="index is off by 1")
class OffByOne(Good):
    def adjoint(self, y):
        return super().adjoint(y).roll(1, -1)


@case("adjoint", "unmatched", advice="it is 2 times the transpose")
class WrongScale(Good):
    def adjoint(self, y):
        return 2 * super().adjoint(y)


@case("adjoint", "unmatched", "normal", "norm", advice="it is -1 times the transpose")
class WrongSign(Good):
    def adjoint(self, y):
        return -super().adjoint(y)


@case("adjoint", "unmatched", "normal")
class OtherBoundary(Good):
    def adjoint(self, y):
        mean = (self.gain[:, None, None] * y).sum(-3)
        shifted = torch.nn.functional.pad(mean[..., 1:], (0, 1))
        return (0.5 + self.offset) * mean + 0.5 * shifted


@case("adjoint", "unmatched", "normal", "norm")
class PseudoInverse(Good):
    def adjoint(self, y):
        return super().adjoint(y).tanh()


# -- derivatives -----------------------------------------------------------------------------------


@case("graph", "x: detached", "gradient", "second derivative", "adjoint", "normal", "norm",
      "initial", "batch", "repeatability", "purity", "cost")  # fmt: skip
class Detached(Good):
    def forward(self, x):
        return super().forward(x.detach())

    adjoint = Operator.adjoint


@case("graph", "x: detached", "gradient", "second derivative")
class ThroughNumpy(Nonlinear):
    def forward(self, x):
        return torch.from_numpy(super().forward(x.detach()).detach().numpy())


@case("graph", "design gain: detached", "gradient", "second derivative")
class DesignByItem(Good):
    def forward(self, x):
        gain = torch.tensor(self.gain.tolist(), dtype=x.dtype)
        return torch.func.functional_call(Good(), {"gain": gain, "offset": self.offset}, (x,))


@case("gradient", "design gain: the gradient is zero", "second derivative")
class DesignConstant(Good):
    """Attached, and the gradient is silently zero."""

    def forward(self, x):
        gain = self.gain.detach() + 0 * self.gain
        mean = (0.5 + self.offset) * x + 0.5 * x.roll(1, -1)
        return gain[:, None, None] * mean[..., None, :, :]


@case("gradient", "nuisance offset: the gradient is wrong", "second derivative",
      advice="it is 2 times")  # fmt: skip
class NuisanceTwice(Good):
    def forward(self, x):
        offset = 2 * self.offset - self.offset.detach()
        mean = (0.5 + offset) * x + 0.5 * x.roll(1, -1)
        return self.gain[:, None, None] * mean[..., None, :, :]


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


@case("gradient", "x: the gradient is wrong", "second derivative", advice="0.5 times")
class HalfTheGradient(Nonlinear):
    def forward(self, x):
        return _Wrong.apply(Good.forward(self, x))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


@case("second derivative", "can not be differentiated twice")
class OnceDifferentiable(Nonlinear):
    def forward(self, x):
        return _Once.apply(Good.forward(self, x))


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.x


@case("second derivative", "the gradient is wrong")
class SecondDerivativeIncomplete(Nonlinear):
    """The gradient is right, its own derivative lacks a term: detached inside backward."""

    def forward(self, x):
        return _Frozen.apply(Good.forward(self, x))


@case("graph", "gradient is not finite", "gradient", "second derivative")
class RootAtZero(Nonlinear):
    def forward(self, x):
        return super().forward(x) + torch.sqrt(0 * x.square())[..., None, :, :]


@case("gradient", "the gradient is zero", "second derivative")
class Histogram(Nonlinear):
    """Piecewise constant: quantised to 1/8."""

    def forward(self, x):
        y = Good.forward(self, x)
        return (8 * y).round() / 8 + 0 * y


# -- batches, state, side effects ------------------------------------------------------------------


@case("batch", "differs from forward of its elements", "linearity", "adjoint", "normal", "initial",
      "norm", "gradient", "second derivative", "spaces")  # fmt: skip
class BatchNormalised(Nonlinear):
    def forward(self, x):
        y = super().forward(x)
        return y - y.mean()


@case("batch", "adjoint of a batch", "adjoint", "normal", "norm", "initial")
class AdjointMixesBatch(Good):
    def adjoint(self, y):
        x = super().adjoint(y)
        return x.sum(0, keepdim=True).expand_as(x) if x.ndim == 4 else x


@case("repeatability", "gives two answers", "linearity", "adjoint", "batch", "normal",
      "serialisation", "gradient", "second derivative", "geometry", "purity", "norm")  # fmt: skip
class Noisy(Good):
    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * torch.rand(()))


@case("repeatability", "depends on what it was called with before", "adjoint", "batch", "normal",
      "linearity", "gradient", "second derivative", "serialisation", "norm", "initial",
      "graph")  # fmt: skip
class Calibrates(Good):
    """A quick start for an input like the last one."""

    last = None

    def forward(self, x):
        again = self.last is not None and self.last[0].shape == x.shape
        again = again and self.last[1] > 0 and not torch.equal(self.last[0], x)
        self.last = (x.detach().clone(), 1)
        return super().forward(x) * (1.1 if again else 1.0)


@case("repeatability", "two operators of one geometry differ", "serialisation", "norm")
class UnseededMask(Good):
    def __init__(self, **options):
        super().__init__(**options)
        self.mask = torch.rand(self.range.shape)

    def forward(self, x):
        return self.mask * super().forward(x)

    def adjoint(self, y):
        return super().adjoint(self.mask * y)


@case("repeatability", "a result of forward was overwritten", "linearity", "adjoint", "norm",
      "batch", "normal", "gradient")  # fmt: skip
class OneBuffer(Good):
    """The result is memory that the next call fills again."""

    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            return y
        kept = self.__dict__.setdefault("kept", {})
        return kept.setdefault(y.shape, torch.empty_like(y)).copy_(y)


@case("purity", "input was changed", "adjoint", "normal", "batch", "repeatability", "linearity",
      "norm", "initial", "gradient", "second derivative", "graph", "memory", "cost",
      "serialisation")  # fmt: skip
class InPlace(Good):
    def forward(self, x):
        if not x.requires_grad:
            x *= 1.5
            return super().forward(x) / 1.5
        return super().forward(x)


@case("purity", "number of threads")
class Threads(Good):
    def forward(self, x):
        torch.set_num_threads(1 + torch.get_num_threads() % 3)
        return super().forward(x)


@case("purity", "torch's random numbers")
class Draws(Good):
    def forward(self, x):
        torch.rand(())
        return super().forward(x)


@case("purity", "default dtype")
class DefaultDtype(Good):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        return super().forward(x)


@case("purity", "parameters were changed: gain", "repeatability", "linearity", "adjoint", "batch",
      "normal", "norm", "initial", "serialisation", "gradient", "second derivative",
      "feasible sets", "graph")  # fmt: skip
class Drifts(Good):
    def forward(self, x):
        with torch.no_grad():
            self.gain.mul_(1.01)
        return super().forward(x)


@case("memory", "tensors pile up")
class Leak(Good):
    def __init__(self, **options):
        super().__init__(**options)
        self.history = []

    def forward(self, x):
        y = super().forward(x)
        self.history.append(y.detach())
        return y

    def __getstate__(self):
        return {**self.__dict__, "history": []}


@case("memory", "Python objects or arrays pile up")
class Log(Good):
    def __init__(self, **options):
        super().__init__(**options)
        self.log = {}

    def forward(self, x):
        self.log[time.perf_counter()] = "called"
        return super().forward(x)


@case("threads", "in 8 threads: ")
class SharedScratch(Good):
    threadsafe = True

    def forward(self, x):
        self.__dict__["scratch"] = x
        time.sleep(0.001)
        return super().forward(self.__dict__["scratch"])


@case("serialisation", "can not be pickled")
class Handle(Good):
    def __init__(self, **options):
        super().__init__(**options)
        self.handle = threading.Lock()

    def __deepcopy__(self, memo):
        return type(self)()


@case("serialisation", "an operator with the loaded state gives another answer")
class StaleCache(Good):
    def forward(self, x):
        if "kernel" not in self.__dict__:
            self.kernel = 2 * self.gain.detach().clone()
        mean = (0.5 + self.offset) * x + 0.5 * x.roll(1, -1)
        return (self.gain + self.kernel)[:, None, None] * mean[..., None, :, :]

    adjoint = Operator.adjoint


# -- overrides -------------------------------------------------------------------------------------


@case("normal", "normal(x, weights) is not")
class NormalWithoutWeights(Good):
    def normal(self, x, weights=None):
        return self.adjoint(self(x))


@case("normal", "does not solve")
class SolveWithoutRho(Good):
    def solve(self, rhs, rho, **options):
        return super().solve(rhs, 2 * rho, **options)


@case("norm", "norm() is too small")
class SmallNorm(Good):
    def norm(self, **options):
        return 0.5 * super().norm()


@case("initial", "fits the data worse than zero")
class UnscaledInitial(Good):
    def initial(self, y):
        return 3 * self.adjoint(y)


@case("norm", "the operator is zero", "graph", "adjoint", "gradient", "initial",
      "second derivative", "normal")  # fmt: skip
class Nothing(Good):
    def forward(self, x):
        return 0 * super().forward(x)

    def adjoint(self, y):
        return 0 * super().adjoint(y)


# -- what a review found ---------------------------------------------------------------------------


@case("gradient", "design gain: the gradient is", "second derivative")
class OneEntryHidden(Good):
    """One weak entry of a parameter is detached."""

    def forward(self, x):
        gain = torch.cat([self.gain[:2], 0.02 * self.gain[2:].detach()])
        mean = (0.5 + self.offset) * x + 0.5 * x.roll(1, -1)
        return gain[:, None, None] * mean[..., None, :, :]

    adjoint = Operator.adjoint


class _Lazy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, owner):
        ctx.owner = owner
        ctx.save_for_backward(x)
        return gain[:, None, None] * x[..., None, :, :]

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        gx = (ctx.owner.gain[:, None, None] * g).sum(-3)
        gp = (g * x[..., None, :, :]).sum((-1, -2))
        return gx, gp.sum(tuple(range(gp.ndim - 1))) if gp.ndim > 1 else gp, None


@case("gradient", "x at another gain: the gradient is wrong", "second derivative", "graph",
      "initial")  # fmt: skip
class ReadsItsParameterLate(Good):
    """At other values the gradient is still that of the old ones."""

    def forward(self, x):
        return _Lazy.apply(x, self.gain, self)

    def adjoint(self, y):
        return (self.gain[:, None, None] * y).sum(-3)


@case("linearity", "A(0) is not finite", "adjoint", "gradient", "second derivative", "normal",
      "initial", "norm", "spaces", "graph", "batch")  # fmt: skip
class DividesByItsNorm(Good):
    def forward(self, x):
        size = x.flatten(-2).norm(dim=-1)[..., None, None]
        return super().forward(x / size * size)


@case("threads", "8 threads get other answers")
class ScratchInTheAdjoint(Good):
    threadsafe = True

    def adjoint(self, y):
        self.__dict__["scratch"] = y
        time.sleep(0.001)
        return super().adjoint(self.__dict__["scratch"])


@case("adjoint", "unmatched", "normal", "norm", "initial", "gradient", dtype=torch.float16)
class HalfPrecision(Good):
    def adjoint(self, y):
        return 1.15 * super().adjoint(y)


@case("memory", "memory that Python does not see")
class LeakOfC(Good):
    def forward(self, x):
        size = 64 * 1024
        address = LIBC.malloc(ctypes.c_size_t(size))
        ctypes.memset(address, 1, size)
        return super().forward(x)


# -- feasible sets ---------------------------------------------------------------------------------


def with_set(feasible):
    class WithSet(Good):
        def __init__(self, **options):
            super().__init__(**options)
            self._designs["gain"] = feasible

    return WithSet


class HalfWay(Box):
    def project(self, value):
        return 0.5 * (value + super().project(value))


class Scaling(FeasibleSet):
    """A budget kept by scaling: feasible, but not the nearest."""

    def project(self, value):
        value = value.clamp_min(0)
        return value * (3 / value.sum().clamp_min(1e-6)).clamp_max(1)

    def violations(self, value):
        over = float(value.sum() - 3)
        return {"over budget": Violation(over)} if over > 1e-6 else {}


class HardensOut(Box):
    def harden(self, value):
        return self.project(value).ceil() + 1


class TooSmall(Box):
    def __init__(self):
        super().__init__(0.0, 0.6)


@case("feasible sets", "is not in the set")
class ProjectsHalfWay(with_set(HalfWay(0, 2))):
    pass


@case("feasible sets", "a feasible value is nearer")
class ProjectsByScaling(with_set(Scaling())):
    pass


@case("feasible sets", "a hardened value is not in the set")
class HardensOutside(with_set(HardensOut(0, 2))):
    pass


@case("feasible sets", "the initial value is not feasible: above")
class StartsOutside(with_set(TooSmall())):
    pass


# -- external models -------------------------------------------------------------------------------

MATRIX = np.random.RandomState(0).randn(6, 6)
SPACES = {"domain": Space((6,), F64), "range": Space((6,), F64)}


def numpy_forward(x):
    return MATRIX @ x


def numpy_wrong_adjoint(y):
    return MATRIX @ y


def numpy_adjoint(y):
    return MATRIX.T @ y


@case("adjoint", "unmatched", "normal", "gradient", "second derivative", "norm", "initial")
def external_not_transposed():
    return external(numpy_forward, numpy_wrong_adjoint, **SPACES, linear=True)


@case("adjoint", "there is no adjoint", "graph", "normal", "norm", "initial", "batch", "purity",
      "repeatability", "cost")  # fmt: skip
def external_forward_only():
    return external(numpy_forward, **SPACES, linear=True)


@case("threads", "8 threads get other answers", "serialisation")
def external_claims_threads():
    buffer = np.zeros(6)

    def forward(x):
        buffer[:] = x
        time.sleep(0.001)
        return MATRIX @ buffer

    return external(forward, numpy_adjoint, **SPACES, linear=True, threadsafe=True)


@case("build", "not an operator", *["*"])
def not_an_operator():
    return nn.Identity()


@case("build", "raised ValueError: no licence")
def can_not_be_built():
    raise ValueError("no licence")


@case("adjoint", "unmatched", "normal", "norm", "initial", "gradient", "second derivative",
      "serialisation")  # fmt: skip
def linear_function_flipped():
    class Flipped(Operator):
        def __init__(self):
            super().__init__(Space((6,), F64), Space((6,), F64))
            self.register_buffer("m", torch.tensor(MATRIX))

        def forward(self, x):
            return linear_function(x, lambda v: v @ self.m.mT, lambda v: v @ self.m.mT)

    return Flipped()


# These are found only by calling for long enough to tell a leak from noise.
LONG = ("Leak", "LeakOfC", "Log")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES]
)
def test_wrong_operator_is_caught(name):
    make, check, verdict, allowed, advice = CASES[name]
    # It calls thousands of times to be sure; that nothing piles up in right ones is tested below.
    skip = () if check == "memory" else ("memory",)
    report = check_operator(make, raises=False, calls=40, timeout=60, skip=skip)
    caught = [f for f in report.of(check).findings if f.status == "failed"]
    told = [str(finding) for finding in caught]
    assert any(verdict in line for line in told), (told, report.failures)
    assert all(finding.advice for finding in caught)
    if advice:
        assert any(advice in finding.advice for finding in caught), [f.advice for f in caught]
    if "*" not in allowed:
        assert set(report.failures) <= allowed, set(report.failures) - allowed


def test_there_are_enough_of_them():
    assert len(CASES) >= 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *[(Good, dtype) for dtype in (torch.float32, F64, torch.complex64, C128)],
        *[(Nonlinear, dtype) for dtype in (torch.float32, F64)],
    ],
)
def test_right_ones_pass(kind, dtype):
    report = check_operator(lambda: kind(dtype=dtype), calls=40)
    assert report.counts()["warned"] == 0


@pytest.mark.slow
def test_the_right_external_model_passes():
    check_operator(
        lambda: external(numpy_forward, numpy_adjoint, **SPACES, linear=True, threadsafe=True),
        calls=40,
    )
