"""Files that are no image of a kind that can be read are called by their name, with what to do about them."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from semdis_cli.kinds.formats import image_format
from semdis_cli.kinds.recognise import describe, unreadable_reason

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def _ftyp(major: bytes, *others: bytes) -> bytes:
    return (16 + 4 * len(others)).to_bytes(4) + b"ftyp" + major + bytes(4) + b"".join(others) + bytes(64)


def _item(kind: bytes) -> bytes:
    return b"\0\0\0\x15infe\2\0\0\0\0\1\0\0" + kind + b"\0"


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"content")
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


_KINDS = [
    *((_ftyp(major, *others), "a HEIC picture") for major, others in (
        (b"heic", (b"mif1", b"heic")), (b"heix", ()), (b"hevc", ()), (b"hevx", ()), (b"heim", ()), (b"heis", ()),
        (b"mif1", (b"mif1", b"heic")), (b"msf1", (b"msf1", b"hevc")), (b"mif1", (b"miaf", b"MiHB", b"heix")),
    )),
    (_ftyp(b"mif1", b"miaf") + _item(b"hvc1"), "a HEIC picture"),
    (_ftyp(b"mif1", b"miaf") + _item(b"jpeg"), "a HEIF picture of a rare kind"),
    (_ftyp(b"crx ", b"crx ", b"isom"), "a camera raw file"),
    (_ftyp(b"isom", b"mp41"), "a video"),
    (b"FUJIFILMCCD-RAW 0201FF129502", "a camera raw file"),
    (b"FOVb\0\0\2\0", "a camera raw file"),
    (b"\0MRM\0\1\2\3", "a camera raw file"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera raw file"),
    (b"IIRO\x08\0\0\0", "a camera raw file"),
    (b"IIU\0\x18\0\0\0", "a camera raw file"),
    (b"\xff\x0a\xfa\x1f\x41", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "a JPEG XL picture"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'>", "an SVG drawing"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg >", "an SVG drawing"),
    (b"8BPS\0\1", "a Photoshop document"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript or EPS drawing"),
    (b"\0\0\0\x0cjP  \r\n\x87\n\0\0", "a JPEG 2000 picture"),
    (b"\xff\xd8\xff\xf7\0\x0b\x08", "a JPEG-LS picture"),
    (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 picture"),
    (b"v/1\1\2\0\0\0", "an OpenEXR picture"),
    (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "a Radiance HDR picture"),
    (b"P6\n4 4\n255\n", "a Netpbm picture"),
    (_zip("a.jpg"), "a zip archive"),
    (_zip("archive/data.pkl"), "a Python pickle or PyTorch checkpoint"),
    (_zip("arr_0.npy"), "a NumPy array"),
    (gzip.compress(b"text"), "a gzip-compressed file"),
    (bytes(257) + b"ustar\0" + b"00", "a tar archive"),
    (b"PAR1\x15\4", "a Parquet file"),
    (safetensors.numpy.save({"a": np.zeros(2, np.float32)}), "a safetensors file"),
    (_npy(), "a NumPy array"),
    (b"\x80\x02}q\0.", "a Python pickle or PyTorch checkpoint"),
    (_POINTER, "a Git LFS pointer"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
    (b"\n  <html lang='en'>", "an HTML page"),
    (b'{"error": "not found"}', "JSON text"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML text"),
    ("Straße nach Süden, jpg".encode(), "plain text"),
    ("a.jpg\r\nb.jpg\r\n".encode("utf-16"), "plain text"),
    (b"", "an empty file"),
    (bytes(4096), "a file that begins with nothing but zeros"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "name"), _KINDS, ids=[f"{name}-{at}" for at, (_, name) in enumerate(_KINDS)])
def test_a_file_that_is_no_image_is_called_by_its_name(start: bytes, name: str) -> None:
    found = describe(start)
    assert image_format(start) is None
    assert found is not None
    assert found.name == name
    assert "\n" not in found.advice
    assert found.advice[-1] != "."
    assert unreadable_reason(start) == ("empty file" if not start else found.reason)


@pytest.mark.parametrize(
    "start",
    [
        _ftyp(b"avif", b"mif1"), _ftyp(b"avis", b"msf1", b"avif"), _ftyp(b"MA1B", b"avif"), _ftyp(b"MA1A", b"miaf"),
        _ftyp(b"mif1", b"miaf", b"avif"), _ftyp(b"mif1", *([b"free"] * 40), b"avif"),
        _ftyp(b"mif1", b"miaf") + _item(b"av01"),
    ],
)  # fmt: skip
def test_avif_is_known_by_any_of_its_brands_or_by_its_first_item(start: bytes) -> None:
    assert image_format(start) == "AVIF"


def test_what_nothing_is_known_of_has_no_name() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
    assert describe(noise) is None
    assert unreadable_reason(noise) == "not an image in a known format"
