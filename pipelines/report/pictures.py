"""Images embedded in the report, which is a single file."""

from __future__ import annotations

import base64
import io

import numpy as np

from pipelines.report.contact_sheet import strip

STRIP_HEIGHT = 90
"""Pixels; the page shows images at about this height, and larger ones would only make the file heavy."""


def strip_address(frames: np.ndarray) -> str:
    """Frames side by side, as a JPEG in a `data:` address.

    Args:
        frames: uint8 [N, H, W, 3].
    """
    file = io.BytesIO()
    strip(frames, height=STRIP_HEIGHT).save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
