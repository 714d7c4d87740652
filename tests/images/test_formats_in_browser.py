"""Structures in which readers differ, BMP masks to orientations: the pixels are those that a real browser shows."""

import numpy as np
import pytest

from semdis_cli.images.images import read_image
from tests import browser_formats
from tests.browser import needs_browser, shown_by_browser

# Chromium shows nothing of a BMP whose alpha is 0 throughout; elsewhere, and in its earlier versions, that is no alpha.
# It does not know palettes of 2 bits under the oldest header, and stretches an AVIF sequence as if of limited range.
_CHROMIUM_ERRS = ("no_alpha_set_", "pal2_os2.bmp", "sequence.avif")


@needs_browser
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bmps", "webps", "pngs", "avifs", "gifs_and_jpegs", "turned"])
def test_odd_structures_look_as_in_a_browser(kind: str) -> None:
    files = {
        name: data
        for name, data in getattr(browser_formats, kind)()
        if not name.startswith(_CHROMIUM_ERRS) or name.startswith("no_alpha_set_v1")
    }
    wrong = {}
    for name, shown in shown_by_browser(files).items():
        pixels = np.asarray(read_image(files[name]).pixels)
        if shown is None or pixels.shape != shown.shape or np.abs(pixels.astype(int) - shown).max() > 3:
            wrong[name] = None if shown is None else (shown.shape, pixels.shape, shown[3, 5], pixels[3, 5])
    assert not wrong
