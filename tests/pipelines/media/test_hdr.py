"""Tone mapping keeps what a standard display can show, and the hue of what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.media.hdr import HLG, PQ, tone_map


def pq(nits: np.ndarray) -> np.ndarray:
    """Codes of light in cd/m2, as in SMPTE ST 2084, as full-range uint16."""
    power = (np.asarray(nits, float) / 10000) ** 0.1593017578125
    code = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return np.rint(code * 65535).astype(np.uint16)


def srgb(light: float) -> float:
    return 255 * (1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("light", [0.02, 0.1, 0.5, 0.75])
def test_light_below_the_knee_is_reproduced(light):
    pixels = np.full((1, 1, 3), pq(203 * light))
    assert tone_map(pixels, PQ)[0, 0] == pytest.approx([srgb(light)] * 3, abs=1)


def test_brighter_light_stays_brighter():
    nits = np.array([100, 150, 203, 300, 500, 1000])
    shown = tone_map(pq(nits).repeat(3).reshape(1, -1, 3), PQ)[0, :, 0].astype(int)
    assert (np.diff(shown) > 0).all()
    assert shown[-1] == 255


def test_colours_keep_their_hue():
    red = 203 * np.array([0.627404, 0.069097, 0.016391])  # red of BT.709 in linear BT.2020
    for brightness in (0.5, 1, 4):
        shown = tone_map(pq(brightness * red).reshape(1, 1, 3), PQ)[0, 0]
        assert shown[0] > 150
        assert shown[1:].max() <= 16
    plain = tone_map(pq(203 * np.array([0.5, 0.25, 0.0])).reshape(1, 1, 3), PQ, primaries=1)[0, 0]
    assert plain == pytest.approx([srgb(0.5), srgb(0.25), 0], abs=1)


def test_reference_white_of_hlg_is_that_of_pq():
    hlg = tone_map(np.full((1, 1, 3), round(0.75 * 65535), np.uint16), HLG)
    assert hlg[0, 0].astype(int) == pytest.approx(tone_map(np.full((1, 1, 3), pq(203)), PQ)[0, 0].astype(int), abs=2)
