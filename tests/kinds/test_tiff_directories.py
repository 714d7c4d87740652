"""Camera raws are known as such, however they lay out their TIFF and whatever they are called."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.images import read_image, read_image_size
from semdis_cli.kinds.tiff_directories import is_picture
from semdis_cli.sources.find import find_images
from tests.image_bytes import tiff, tiff_pages
from tests.odd_images.picture import COLOURS, PICTURE, SIZE

_RGB = {258: (8, 8, 8), 262: (2,)}
_SMALL = (12, 16)
_PREVIEW = (_SMALL, bytes(12 * 16 * 3), {**_RGB, 254: (1,)})
_UNFLAGGED = (_SMALL, bytes(12 * 16 * 3), _RGB)
_WHOLE = (SIZE, PICTURE.tobytes(), _RGB)


def _sensor(**tags: tuple[int, ...]) -> tuple[tuple[int, int], bytes, dict[int, tuple[int, ...]]]:
    named = {258: (16,), 262: (32803,), **{int(tag[1:]): value for tag, value in tags.items()}}
    return SIZE, bytes(2 * SIZE[0] * SIZE[1]), named


def _marked(mark: bytes) -> bytes:
    """A TIFF with a maker's mark behind its header."""
    data = tiff_pages([_WHOLE])
    return data[:8] + mark + data[8 + len(mark) :]


RAWS = {
    "dng": tiff_pages([(_SMALL, _PREVIEW[1], {**_PREVIEW[2], 50706: (1, 4, 0, 0)})], subs=[_sensor()]),
    "nef": tiff_pages([_PREVIEW], subs=[_PREVIEW, _sensor(t259=(34713,))], order=">"),
    "arw": tiff_pages([_PREVIEW, _PREVIEW], subs=[_sensor(t259=(32767,))]),
    "pef": tiff_pages([_sensor(t259=(65535,)), _PREVIEW], order=">"),
    "dcr": tiff_pages([_UNFLAGGED], subs=[_sensor(t259=(65000,), t262=(2,))]),
    "srw": tiff_pages([_UNFLAGGED, _sensor(t259=(32770,), t262=(1,))]),
    "3fr": tiff_pages([_UNFLAGGED], subs=[_sensor(t33422=(0, 1, 1, 2))]),
    "erf": tiff_pages([_UNFLAGGED, _UNFLAGGED], subs=[_sensor(t254=(0,))]),
    "linear.dng": tiff_pages([_PREVIEW], subs=[_sensor(t262=(34892,))]),
    "whole.dng": tiff_pages([_sensor(t50706=(1, 6, 0, 0), t262=(34892,))]),
    "old.dng": tiff_pages([(_SMALL, _PREVIEW[1], {**_RGB, 255: (2,)})], subs=[_sensor()]),
    "cr2": _marked(b"CR\2\0"),
    "iiq": _marked(b"IIII"),
    "big.dng": tiff(_SMALL, _PREVIEW[1], {**_RGB, 50706: (1, 7, 0, 0)}, is_big=True),
    "orf": b"IIRO\x08\0\0\0" + bytes(600),
    "rw2": b"IIU\0\x18\0\0\0" + bytes(600),
    "cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(600),
    "raf": b"FUJIFILMCCD-RAW 0201FF129502" + bytes(600),
    "x3f": b"FOVb\0\0\2\0" + bytes(600),
    "mrw": b"\0MRM\0\1\2\3" + bytes(600),
}


@pytest.mark.parametrize("name", RAWS)
def test_a_camera_raw_is_called_one_and_is_not_its_preview(name: str) -> None:
    for read in (read_image, read_image_size):
        with pytest.raises(UnreadableImageError, match=r"is a camera raw file, .*: develop it with"):
            read(RAWS[name])


def test_raws_in_folders_and_tars_are_passed_over_and_fail_under_the_names_of_images(tmp_path: Path) -> None:
    inside = tmp_path / "raws"
    inside.mkdir()
    for name, data in {**RAWS, "shot.tif": RAWS["dng"], "picture": tiff_pages([_WHOLE])}.items():
        (inside / (name if "." in name or name == "picture" else f"shot.{name}")).write_bytes(data)
    tar = tmp_path / "raws.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(inside, "")
    for source in (inside, tar):
        found = find_images([source])
        assert [image.key.removeprefix("raws/") for image in found.images] == ["picture", "shot.tif"]
        assert (found.failures, found.num_ignored) == ((), len(RAWS))


def test_a_scan_knows_pictures_from_previews() -> None:
    assert is_picture(io.BytesIO(tiff_pages([_PREVIEW, _WHOLE])))
    assert not is_picture(io.BytesIO(tiff_pages([_PREVIEW])))
    assert not is_picture(io.BytesIO(RAWS["nef"]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_film_scan_below_its_preview_is_read_at_its_full_depth(order: str) -> None:
    deep = (PICTURE.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
    data = tiff_pages([_PREVIEW], subs=[(SIZE, deep, {258: (16,) * 3, 262: (2,)})], order=order)
    read = read_image(data)
    assert read.size == read_image_size(data) == SIZE
    assert read.pixels.getpixel((24, 16)) == COLOURS[0]


def test_pages_that_lead_back_to_each_other_end() -> None:
    data = bytearray(tiff_pages([_PREVIEW, _WHOLE, _PREVIEW]))
    last = data.rindex((254).to_bytes(2, "little") + b"\4\0\1\0\0\0") - 2
    num_tags = int.from_bytes(data[last : last + 2], "little")
    at = last + 2 + 12 * num_tags
    data[at : at + 4] = data[4:8]
    assert read_image_size(bytes(data)) == SIZE


def test_planes_are_turned_as_their_tag_says() -> None:
    planes = [(PICTURE[:, :, at].astype("<u2") * 257).tobytes() for at in range(3)]
    data = tiff(SIZE, planes, {258: (16,) * 3, 262: (2,), 284: (2,), 274: (6,)})
    read = read_image(data)
    assert read.size == read_image_size(data) == SIZE[::-1]
    assert read.pixels.getpixel((16, 24)) == COLOURS[2]  # the bottom left comes to the top left
