"""Detections as numbers: those of the report's table."""

from types import SimpleNamespace

import torch

from labrecon import Scan
from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.detection import detections
from labrecon_coronagraph.instrument import CoronagraphInstrument
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.report_section import findings_around_the_star
from labrecon_coronagraph.sky import offset
from labrecon_coronagraph.steps.speckles import speckles
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument


def data(scan: Scan) -> SimpleNamespace:
    return SimpleNamespace(scan=scan)


def test_a_planet_is_a_finding() -> None:
    instrument = CoronagraphInstrument()
    geometry = instrument.example()
    generator = torch.Generator().manual_seed(0)
    operator = instrument.operator(geometry)
    y, x = offset(15.0, 200.0)
    sky = torch.zeros(operator.domain.shape)
    sky[round(25 + y), round(25 + x)] = 100.0
    noise = torch.randn(operator.range.shape, generator=generator)
    prepared = speckles(Scan(operator(sky) + 3 * noise, geometry), modes=0)
    told = findings_around_the_star(data(prepared))
    flux, sigma = matched_filter(prepared)
    width = full_width(geometry.psf.tensor(torch.float64))
    listed = detections(flux / sigma.clamp_min(1e-30), width, geometry.pixel_scale, summed=False)
    assert told["detections"] == len(listed) >= 1
    assert told["best separation (arcsec)"] == round(listed[0].separation, 4)
    assert told["best position angle (°)"] == round(listed[0].position_angle, 2)
    assert told["best S/N"] == round(listed[0].snr, 2)
    assert any(abs(one.separation - 14.87 * 27.19 / 1000) < 0.02 for one in listed)
    empty = speckles(Scan(3 * noise, geometry), modes=0)
    assert findings_around_the_star(data(empty)) == {"detections": 0}


def test_nothing_for_others_and_before_speckles() -> None:
    instrument, wavefront = CoronagraphInstrument(), WavefrontInstrument()
    frames = Scan(torch.zeros(20, 51, 51), instrument.example())
    assert findings_around_the_star(data(frames)) == {}
    assert findings_around_the_star(data(Scan(torch.zeros(1), wavefront.example()))) == {}
