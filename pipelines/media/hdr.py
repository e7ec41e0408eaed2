"""High dynamic range to standard range: PQ and HLG pictures become what a standard display shows.

Colours are converted to light, from BT.2020 to BT.709 primaries, compressed where they are brighter than a standard
display, and coded for one. White of standard content stays white: BT.2408 places it at 203 cd/m2.
"""

from __future__ import annotations

import functools

import numpy as np

PQ, HLG = 16, 18
"""Codes of the transfer characteristics in ITU-T H.273."""
TRANSFERS = (PQ, HLG)
BT2020_PRIMARIES = 9
LEVELS = 1 << 16

WHITE = 203.0
"""cd/m2 of white in standard content (BT.2408)."""
PEAK = 1000.0
"""cd/m2 that become the brightest output: the peak for which HLG is defined and most PQ content is mastered."""
KNEE = 0.75
"""Share of white below which brightness stays as it is."""

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear RGB (BT.2087)."""
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Luminance of linear BT.2020 RGB."""


def tone_map(coded: np.ndarray, transfer: int, primaries: int = BT2020_PRIMARIES) -> np.ndarray:
    """Converts full-range RGB [H, W, 3] uint16, coded as PQ or HLG, to sRGB [H, W, 3] uint8.

    Args:
        coded: pixels.
        transfer: PQ or HLG.
        primaries: code of the primaries in ITU-T H.273; all but BT.2020 are taken as BT.709.
    """
    light = _light_of_codes(transfer)[coded]  # [H, W, 3], 1 for white of standard content
    if transfer == HLG:
        # The system gamma of HLG, for a display of 1000 cd/m2: it acts on luminance, so that hues stay.
        luminance = (light @ LUMINANCE)[..., None] * (WHITE / PEAK)
        light = light * np.maximum(luminance, 1e-6) ** np.float32(0.2)
    if primaries == BT2020_PRIMARIES:
        light = light @ BT2020_TO_BT709.T
    light = np.maximum(light, 0)
    # By the brightest channel and with one factor for all three: hues stay, and no channel is clipped.
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light *= _compressed(brightest) / brightest
    return _codes_of_light()[(light.clip(0, 1) * (LEVELS - 1)).astype(np.uint16)]


def _compressed(light: np.ndarray) -> np.ndarray:
    """Mobius curve: the identity up to the knee, then a smooth curve through (peak, 1)."""
    peak = PEAK / WHITE
    shift = -KNEE * KNEE * (peak - 1) / (KNEE * KNEE - 2 * KNEE + peak)
    pole = (KNEE * KNEE - 2 * KNEE * peak + peak) / (peak - 1)
    scale = (pole * pole + 2 * pole * KNEE + KNEE * KNEE) / (pole - shift)
    return np.where(light <= KNEE, light, scale * (light + shift) / (light + pole))


@functools.cache
def _light_of_codes(transfer: int) -> np.ndarray:
    """Light of each code: for PQ as displayed, for HLG as recorded, scaled to the display's peak; 1 is white."""
    code = np.arange(LEVELS) / (LEVELS - 1)
    if transfer == PQ:  # SMPTE ST 2084
        power = code ** (1 / 78.84375)
        light = 10000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    else:  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = PEAK * np.where(code <= 0.5, code * code / 3, (np.exp((code - c) / a) + b) / 12)
    return (light / WHITE).astype(np.float32)


@functools.cache
def _codes_of_light() -> np.ndarray:
    """sRGB code of light in steps of 1 / 65535."""
    light = np.arange(LEVELS) / (LEVELS - 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * code).astype(np.uint8)
