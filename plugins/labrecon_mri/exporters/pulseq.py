"""Learned readouts as a Pulseq sequence: a spoiled gradient echo that a scanner can play."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon_mri.exporters.readouts import limits_report, readouts_of, with_ending
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.scanners import GAMMA, GradientSystem, find_system

__all__ = ["PulseqExporter", "export_pulseq", "read_pulseq_trajectory"]

Values = NDArray[np.float64]
#: Where a geometry names none: the dwell time of a sample in s.
DWELL = 10e-6
#: Excess, relative to a limit, that rounding of a design explains.
ROUNDING = 1e-3
#: Of the start of an ADC in s.
RASTER = 1e-6
#: Share of the slew rate for ramps and rewinders, which are no part of the design.
GENTLE = 0.5


@dataclass(frozen=True)
class PulseqExporter:
    """``NAME.seq`` (Pulseq, Layton et al. 2017), and ``NAME.limits.txt`` with what it asks for.

    Each shot: slice-selective excitation (block pulse in 3D), a prephaser, the readout between
    ramps of the gradient, a rewinder and a spoiler. Gradients are on the raster of the system;
    where the dwell time differs, the trajectory is interpolated onto it.

    Attributes:
        system: gradient system, see `labrecon_mri.scanners`.
        flip_angle: in degrees.
        slice_thickness: in m.
        repetition: TR in s; as short as possible by default.
    """

    system: str = "prisma"
    flip_angle: float = 10.0
    slice_thickness: float = 5e-3
    repetition: float | None = None

    def __call__(self, geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
        """Write the sequence.

        Raises:
            ValueError: there is nothing to export, or it breaks the limits of the system.
            OutputError: the file can not be written.
        """
        known, trajectory = readouts_of(geometry, designs)
        system = find_system(self.system)
        dwell = known.dwell or DWELL
        nodes = _on_raster(trajectory, dwell, system)
        sequence = self._sequence(nodes, trajectory.shape[1], dwell, system, known.axes)
        target = with_ending(path, ".seq")
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "design.seq"
            sequence.write(str(made), create_signature=True)
            write_file(target, made.read_bytes(), force=True)
        report = limits_report(torch.from_numpy(nodes), system, system.raster)
        write_file(target.with_suffix(".limits.txt"), report, force=True)

    def _sequence(
        self,
        nodes: Values,
        samples: int,
        dwell: float,
        system: GradientSystem,
        axes: tuple[str, ...],
    ) -> Any:
        import pypulseq as pp

        # A readout may be at the limits to rounding; it was checked before.
        limits = pp.Opts(
            gamma=GAMMA,
            max_grad=system.max_gradient * (1 + 1e-6),
            grad_unit="mT/m",
            max_slew=system.max_slew * (1 + 1e-6),
            slew_unit="T/m/s",
            grad_raster_time=system.raster,
            rf_ringdown_time=20e-6,
            rf_dead_time=100e-6,
            adc_dead_time=10e-6,
        )
        # What is added may run on all axes at once.
        gentle = {
            "max_grad": limits.max_grad * GENTLE / len(axes) ** 0.5,
            "max_slew": limits.max_slew * GENTLE / len(axes) ** 0.5,
        }
        sequence = pp.Sequence(system=limits)
        excitation = self._excitation(pp, limits, len(axes))
        shots = [_Readout(shot, system.raster, gentle["max_slew"]) for shot in nodes]
        before = _longest(pp, [shot.prephase for shot in shots], axes, limits, gentle)
        after = _longest(pp, [-shot.end for shot in shots], axes, limits, gentle)
        spoiler = pp.make_trapezoid("z", area=4 / self.slice_thickness, system=limits, **gentle)
        for shot in shots:
            rf, *select = excitation
            sequence.add_block(rf, *select[:1])
            refocus = select[1:] if len(axes) == 2 else []
            sequence.add_block(
                *_trapezoids(pp, shot.prephase, axes, before, limits, gentle), *refocus
            )
            adc = pp.make_adc(
                samples, dwell=dwell, delay=shot.begin + _late(dwell) - dwell / 2, system=limits
            )
            waves = [
                pp.make_arbitrary_grad(
                    axis, shot.waveform[:, i], first=0.0, last=0.0, system=limits
                )
                for i, axis in enumerate(axes)
            ]
            # The ADC's dead time may end between two ticks of the raster.
            ticks = math.ceil(pp.calc_duration(adc, *waves) / system.raster - 1e-6)
            sequence.add_block(adc, *waves, pp.make_delay(ticks * system.raster))
            rewinders = _trapezoids(pp, -shot.end, axes, after, limits, gentle)
            sequence.add_block(*rewinders)
            sequence.add_block(spoiler)
            if self.repetition is not None:
                busy = sum(list(sequence.block_durations.values())[-5:])
                if busy > self.repetition:
                    raise ValueError(
                        f"a shot takes {busy:.4g} s, longer than TR {self.repetition:g}"
                    )
                rest = math.floor((self.repetition - busy) / system.raster) * system.raster
                sequence.add_block(pp.make_delay(rest))
        fine, complaints = sequence.check_timing()
        if not fine:
            raise ValueError(f"the sequence has timing errors: {complaints[:3]}")
        sequence.set_definition("Name", "labrecon")
        sequence.set_definition("Shots", len(nodes))
        sequence.set_definition("Dwell", dwell)
        return sequence

    def _excitation(self, pp: Any, limits: Any, ndim: int) -> tuple[Any, ...]:
        angle = math.radians(self.flip_angle)
        if ndim == 3:
            return (
                pp.make_block_pulse(
                    angle,
                    delay=limits.rf_dead_time,
                    duration=0.2e-3,
                    system=limits,
                    use="excitation",
                ),
            )
        made: tuple[Any, ...] = pp.make_sinc_pulse(
            angle,
            delay=limits.rf_dead_time,
            duration=2e-3,
            slice_thickness=self.slice_thickness,
            apodization=0.5,
            time_bw_product=4,
            return_gz=True,
            system=limits,
            use="excitation",
        )
        return made


class _Readout:
    """Gradients of one shot: from rest to the first gradient, along the nodes, and to rest.

    Attributes:
        waveform: in Hz/m at the middle of raster intervals (interval, axis).
        begin: time of the first sample after the start of the waveform.
        prephase: where k must be before the waveform, in cycles/m.
        end: where k is after it.
    """

    def __init__(self, nodes: Values, raster: float, max_slew: float) -> None:
        inner = np.diff(nodes, axis=0) / raster
        up = _ramp(inner[0], raster, max_slew)
        down = _ramp(inner[-1], raster, max_slew)[::-1]
        self.waveform = np.concatenate([up, inner, down])
        self.begin = len(up) * raster
        # Between the middles of intervals the scanner goes in straight lines, so that k is not
        # quite at the nodes; the prephaser takes out what is common to all of them.
        middle = (np.arange(len(self.waveform)) + 0.5) * raster
        last = len(self.waveform) * raster
        zero = np.zeros((1, nodes.shape[1]))
        points = np.concatenate([zero, self.waveform, zero])
        at_nodes = (len(up) + np.arange(len(nodes))) * raster
        area = _area(np.concatenate([[0], middle, [last]]), points, np.append(at_nodes, last))
        self.prephase = (nodes - area[:-1]).mean(0)
        self.end = self.prephase + area[-1]


def _area(times: Values, points: Values, until: Values) -> Values:
    """Integrals of a piecewise linear curve from its start to each of some times."""
    grid = np.union1d(times, until)
    values = np.stack([np.interp(grid, times, column) for column in points.T], -1)
    steps = 0.5 * (values[1:] + values[:-1]) * np.diff(grid)[:, None]
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(steps, 0)])
    return np.asarray(sums[np.searchsorted(grid, until)])


def _ramp(level: Values, raster: float, max_slew: float) -> Values:
    """From 0 to a level, at the middle of each interval."""
    count = max(1, math.ceil(float(np.abs(level).max()) / (max_slew * raster)))
    return (np.arange(count) + 0.5)[:, None] / count * level


def _longest(
    pp: Any, areas: list[Values], axes: tuple[str, ...], limits: Any, gentle: dict[str, float]
) -> float:
    """A duration in which every one of the areas can be played."""
    largest = max(float(np.abs(area).max()) for area in areas)
    made = pp.make_trapezoid(axes[0], area=max(largest, 1e-3), system=limits, **gentle)
    return float(pp.calc_duration(made))


def _trapezoids(
    pp: Any,
    area: Values,
    axes: tuple[str, ...],
    duration: float,
    limits: Any,
    gentle: dict[str, float],
) -> list[SimpleNamespace]:
    return [
        pp.make_trapezoid(axis, area=float(a), duration=duration, system=limits, **gentle)
        for axis, a in zip(axes, area, strict=True)
    ]


def _late(dwell: float) -> float:
    """Time from a node to the first sample, for which the ADC starts on a whole microsecond."""
    ticks = round(dwell / 2 / RASTER * 1e3) % 1000
    return ticks * RASTER * 1e-3


def _on_raster(trajectory: Tensor, dwell: float, system: GradientSystem) -> Values:
    """Positions at the ends of raster intervals, (shot, node, axis).

    Raises:
        ValueError: on the raster it breaks the limits.
    """
    shots = trajectory.numpy()
    if abs(dwell - system.raster) > 1e-9:
        from scipy.interpolate import CubicSpline

        late, span = _late(dwell), (shots.shape[1] - 1) * dwell
        count = math.ceil((span + late) / system.raster - 1e-6)
        nodes = np.arange(count + 1) * system.raster - late
        curve = CubicSpline(np.arange(shots.shape[1]) * dwell, shots, axis=1, bc_type="natural")
        inside = nodes.clip(0, span)
        # Straight on for the part of an interval before the first sample and after the last.
        shots = curve(inside) + (nodes - inside)[:, None] * curve(inside, 1)
    limits = GradientSlew(system.max_gradient, system.max_slew, dwell=system.raster)
    on_raster = torch.from_numpy(np.ascontiguousarray(shots))
    broken = limits.violations(on_raster)
    allowed = {"gradient": system.max_gradient, "slew": system.max_slew}
    if all(excess.amount <= ROUNDING * allowed[rule] for rule, excess in broken.items()):
        # A design in single precision is at its limits only to rounding.
        return np.ascontiguousarray(limits.project(on_raster).numpy())
    told = ", ".join(f"{name} by {excess}" for name, excess in broken.items())
    raise ValueError(
        f"the trajectory is beyond the limits of {system.title} on its raster of "
        f"{system.raster * 1e6:g} µs: {told}; project it first: GradientSlew.of(…).project"
    )


def read_pulseq_trajectory(path: Path, shots: int) -> Tensor:
    """Where the samples of a sequence are, as pypulseq integrates its gradients.

    Returns:
        (shot, sample, channel) in cycles/m, channels x, y, z.
    """
    import pypulseq as pp

    sequence = pp.Sequence()
    sequence.read(str(path))
    at_samples = sequence.calculate_kspace()[0]
    return torch.from_numpy(at_samples.T.copy()).reshape(shots, -1, 3)


export_pulseq = PulseqExporter()
