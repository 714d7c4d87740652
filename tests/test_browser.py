"""The harness that asks a browser gives known pixels of known files."""

import numpy as np
import pytest

from tests.browser import needs_browser, shown_by_browser
from tests.odd_images.picture import ALPHA, PICTURE, jpeg, saved

pytestmark = [pytest.mark.browser, needs_browser]


def test_a_browser_shows_plain_files_as_they_are_and_nothing_where_there_is_no_image() -> None:
    see_through = np.concatenate([PICTURE, ALPHA], axis=2)
    files = {"a": saved(PICTURE, "PNG"), "b": b"no image", "c": saved(see_through, "PNG"), "d": jpeg()}
    shown = shown_by_browser(files)
    assert list(shown) == list(files)
    assert shown["b"] is None
    for name, right, tolerance in (
        ("a", PICTURE, 0),
        ("c", PICTURE * (ALPHA / 255) + 255 - ALPHA, 1),
        ("d", PICTURE, 4),
    ):
        pixels = shown[name]
        assert pixels is not None
        assert np.abs(pixels.astype(float) - right).max() <= tolerance, name
    black = shown_by_browser({"c": files["c"]}, "black")["c"]
    assert black is not None
    assert not black[:32, 48:].any()
