"""Pixels as a browser shows them: every format, structure, mode and way to say colours, against the browser itself."""

import numpy as np
import pytest

from semdis_cli.images.images import read_image
from semdis_cli.settings import ReadSettings
from tests import browser_formats
from tests.browser import needs_browser, shown_by_browser
from tests.odd_images import odd_files, odd_shapes
from tests.shown_files import EXCEPTIONS, ODD_EXCEPTIONS, shown_files

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_browser]

# Chromium shows nothing of a BMP whose alpha is 0 throughout; elsewhere, and in its earlier versions, that is no alpha.
# It does not know palettes of 2 bits under the oldest header, and stretches an AVIF sequence as if of limited range.
CHROMIUM_ERRS = ("no_alpha_set_", "pal2_os2.bmp", "sequence.avif")
TOLERANCE = 3
STRAY = 0.002  # of pixels: light that all but cancels out, in floats of fewer bits
STRAY_OF_PQ = 0.02  # it is the difference of large numbers


def test_every_kind_of_file_is_read_as_a_browser_shows_it() -> None:
    files = dict(shown_files())
    assert files.keys() >= EXCEPTIONS.keys()
    shown = shown_by_browser(files)
    wrong = {
        name: _difference(data, shown[name], STRAY_OF_PQ if "16" in name or "PQ" in name else STRAY)
        for name, data in files.items()
    }
    assert {name: why for name, why in wrong.items() if why and name not in EXCEPTIONS} == {}


def test_odd_images_are_read_as_a_browser_shows_them() -> None:
    odd = [(odd, data) for odd, data in (*odd_files(), *odd_shapes()) if odd.is_readable]
    files = {odd.key: data for odd, data in odd if not odd.key.endswith((".tif", ".tiff"))}
    shown = shown_by_browser(files)
    wrong = {key: _difference(data, shown[key]) for key, data in files.items()}
    assert {key: why for key, why in wrong.items() if why and key not in ODD_EXCEPTIONS} == {}


@pytest.mark.parametrize("kind", ["bmps", "webps", "pngs", "avifs", "gifs_and_jpegs", "turned"])
def test_odd_structures_look_as_in_a_browser(kind: str) -> None:
    files = {
        name: data
        for name, data in getattr(browser_formats, kind)()
        if not name.startswith(CHROMIUM_ERRS) or name.startswith("no_alpha_set_v1")
    }
    shown = shown_by_browser(files)
    wrong = {name: _difference(data, shown[name], stray=0) for name, data in files.items()}
    assert {name: why for name, why in wrong.items() if why} == {}


def _difference(data: bytes, shown: np.ndarray | None, stray: float = STRAY) -> str:
    """Return how our pixels differ from a browser's; empty if they do not."""
    if shown is None:
        return "not shown"
    ours = np.asarray(read_image(data, ReadSettings()).pixels)
    if ours.shape != shown.shape:
        return f"{ours.shape} for {shown.shape}"
    off = np.abs(ours.astype(int) - shown).max(axis=2)
    return "" if (off > TOLERANCE).mean() <= stray else f"{(off > TOLERANCE).mean():.1%} of pixels, up to {off.max()}"
