"""Times and parallactic angles of SPHERE frames, against astropy's own horizon coordinates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK5, AltAz, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers

from labrecon.instrument import ReaderError
from labrecon_coronagraph.parallactic import of_date, parallactic_angles
from labrecon_coronagraph.readers.fits_cube import FitsCubeReader
from labrecon_coronagraph.readers.sphere_header import frame_times, sky_angles

PARANAL = (-24.62743941, -70.40498688)


def header(**changes: Any) -> dict[str, Any]:
    return {
        "INSTRUME": "SPHERE",
        "DATE-OBS": "2017-02-07T02:10:00.5",
        "ESO DET FRAM UTC": "2017-02-07T03:10:00.5",
        "ESO DET NDIT": 30,
        "ESO DET SEQ1 DIT": 96.0,
        "ESO DET DITDELAY": 0.2,
        "ESO INS4 DROT2 MODE": "ELEV",
        "ESO INS4 DROT2 RA": 54717.08,  # beta Pictoris
        "ESO INS4 DROT2 DEC": -510359.4,
        "ESO SEQ ARM": "IRDIS",
        **changes,
    }


def by_astropy(ra: float, dec: float, times: Any) -> Any:
    """Direction of the pole of date at the star, from the vertical: from AltAz alone."""
    site = EarthLocation(lat=PARANAL[0] * u.deg, lon=PARANAL[1] * u.deg, height=2635 * u.m)
    found = []
    with iers.conf.set_temp("auto_download", False):
        for time in times:
            star = SkyCoord(ra * u.deg, dec * u.deg).transform_to(FK5(equinox=time))
            north = SkyCoord(star.ra, star.dec + 20 * u.arcsec, frame=FK5(equinox=time))
            seen = AltAz(obstime=time, location=site)
            a, b = star.transform_to(seen), north.transform_to(seen)
            # Azimuth grows to the right of up, right ascension to the left: from the zenith to the
            # pole one way is from the pole to the zenith the other way.
            found.append(a.position_angle(b).wrap_at(180 * u.deg).deg)
    return np.array(found)


@pytest.mark.parametrize(
    ("ra", "dec"), [(86.8212, -51.0665), (69.4, -2.5), (101.3, -16.7), (40.0, -75.0), (86.0, 20.0)]
)
def test_parallactic_angles(ra: float, dec: float) -> None:
    times = Time("2017-02-07T01:00:00", scale="utc") + np.linspace(0, 3, 7) * u.hour
    ours = parallactic_angles(times.jd, ra, dec, *PARANAL)
    expected = by_astropy(ra, dec, times)
    away = (ours - expected + 180) % 360 - 180
    assert np.abs(away).max() < 0.1


def test_precession() -> None:
    """Meeus, Astronomical Algorithms, example 21.b: theta Persei."""
    ra, dec = of_date(2462088.69, 41.054063, 49.227750)
    assert (ra, dec) == pytest.approx((41.547214, 49.348483), abs=3e-5)


def test_times_are_those_of_the_middle_of_frames() -> None:
    times = Time(frame_times(header(), 30), format="jd").isot
    assert times[0] == "2017-02-07T02:10:48.700"
    assert times[-1] == "2017-02-07T03:08:48.700"


def test_angles_of_the_sky_and_what_the_telescope_recorded() -> None:
    times = frame_times(header(), 30)
    expected = by_astropy(86.82117, -51.06650, Time(times, format="jd"))
    recorded = {"ESO TEL PARANG START": expected[0], "ESO TEL PARANG END": expected[-1]}
    angles, told = sky_angles(header(**recorded), times)
    away = (angles - 135.99 + 1.75 - expected + 180) % 360 - 180
    assert np.abs(away).max() < 0.1
    assert "134.24" in told["offset of the angles"]
    ifs, _ = sky_angles(header(**{**recorded, "ESO SEQ ARM": "IFS"}), times)
    np.testing.assert_allclose(ifs, angles - 100.48)
    with pytest.raises(ReaderError, match="TEL PARANG START"):
        sky_angles(header(**{"ESO TEL PARANG START": expected[0] + 9}), times)


def test_before_july_2016_the_derotator_was_not_synchronised() -> None:
    old = header(**{
        "DATE-OBS": "2015-02-07T02:10:00", "ESO DET FRAM UTC": "2015-02-07T03:10:00",
        "ESO TEL ALT": 62.0, "ESO INS4 DROT2 BEGIN": -59.2,
    })  # fmt: skip
    times = frame_times(old, 30)
    angles, told = sky_angles(old, times)
    plain = parallactic_angles(times, 86.82117, -51.0665, *PARANAL) + 135.99 - 1.75
    # tan has a period of 180 degrees: 62 + 118.4 = 180.4.
    np.testing.assert_allclose(angles, plain + 0.4, atol=1e-3)
    assert "0.400" in told["derotator"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ESO INS4 DROT2 MODE": "SKY"}, "pupil tracking"),
        ({"ESO DET NDIT": 29}, "29 for a cube of 30"),
        ({"ESO DET FRAM UTC": "2017-02-07T02:00:00"}, "before DATE-OBS"),
        ({"DATE-OBS": "yesterday"}, "expected a time"),
        ({"ESO INS4 DROT2 RA": 547170.8e3}, "expected hhmmss"),
        ({"ESO INS4 DROT2 DEC": -519959.4}, "expected ddmmss"),
        ({"ESO SEQ ARM": "ZIMPOL"}, "IRDIS or IFS"),
    ],
)
def test_headers_that_can_not_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        sky_angles(header(**changes), frame_times(header(**changes), 30))


@pytest.mark.parametrize("key", ["DATE-OBS", "ESO DET FRAM UTC", "ESO DET SEQ1 DIT",
                                 "ESO INS4 DROT2 RA"])  # fmt: skip
def test_what_is_missing_is_named(key: str) -> None:
    known = header()
    del known[key]
    with pytest.raises(ReaderError, match=key):
        sky_angles(known, frame_times(known, 30))


def test_a_cube_with_its_header(tmp_path: Path) -> None:
    y, x = np.mgrid[:15, :15] - 7
    psf = np.exp(-(y**2 + x**2) / 8.0)
    primary = fits.PrimaryHDU(np.random.default_rng(0).normal(size=(30, 24, 24)))
    for key, value in {**header(), "ESO INS COMB IFLT": "DB_H23"}.items():
        primary.header[f"HIERARCH {key}" if key.startswith("ESO") else key] = value
    path = tmp_path / "sphere.fits"
    fits.HDUList([primary, fits.ImageHDU(psf, name="PSF")]).writeto(path)
    scan = FitsCubeReader().read(path)
    expected, _ = sky_angles(header(), frame_times(header(), 30))
    np.testing.assert_allclose(scan.geometry.angles, expected)  # type: ignore[attr-defined]
    assert scan.geometry.wavelength == 1.593  # type: ignore[attr-defined]
    assert scan.geometry.pixel_scale == 12.25  # type: ignore[attr-defined]
    # 96 s of the hour in which it turns so far, evenly enough.
    turned = (expected[-1] - expected[0]) / 29 / 120 * 96
    assert scan.geometry.exposure == 96.0  # type: ignore[attr-defined]
    assert scan.geometry.smear == pytest.approx(turned, rel=0.05)  # type: ignore[attr-defined]
    raw = tmp_path / "raw.fits"
    fits.HDUList([
        fits.PrimaryHDU(np.zeros((30, 8, 16)), primary.header), fits.ImageHDU(psf, name="PSF"),
    ]).writeto(raw)  # fmt: skip
    with pytest.raises(ReaderError, match="both fields of IRDIS"):
        FitsCubeReader().read(raw)
