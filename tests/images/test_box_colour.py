"""AVIF: colour by code points, in its boxes, its tracks and its stream."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from semdis_cli.images.formats.avif.av1 import sequence_colour
from semdis_cli.images.formats.avif.box_colour import BoxColour, box_colour
from semdis_cli.images.images import read_image
from tests.avif_bytes import avif, box, icc, light_level, mastering_display, nclx
from tests.image_profiles import SWAPPED, rgb_profile

_PICTURE = np.array([[(200, 100, 50), (128, 128, 128)]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)
# avifenc 0.11.1's, of (200, 100, 50) above (120, 200, 120), 12/13/6; its colr box is renamed: the stream alone says it.
_IN_STREAM_ALONE = """
AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADybWV0YQAAAAAAAAAoaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAGxpYmF2aWYAAAAADnBp
dG0AAAAAAAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAABGgAAADgAAAAoaWluZgAAAAAAAQAAABppbmZlAgAAAAABAABhdjAxQ29sb3IAAAAAamlwcnAAAABL
aXBjbwAAABRpc3BlAAAAAAAAAAgAAAAIAAAAEHBpeGkAAAAAAwgICAAAAAxhdjFDgSAAAAAAABNmcmVlbmNseAAMAA0ABoAAAAAXaXBtYQAAAAAAAAABAAEE
AQKDBAAAAEBtZGF0EgAKCDgIv+UMDQaQMioQAAD9YyK0LN/Pg9hxbehMGO6dBzHqbaKce2JGRS5YDhGZK1/CwNiIm8I=
"""


# (200, 100, 50) and (128, 128, 128) as Chromium 156 shows them.
@pytest.mark.parametrize(
    ("properties", "colour", "grey"),
    [
        ([nclx(1, 13)], (200, 100, 50), 128),
        ([nclx(12, 13)], (215, 93, 31), 128),
        ([nclx(9, 1)], (241, 76, 29), 128),
        ([nclx(12, 2)], (215, 93, 31), 128),
        ([nclx(2, 2)], (200, 100, 50), 128),
        ([nclx(2, 8)], (229, 168, 122), 188),
        ([nclx(3, 13)], (200, 100, 50), 128),
        ([nclx(1, 4)], (201, 100, 46), 129),
        ([box(b"colr", b"zzzz"), nclx(12, 13)], (215, 93, 31), 128),
        ([nclx(9, 16)], (255, 0, 0), 132),
        ([nclx(9, 16), light_level(100)], (255, 0, 0), 181),
        ([nclx(9, 16), mastering_display(4000)], (255, 0, 0), 132),
        ([nclx(9, 18)], (230, 48, 17), 99),
        ([nclx(12, 13), icc(rgb_profile(SWAPPED, 2.2))], (99, 201, 45), 129),
        ([], (200, 100, 50), 128),
    ],
)
def test_code_points_are_followed(properties: list[bytes], colour: tuple[int, ...], grey: int) -> None:
    read = read_image(avif(_PICTURE, properties))
    shown = np.asarray(read.pixels)[8, 8::16].astype(int)
    assert np.abs(shown[0] - colour).max() <= 2
    assert np.abs(shown[1] - grey).max() <= 1
    is_high = properties and properties[0] in {nclx(9, 16), nclx(9, 18)}
    assert [note.split("(")[0] for note in read.notes] == (["high dynamic range "] if is_high else [])


def test_a_transfer_function_that_no_browser_shows_leaves_a_note() -> None:
    read = read_image(avif(_PICTURE, [nclx(1, 9)]))
    assert read.notes == ("transfer characteristics 9: shown as sRGB",)
    assert np.abs(np.asarray(read.pixels).astype(int) - _PICTURE).max() <= 2


def test_the_stream_says_what_the_boxes_do_not() -> None:
    data = base64.b64decode(_IN_STREAM_ALONE)
    assert box_colour(data) == BoxColour(code_points=(12, 13))
    assert read_image(data).pixels.getpixel((4, 0)) == (215, 93, 31)
    # An unspecified box is a word of its own.
    assert box_colour(data.replace(b"freenclx\0\x0c\0\x0d", b"colrnclx\0\2\0\2")) == BoxColour(code_points=(2, 2))


def test_of_a_sequence_the_track_counts() -> None:
    file = io.BytesIO()
    first, second = Image.fromarray(_PICTURE), Image.new("RGB", (32, 16))
    first.save(file, "AVIF", save_all=True, append_images=[second], quality=100, subsampling="4:4:4")
    data = file.getvalue()
    at = data.rindex(b"colrnclx") + 8
    assert read_image(data).pixels.getpixel((8, 8)) == pytest.approx((200, 100, 50), abs=2)
    wide = data[:at] + b"\0\x0c" + data[at + 2 :]
    assert read_image(wide).pixels.getpixel((8, 8)) == pytest.approx((215, 93, 31), abs=3)


def test_files_cut_off_or_changed_anywhere_say_nothing_or_something_but_raise_nothing() -> None:
    whole = avif(_PICTURE, [nclx(9, 16), light_level(100), icc(rgb_profile(SWAPPED, 2.2))])
    stream_alone = base64.b64decode(_IN_STREAM_ALONE)
    rng = np.random.default_rng(0)
    for data in (whole, stream_alone):
        for end in range(len(data)):
            box_colour(data[:end])
        for _ in range(2000):
            changed = bytearray(data[:700])
            changed[rng.integers(8, len(changed))] = rng.integers(0, 256)
            box_colour(bytes(changed))
    for length in range(40):
        sequence_colour(b"\x0a" + bytes(rng.integers(0, 256, length, dtype=np.uint8)))
