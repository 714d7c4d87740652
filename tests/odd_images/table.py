"""The corpus as a table to read: every file, what it is, and what becomes of it."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.odd_images import SECTIONS, SHAPE_SECTIONS
from tests.odd_images.changing import CHANGES
from tests.odd_images.picture import OddImage
from tests.odd_images.places import build_in_folder, build_named

_HEAD = """# What becomes of odd image files

`python -m tests.odd_images` writes this page from the files that the tests build, and a test holds the two against each
other. [`tests/cli/test_odd_images.py`](../tests/cli/test_odd_images.py) runs `semdis encode` and `semdis decode` over
all of them and checks each outcome.

* **encoded**: at the upright size given, and in the right colours. Both follow from the format, not from our reader.
* **encoded, with a note**: the same, and the `notes` of its row in `index.jsonl` say what could not be used.
* **failed**: its row in `index.jsonl` has the reason, of which a part is given here. The run goes on, and ends with 3.
* **passed over**: not among the inputs; the run says how many such files there were.

What no reader can tell: a JPEG has no checksums, so damage within its pixels that leaves its end in place gives a wrong
picture; so does a progressive one that lacks its finer scans, and an arithmetic-coded one whose header claims too much.
Where a header claims fewer rows than there are, it is believed.

## Which picture of a file

Of an animation it is the first frame, laid over the background where it is smaller than the whole; of an animated PNG
the first frame of the animation, which need not be the picture that readers without animation show. A damaged animation
counts as none.

Of a TIFF it is the first page. If that is a reduced version or a mask (by tag 254 or 255), it is the first whole
picture behind it, sub-directories before pages; a sub-directory that is whole and larger counts before its page. A file
of reduced versions alone fails. Camera raws begin with a preview: they are known by their directories (colour filters,
linear raw, DNG's version, makers' compressions and marks) or first bytes, are passed over in folders, and fail where
they are named or called `.tif`: a raw converter makes pictures of them.

TIFF samples are unsigned; signed ones, those of 32 bits and floats have no defined black and white, and fail.

## Which way up

A picture is turned where Chromium 156 turns it: by EXIF's orientation in a JPEG (the first block counts) and in a PNG
before its pixels, if it is a SHORT as EXIF says; by the container in an AVIF; by its own tag in a TIFF, which browsers
do not show. It is not turned by EXIF in a WebP or AVIF, in a PNG behind the pixels or under a JPEG's prefix, as a BYTE
or LONG, nor by XMP. In WebP and PNG, and for a BYTE or LONG, an orientation other than 1 leaves a note in the index.

Libraries differ: of WebP, a late PNG block and a LONG, Pillow 13 and OpenCV 5 turn all three, libvips 8.18 all but the
PNG. Cameras write the forms that are honoured here. The others mostly come from converters, many of which turn the
pixels and copy the EXIF block as it was; whoever looked at the result did so in a browser. To have such files turned by
their tag, turn them first (`mogrify -auto-orient`, or Pillow's `ImageOps.exif_transpose`).

## Colours

Colours are those that Chromium 156 shows, measured on hundreds of files of every format and mode
([`tests/shown_files.py`](../tests/shown_files.py)); `make test-slow` asks it again where it is installed.

* In a PNG, cICP beats iCCP, which beats sRGB, which beats gAMA with cHRM. gAMA alone counts where it is more than 5 %
  from 1/2.2, cHRM alone never; both together are taken at their word, as in what ImageMagick 6 writes.
* A PNG's chunk about colour whose checksum is wrong leaves the word to the next, and a note. Its palette goes on with
  its last colour; transparency that is too short, stands before the palette or behind the pixels is none.
* In an AVIF a profile beats code points; where the boxes have neither, the AV1 stream may say it. What is unspecified
  or reserved is sRGB's. A profile's own code points (`cicp`) beat its curves.
* PQ and HLG are tone-mapped by the curve of SMPTE ST 2094-50 for a screen without headroom, up to the brightest light
  that the file names (cLLI or mDCV, clli), or 1,000 cd/m2, and leave a note. Single pixels whose light all but
  cancels out differ by more than 3 levels, up to 2 % of a picture of pure colours.
* A CMYK picture gets its black mixed into the other inks before its profile is asked, without compensation for the
  black point: that is not what a press does, but what a browser does (a TIFF is as the press prints it). It takes a
  quarter of a second a megapixel.
* A grey picture may have a profile for RGB. Any other profile for another kind of picture is ignored, with a note.
* JPEG XL needs the extra `jxl`. A JPEG packed into it is read as that JPEG.

A set begun before these rules, when profiles alone counted, keeps the latents that it has. Its record does not name
the change: nearly all images keep their pixels, and the set could not grow any more. Encode such images into a new
folder to have them anew. An image of one patch alone, at most 16 x 16 px, is encoded from the right pixels, but the
bundled model gives it back in other colours.

## Where browsers are not followed

Chromium 156 shows some pictures otherwise:

* AVIF: it stretches an alpha plane, and a sequence, as if of limited range (here: the range that they state); colours
  of 12 bits in 4:2:0 are off there; of 10 and 12 bits that are linear, of high range, or outside of sRGB's primaries,
  we have 8 bits (single pixels differ, by up to 20 levels; in PQ, in a picture of pure colours, a quarter, by up to
  70).
* WebP: it ignores the profile of an animated one (here: applied, as in a still one).
* JPEG XL: lossy ones of wide gamut or high range differ by up to 2 levels in the mean; a JPEG of 4:2:0 that was packed
  into one differs in single pixels, by up to 21 levels.
* BMP: it shows nothing of one with an alpha mask whose alpha is 0 in every pixel (here: opaque).
* PNG: it shows nothing of an animated one whose animation is damaged (here: its picture), and black for a cHRM whose
  white has no luminance (here: as if that were not there, with a note).
* Profiles by table with XYZ between, and by L* curves, differ by up to 6 levels.
* It refuses some pictures for their colours: an AVIF with a broken profile or logarithmic values, a PNG with a matrix
  in cICP (here: as if they did not say them, with a note).
"""


def build_table() -> str:
    """The page, in Markdown."""
    return _HEAD + "\n".join(_lines())


def _lines() -> Iterator[str]:
    num_files = 0
    for title, files in _sections():
        yield f"\n## {title}\n\n| File | What it is | Outcome |\n|---|---|---|"
        for odd in files:
            num_files += 1
            yield f"| `{_shown(odd.key)}` | {odd.what} | {_outcome(odd)} |"
    yield f"\n{num_files} files in all.\n"


def _sections() -> Iterator[tuple[str, Iterable[OddImage]]]:
    for title, files in (SECTIONS | SHAPE_SECTIONS).items():
        yield title, [odd for odd, _ in files()]
    with tempfile.TemporaryDirectory() as folder:
        yield "In a folder that is searched", build_in_folder(Path(folder))
        yield "Named outright", build_named(Path(folder) / "named")
    yield "Changed after the run was planned", [odd for odd, _ in CHANGES]


def _shown(key: str) -> str:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key)
    return text if len(text) <= 60 else f"{text[:30]}...{text[-10:]}"


def _outcome(odd: OddImage) -> str:
    if odd.size is None:
        return f"failed: {odd.reason}" if odd.is_input else "passed over"
    return f"encoded{', with a note' if odd.has_note else ''}, {odd.size[0]:,} x {odd.size[1]:,} px"
