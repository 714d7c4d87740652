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

What no reader can help: an image of one patch alone, at most 16 x 16 px, is encoded from the right pixels, but the
bundled model gives it back in other colours.
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
